"""The RabbitMQ source: nothing is gone before its ack, and nothing comes to whom it is not meant for."""

from __future__ import annotations

import struct
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest

from common.errors import OutageError
from common.transports.rabbitmq import open_source, queue_depths
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import (
    WAIT_SECONDS,
    bodies,
    drain,
    publish,
    queue,
    raw_channel,
    receive,
    settings,
    source,
    vhost_of,
)
from tests.support.waiting import wait_for

QUEUE = "rowferry.node.store-2"


@pytest.fixture(params=["rabbitmq_url", "rabbitmq310_url"])
def any_url(request: pytest.FixtureRequest) -> str:
    """A fresh vhost on each version that is supported."""
    return str(request.getfixturevalue(request.param))


def _connections(server: RabbitServer, url: str, role: str) -> list[Any]:
    found = server.management("GET", f"/api/vhosts/{vhost_of(url)}/connections")
    return [one for one in found if one.get("client_properties", {}).get("connection_name", "").endswith(role)]


def _cut(server: RabbitServer, url: str, role: str) -> None:
    """Have the broker close the connections of one role, as a restart of it would."""
    # The list of connections lags behind by the broker's statistics interval.
    for one in wait_for(lambda: _connections(server, url, role), WAIT_SECONDS, f"the connection of the {role}"):
        server.management("DELETE", "/api/connections/" + urllib.parse.quote(one["name"], safe=""))


@pytest.mark.containers
def test_unacknowledged_come_again_and_acknowledged_do_not(any_url: str) -> None:
    configured = settings(any_url, "store-2")
    with source(configured) as consumer:
        publish(settings(any_url), *range(1, 7))
        got = receive(consumer, 6)
        assert [(one.redelivered, one.attempts) for one in got] == [(False, 0)] * 6
        # Not from the oldest on: some as one range, some alone.
        consumer.ack([got[0], got[1], got[3]])
    with source(configured) as consumer:
        again = receive(consumer, 3)
        assert [one.body for one in again] == [got[2].body, got[4].body, got[5].body]
        assert [(one.redelivered, one.attempts) for one in again] == [(True, 1)] * 3
        consumer.ack(again)
    wait_for(lambda: queue_depths(configured)[QUEUE] == 0, WAIT_SECONDS, "an empty queue")


def test_a_cut_connection_is_an_outage_and_loses_nothing(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    publish_to = settings(rabbitmq_url)
    with source(configured) as consumer:
        publish(publish_to, 1, 2, 3)
        got = receive(consumer, 2)
        _cut(rabbitmq, rabbitmq_url, "consumer")
        with pytest.raises(OutageError):
            wait_for(lambda: consumer.receive(10, 1) is None, WAIT_SECONDS, "the outage")
        with pytest.raises(OutageError):
            consumer.ack(got)
    with source(configured) as consumer:
        assert drain(consumer, 3) == bodies(1, 3)


def test_an_ack_of_another_connections_delivery_is_refused(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    with source(configured) as first:
        publish(settings(rabbitmq_url), 1)
        old = receive(first, 1)
    with source(configured) as second:
        with pytest.raises(OutageError, match="comes again"):
            second.ack(old)
        assert drain(second, 1) == ["body 1"]


def test_acknowledging_twice_does_no_harm(rabbitmq_url: str) -> None:
    with source(settings(rabbitmq_url, "store-2")) as consumer:
        publish(settings(rabbitmq_url), 1)
        got = receive(consumer, 1)
        consumer.ack(got)
        consumer.ack(got)
        publish(settings(rabbitmq_url), 2)
        assert drain(consumer, 1) == ["body 2"]


@pytest.mark.containers
@pytest.mark.parametrize("failed", [True, False])
def test_given_back_comes_again_and_counts_as_the_broker_counts(any_url: str, failed: bool) -> None:
    with source(settings(any_url, "store-2")) as consumer:
        publish(settings(any_url), 1)
        for attempt in range(4):
            [got] = receive(consumer, 1)
            assert got.attempts == attempt
            consumer.give_back([got], failed=failed)
        assert drain(consumer, 1) == ["body 1"]


def test_own_messages_are_dropped_unread(rabbitmq_url: str) -> None:
    own = settings(rabbitmq_url, "store-2")
    with source(own) as consumer:
        publish(own, 1, 2)
        publish(settings(rabbitmq_url), 3)
        publish(own, 4)
        assert drain(consumer, 1) == ["body 3"]
        assert consumer.receive(10, 0.5) == []
    assert queue_depths(own)[QUEUE] == 0


def test_only_the_listed_peers_are_heard(rabbitmq_url: str) -> None:
    with source(settings(rabbitmq_url, "store-2", listen=("store-1",))) as consumer:
        with source(settings(rabbitmq_url, "main")):
            publish(settings(rabbitmq_url, "store-3"), 1)
        publish(settings(rabbitmq_url), 2)
        assert drain(consumer, 1) == ["body 2"]


def test_prefetch_bounds_what_is_held(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    with source(settings(rabbitmq_url, "store-2", prefetch=3)) as consumer:
        publish(settings(rabbitmq_url), *range(1, 11))
        got = receive(consumer, 3)
        assert consumer.receive(10, 0.5) == []
        consumer.ack(got)
        assert drain(consumer, 7) == bodies(4, 10)


@pytest.mark.containers
def test_a_second_consumer_waits_until_the_first_is_gone(any_url: str) -> None:
    configured = settings(any_url, "store-2")
    with source(configured) as second_choice, source(configured) as waiting:
        publish(settings(any_url), 1, 2)
        got = receive(second_choice, 2)
        second_choice.ack(got[:1])
        assert waiting.receive(10, 0.5) == []
        second_choice.close()
        [again] = receive(waiting, 1)
        assert (again.body, again.redelivered) == (got[1].body, True)


@pytest.mark.heavy
def test_heartbeats_are_kept_while_the_owner_is_busy(rabbitmq_url: str) -> None:
    with source(settings(rabbitmq_url, "store-2", heartbeat_seconds=2)) as consumer:
        publish(settings(rabbitmq_url), 1)
        got = receive(consumer, 1)
        # The database takes its time: the broker would give up after two missed heartbeats.
        threading.Event().wait(7)
        consumer.ack(got)
        publish(settings(rabbitmq_url), 2)
        assert drain(consumer, 1) == ["body 2"]


def test_a_deleted_queue_is_an_outage_and_a_new_source_makes_it_anew(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    with source(configured) as consumer:
        with raw_channel(rabbitmq_url) as channel:
            channel.queue_delete(QUEUE)
        with pytest.raises(OutageError, match=r"cancelled the consumer.*deleted or expired"):
            consumer.receive(1, WAIT_SECONDS)
    with source(configured) as consumer:
        publish(settings(rabbitmq_url), 1)
        assert drain(consumer, 1) == ["body 1"]


def test_receive_waits_for_the_first_and_close_wakes_it(rabbitmq_url: str) -> None:
    consumer = open_source(settings(rabbitmq_url, "store-2"))
    assert consumer.receive(5, 0.05) == []
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            consumer.receive(1, WAIT_SECONDS)
        except OutageError as error:
            raised.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    consumer.close()
    consumer.close()
    waiter.join(WAIT_SECONDS)
    assert "closed" in str(raised[0])


@pytest.mark.containers
def test_messages_of_strangers_are_handed_on_with_what_is_wrong(any_url: str) -> None:
    with source(settings(any_url, "store-2", verify_user=True)) as consumer:
        with raw_channel(any_url) as channel:
            for headers, user in (
                (None, None),
                ({"source_node": b"\xff"}, None),
                (
                    {"source_node": "store-1", "rowferry_retries": 3, "rowferry_retry_of_verified": True},
                    "rowferry_test",
                ),
            ):
                properties = pika.BasicProperties(headers=headers, user_id=user)
                channel.basic_publish("rowferry.changes", "default.store-1", b"x", properties)
        got = receive(consumer, 3)
        assert [one.verified for one in got] == [False] * 3
        assert ["source_node" in str(one.headers["rowferry_identity_error"]) for one in got] == [True, True, False]
        assert [one.attempts for one in got] == [0] * 3
        assert "rowferry_retry_of_verified" not in got[2].headers


def _nested_tables(depth: int) -> bytes:
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + struct.pack(">I", len(table)) + table
    return table


@contextmanager
def _raw_headers(monkeypatch: pytest.MonkeyPatch, table: bytes) -> Iterator[None]:
    """Have pika send `table` as the headers of messages, whatever it holds."""

    def encode(pieces: list[bytes], _table: object) -> int:
        pieces.append(struct.pack(">I", len(table)) + table)
        return 4 + len(table)

    with monkeypatch.context() as patch:
        patch.setattr("pika.data.encode_table", encode)
        yield


@pytest.mark.containers
@pytest.mark.parametrize(
    "table",
    [
        pytest.param(b"\x01tT" + b"\xff" * 8, id="a date after all dates"),
        pytest.param(_nested_tables(2_000), id="tables in tables"),
        pytest.param(b"\x01\xfft\x01", id="a name that is not UTF-8"),
    ],
)
def test_headers_that_cannot_be_read_stop_nothing(
    any_url: str, table: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with source(settings(any_url, "store-2", verify_user=True)) as consumer:
        with raw_channel(any_url) as channel, _raw_headers(monkeypatch, table):
            properties = pika.BasicProperties(headers={"x": 1})
            channel.basic_publish("rowferry.changes", "default.store-1", b"bad", properties)
        publish(settings(any_url), 1)
        bad, good = receive(consumer, 2)
        assert (bad.body, good.body) == (b"bad", b"body 1\n")
        assert "source_node" in str(bad.headers["rowferry_identity_error"])
        consumer.ack([bad, good])


def test_names_that_are_not_text_stop_nothing(rabbitmq_url: str) -> None:
    with source(settings(rabbitmq_url, "store-2")) as consumer:
        with raw_channel(rabbitmq_url) as channel:
            properties = pika.BasicProperties(content_encoding=b"\xff", message_id=b"\xfe")
            channel.basic_publish("rowferry.changes", "default.ctl.store-2", b"x", properties)
        [got] = receive(consumer, 1)
        assert (got.content_encoding, got.headers["rowferry_message_id"]) == (r"b'\xff'", r"b'\xfe'")


def test_connections_are_named_after_node_and_role(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    with source(settings(rabbitmq_url, "store-2")):
        [one] = wait_for(lambda: _connections(rabbitmq, rabbitmq_url, "consumer"), WAIT_SECONDS, "the connection")
        assert one["client_properties"]["connection_name"] == "rowferry store-2 consumer"
        assert queue(rabbitmq, rabbitmq_url, QUEUE)["name"] == QUEUE


@pytest.mark.parametrize("gone", ["exchange", "binding"])
def test_a_deleted_exchange_or_binding_comes_back_by_itself(any_url: str, gone: str) -> None:
    """Nobody tells the consumer: its queue stands, and simply gets nothing any more."""
    with source(settings(any_url, "store-2", topology_check_seconds=0.1)) as consumer:
        with raw_channel(any_url) as channel:
            if gone == "exchange":
                channel.exchange_delete("rowferry.changes")
            else:
                channel.queue_unbind(QUEUE, "rowferry.changes", "default.*")
        made: list[bytes] = []

        def sent() -> bool:
            try:
                publish(settings(any_url), 1)
            except OutageError:
                made.extend(one.body for one in consumer.receive(10, 0.1))
                return False
            return True

        wait_for(sent, WAIT_SECONDS, "a message that finds a queue")
        assert not made
        assert drain(consumer, 1) == ["body 1"]


def test_what_is_beyond_the_bound_in_bytes_waits_in_a_file_and_is_given_back_whole(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2", prefetch_bytes=1000)
    with source(configured) as consumer:
        with raw_channel(rabbitmq_url) as channel:
            for number in range(20):
                properties = pika.BasicProperties(headers={"source_node": "store-1"})
                channel.basic_publish("rowferry.changes", "default.store-1", b"%02d" % number * 200, properties)
        got = receive(consumer, 20)
        assert [one.body for one in got] == [b"%02d" % number * 200 for number in range(20)]
        consumer.ack(got)
    assert queue_depths(configured)[QUEUE] == 0
