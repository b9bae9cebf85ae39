"""The broker's copies of dead letters, and delayed retries."""

from __future__ import annotations

import time

import pika
import pytest

from common.errors import OutageError
from common.ports.dead_letters import DeadLetter
from common.transports.rabbitmq import RabbitDeadLetters, RabbitSettings, queue_depths
from common.transports.rabbitmq.topology import node_queue
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import WAIT_SECONDS, node_user, publish, raw_channel, receive, settings, source
from tests.support.waiting import wait_for

DEAD_QUEUE = "rowferry.dead.store-2"


@pytest.fixture(params=["rabbitmq_url", "rabbitmq310_url"])
def configured(request: pytest.FixtureRequest) -> RabbitSettings:
    """A node whose topology stands, on each version that is supported."""
    made = settings(str(request.getfixturevalue(request.param)), "store-2")
    with source(made):
        return made


def _dead(number: int) -> DeadLetter:
    return DeadLetter(
        tx_id=f"tx-{number}",
        body=b"body %d\n" % number,
        reason="constraint",
        error="it was refused",
        source_node="store-1",
        attempts=3,
        first_failure="2026-01-01T00:00:00Z",
        last_failure="2026-01-02T00:00:00Z",
        origin="rowferry.node.store-2",
        extra={"lsn": number},
    )


def _publish(configured: RabbitSettings, *numbers: int) -> None:
    dead_letters = RabbitDeadLetters(configured)
    for number in numbers:
        dead_letters.publish(_dead(number))
    dead_letters.close()


@pytest.mark.containers
def test_published_ones_come_back_whole_and_in_order_however_often_read(configured: RabbitSettings) -> None:
    _publish(configured, *range(1, 7))
    dead_letters = RabbitDeadLetters(configured)
    for _ in range(3):
        assert dead_letters.read_all() == [_dead(number) for number in range(1, 7)]
    assert queue_depths(configured)[DEAD_QUEUE] == 6


@pytest.mark.containers
def test_remove_takes_the_named_ones_and_leaves_the_others_in_order(configured: RabbitSettings) -> None:
    _publish(configured, *range(1, 9))
    dead_letters = RabbitDeadLetters(configured)
    assert dead_letters.remove({"tx-3", "tx-8", "tx-99"}) == 2
    assert dead_letters.remove({"tx-3"}) == 0
    assert [one.tx_id for one in dead_letters.read_all()] == [f"tx-{number}" for number in (1, 2, 4, 5, 6, 7)]
    _publish(configured, 9)
    assert dead_letters.remove([f"tx-{number}" for number in range(1, 8)]) == 6
    assert [one.tx_id for one in dead_letters.read_all()] == ["tx-9"]


@pytest.mark.containers
def test_a_looker_that_dies_halfway_loses_nothing(configured: RabbitSettings) -> None:
    _publish(configured, *range(1, 7))
    with raw_channel(configured.url) as channel:
        for _ in range(3):
            channel.basic_get(DEAD_QUEUE)
    wait_for(lambda: queue_depths(configured)[DEAD_QUEUE] == 6, WAIT_SECONDS, "all six back")
    found = RabbitDeadLetters(configured).read_all()
    assert sorted(one.tx_id for one in found) == [f"tx-{number}" for number in range(1, 7)]


def test_many_looks_use_up_no_delivery_limit(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    with source(configured):
        pass
    _publish(configured, 1, 2)
    dead_letters = RabbitDeadLetters(configured)
    # RabbitMQ 4 would drop a message after 20 returns where nothing else is set.
    for _ in range(30):
        assert len(dead_letters.read_all()) == 2


def test_a_long_error_still_fits_into_the_headers(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    with source(configured):
        pass
    dead_letters = RabbitDeadLetters(configured)
    long = "ä" * 500_000
    dead_letters.publish(DeadLetter("tx-1", b"x", "format", error=long, source_node=long))
    dead_letters.close()
    [found] = dead_letters.read_all()
    assert found.error == found.source_node == "ä" * 2_000


def test_a_strangers_headers_cannot_break_a_retry(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    dead_letters = RabbitDeadLetters(configured)
    with source(configured) as consumer:
        with raw_channel(rabbitmq_url) as channel:
            headers = {"source_node": "x" * 60_000, "more": "y" * 60_000, "deep": {"a": [1, None, {"b": 2}]}}
            properties = pika.BasicProperties(headers=headers)
            channel.basic_publish("rowferry.changes", "default.x", b"body", properties)
        [one] = receive(consumer, 1)
        dead_letters.retry_later(one.body, one, 0.1)
        consumer.ack([one])
        [again] = receive(consumer, 1)
        assert (again.body, again.source_node) == (b"body", "x" * 2_000)
    dead_letters.close()


def test_without_the_queue_it_is_an_outage_and_the_next_call_connects_anew(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    dead_letters = RabbitDeadLetters(configured)
    with pytest.raises(OutageError):
        dead_letters.publish(_dead(1))
    with source(configured):
        pass
    dead_letters.publish(_dead(1))
    dead_letters.close()
    dead_letters.close()
    assert queue_depths(configured)[DEAD_QUEUE] == 1


@pytest.mark.containers
def test_a_retry_comes_back_after_its_delay_and_is_counted(configured: RabbitSettings) -> None:
    publish(settings(configured.url), 1)
    dead_letters = RabbitDeadLetters(configured)
    with source(configured) as consumer:
        [one] = receive(consumer, 1)
        for attempts in (1, 2):
            started = time.monotonic()
            dead_letters.retry_later(one.body, one, 1.0)
            consumer.ack([one])
            assert consumer.receive(1, 0.5) == []
            [one] = receive(consumer, 1)
            assert time.monotonic() - started >= 0.95
            assert (one.body, one.source_node, one.attempts) == (b"body 1\n", "store-1", attempts)
            assert one.headers["from_lsn"] == 1
            assert one.headers["rowferry_message_id"] == "tx-1"
        consumer.ack([one])
    dead_letters.close()
    assert queue_depths(configured)["rowferry.retry.store-2"] == 0


@pytest.mark.containers
def test_a_retry_waits_for_the_nodes_queue_where_that_is_gone(configured: RabbitSettings) -> None:
    publish(settings(configured.url), 1)
    dead_letters = RabbitDeadLetters(configured)
    with source(configured) as consumer:
        [first] = receive(consumer, 1)
        dead_letters.retry_later(first.body, first, 0.2)
        consumer.ack([first])
    dead_letters.close()
    with raw_channel(configured.url) as channel:
        channel.queue_delete(node_queue("store-2"))
    with source(configured) as consumer:
        [again] = receive(consumer, 1)
        assert again.body == b"body 1\n"
        consumer.ack([again])


def test_a_retry_keeps_what_was_proven_of_its_sender(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    for node in ("store-1", "store-2"):
        with source(settings(rabbitmq_url, node)):
            pass
    first = settings(node_user(rabbitmq, rabbitmq_url, "store-1"), "store-1")
    second = settings(node_user(rabbitmq, rabbitmq_url, "store-2"), "store-2", verify_user=True)
    publish(first, 1)
    publish(settings(rabbitmq_url), 2)
    dead_letters = RabbitDeadLetters(second)
    with source(second) as consumer:
        for one in receive(consumer, 2):
            dead_letters.retry_later(one.body, one, 0.1)
            consumer.ack([one])
        proven, not_proven = receive(consumer, 2)
        assert (proven.verified, proven.attempts) == (True, 1)
        assert "rowferry_identity_error" not in proven.headers
        assert "not proven" in str(not_proven.headers["rowferry_identity_error"])
        dead_letters.publish(_dead(1))
        assert dead_letters.remove({"tx-1"}) == 1
    dead_letters.close()
