"""The confirming channel against a broker that answers as the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pika
import pytest
from pika import spec

from common.errors import OutageError, RowferryError
from common.transports.rabbitmq.confirming import ConfirmingChannel
from common.transports.rabbitmq.messages import Outgoing
from common.transports.rabbitmq.settings import RabbitSettings


class FakeThread:
    """Stands for the I/O thread: runs what is posted at once, and lets the test speak for the broker."""

    def __init__(self, *_: Any, prepare: Callable[..., None], on_lost: Callable[[RowferryError], None]) -> None:
        self.prepare, self.lose, self.blocked, self.is_open = prepare, on_lost, False, True
        self.published: list[bytes] = []

    def start(self) -> None:
        self.prepare(self, lambda: None)

    def post(self, action: Callable[[], None]) -> None:
        action()

    def close(self) -> None:
        self.is_open = False

    def add_on_return_callback(self, callback: Callable[..., None]) -> None:
        self.returned = callback

    def confirm_delivery(self, on_confirm: Callable[[Any], None], callback: Callable[[Any], None]) -> None:
        self.confirm = on_confirm
        callback(None)

    def basic_publish(self, exchange: str, key: str, body: bytes, properties: Any, *, mandatory: bool) -> None:
        assert mandatory
        self.published.append(body)

    def ack(self, tag: int, multiple: bool = False) -> None:
        self.confirm(SimpleNamespace(method=spec.Basic.Ack(tag, multiple)))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> tuple[ConfirmingChannel, FakeThread]:
    threads: list[FakeThread] = []

    def make(*arguments: Any, **named: Any) -> FakeThread:
        threads.append(FakeThread(*arguments, **named))
        return threads[-1]

    monkeypatch.setattr("common.transports.rabbitmq.confirming.ChannelThread", make)
    settings = RabbitSettings(url="amqp://", node_id="a", blocked_timeout_seconds=0.3, window_messages=3)
    return ConfirmingChannel(settings, "publisher"), threads[0]


def send(channel: ConfirmingChannel, *numbers: int) -> None:
    for number in numbers:
        channel.publish(Outgoing("e", "k", b"%d" % number, pika.BasicProperties(message_id=f"tx-{number}")), number)


def test_confirms_out_of_order_move_the_prefix_alone(made: tuple[ConfirmingChannel, FakeThread]) -> None:
    channel, broker = made
    send(channel, 1, 2, 3)
    broker.ack(3)
    broker.ack(2)
    assert channel.position() == 0
    broker.ack(1)
    assert channel.position() == 3


def test_a_return_stands_before_its_own_ack(made: tuple[ConfirmingChannel, FakeThread]) -> None:
    channel, broker = made
    send(channel, 1, 2)
    method = SimpleNamespace(reply_text="NO_ROUTE", exchange="e", routing_key="k")
    broker.returned(None, method, pika.BasicProperties(message_id="tx-1"), b"1")
    broker.ack(2, multiple=True)
    with pytest.raises(OutageError, match="tx-1 came back"):
        channel.position()


def test_a_full_window_waits_and_a_silent_broker_is_an_outage(made: tuple[ConfirmingChannel, FakeThread]) -> None:
    channel, broker = made
    send(channel, 1, 2, 3)
    with pytest.raises(OutageError, match=r"confirms nothing for more than 0\.3 s"):
        send(channel, 4)
    assert broker.published == [b"1", b"2", b"3"]


def test_a_full_window_goes_on_with_the_first_confirm(made: tuple[ConfirmingChannel, FakeThread]) -> None:
    channel, broker = made
    send(channel, 1, 2, 3)
    confirming = threading.Timer(0.05, broker.ack, [1])
    confirming.start()
    send(channel, 4)
    confirming.join()
    assert broker.published[-1] == b"4"


def test_a_blocked_broker_is_named(made: tuple[ConfirmingChannel, FakeThread]) -> None:
    channel, broker = made
    broker.blocked = True
    send(channel, 1)
    with pytest.raises(OutageError, match="blocks publishers"):
        channel.wait_all(5)


def test_flush_ends_with_its_own_time_as_well(made: tuple[ConfirmingChannel, FakeThread]) -> None:
    channel, _ = made
    send(channel, 1)
    with pytest.raises(OutageError, match="1 messages are still unconfirmed"):
        channel.wait_all(0.05)


def test_a_lost_connection_wakes_who_waits(made: tuple[ConfirmingChannel, FakeThread]) -> None:
    channel, broker = made
    send(channel, 1)
    losing = threading.Timer(0.05, broker.lose, [OutageError("cut")])
    losing.start()
    with pytest.raises(OutageError, match="cut"):
        channel.wait_all(5)
    losing.join()
    broker.ack(1)
    with pytest.raises(OutageError, match="cut"):
        channel.position()
