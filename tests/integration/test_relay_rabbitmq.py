"""The relay on a real RabbitMQ: a broker that dies or knows nobody costs time, never a tx."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.ports.sink import Sink
from common.retry import Growth
from common.runtime.supervisor import Patience, Supervisor
from common.transports.rabbitmq import RabbitSource, open_sink, open_source
from common.wire.decode import read_body
from common.wire.records import Part
from producer.cursors import Cursors
from producer.log import NodeLogs
from producer.packing import Packing
from producer.relay import Relay
from tests.support.producing import FACTS, INCARNATION, MemoryDatabase
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import settings
from tests.support.waiting import wait_for

PATIENCE = Patience(outage=Growth(0.1, 1.0), idle_seconds=0.1)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[MemoryDatabase]:
    made = MemoryDatabase(tmp_path / "node.db")
    yield made
    made.close()


@contextmanager
def relaying(database: MemoryDatabase, url: str, on_open: Callable[[Sink], object] = lambda _: None) -> Iterator[Relay]:
    """A supervised relay to the broker at `url`; `on_open` is told of each sink."""
    stop = threading.Event()

    def open_rabbit(on_confirmed: Callable[[], None]) -> Sink:
        sink = open_sink(settings(url, FACTS.node_id), on_confirmed)
        on_open(sink)
        return sink

    relay = Relay(
        "broker",
        open_rabbit,
        NodeLogs(database.as_port, FACTS),
        Cursors(database.as_port, SystemClock()),
        Packing(max_batch_bytes=8192, message_bytes=4096),
        stop,
    )
    thread = threading.Thread(target=Supervisor([relay], stop, PATIENCE).run)
    thread.start()
    try:
        yield relay
    finally:
        stop.set()
        thread.join(60)
        assert not thread.is_alive()


def wait_for_cursor(database: MemoryDatabase, lsn: int) -> None:
    cursors = Cursors(database.as_port, SystemClock())
    wait_for(lambda: cursors.load("broker", INCARNATION) == lsn, 60, f"the cursor at {lsn}")


def read_txs(source: RabbitSource, until: str) -> list[str]:
    """Read, and acknowledge, until the tx `until` has come; return the tx ids as they came."""
    found: list[str] = []

    def last_came() -> bool:
        deliveries = source.receive(100, 1.0)
        for delivery in deliveries:
            found.extend(part.header.tx_id for part in read_body(delivery.body) if isinstance(part, Part))
        source.ack(deliveries)
        return until in found

    wait_for(last_came, 60, f"tx {until}")
    return found


def test_waits_until_somebody_listens(database: MemoryDatabase, rabbitmq_url: str) -> None:
    log = database.logs[INCARNATION]
    expected = [log.add(f"early {number}").header.tx_id for number in range(50)]
    with relaying(database, rabbitmq_url) as relay:
        source = open_source(settings(rabbitmq_url, "office"))
        try:
            wait_for_cursor(database, 50)
            for number in range(50):
                expected.append(log.add(f"late {number}").header.tx_id)
                relay.wake()
            wait_for_cursor(database, 100)
            assert list(dict.fromkeys(read_txs(source, expected[-1]))) == expected
        finally:
            source.close()


def test_a_broker_that_is_killed_under_a_stream(database: MemoryDatabase, private_rabbitmq: RabbitServer) -> None:
    url, log = private_rabbitmq.url(), database.logs[INCARNATION]
    open_source(settings(url, "office")).close()
    expected = [log.add(f"before {number} " + "x" * 500).header.tx_id for number in range(2000)]
    with relaying(database, url) as relay:
        cursors = Cursors(database.as_port, SystemClock())
        wait_for(lambda: cursors.load("broker", INCARNATION) > 0, 60, "a stream under way")
        private_rabbitmq.restart()
        expected += [log.add(f"after {number}").header.tx_id for number in range(100)]
        relay.wake()
        wait_for_cursor(database, 2100)
    source = open_source(settings(url, "office"))
    try:
        assert list(dict.fromkeys(read_txs(source, expected[-1]))) == expected
    finally:
        source.close()


def test_no_connection_is_left_behind_by_a_database_that_is_away(
    database: MemoryDatabase, tmp_path: Path, rabbitmq_url: str
) -> None:
    open_source(settings(rabbitmq_url, "office")).close()
    database.logs[INCARNATION].add("late")
    file, aside = tmp_path / "node.db", tmp_path / "aside"
    file.rename(aside)
    file.mkdir()
    made: list[Sink] = []
    with relaying(database, rabbitmq_url, made.append):
        wait_for(lambda: len(made) >= 3, 60, "several tries")
        file.rmdir()
        aside.rename(file)
        wait_for_cursor(database, 1)
        # Each has a thread and a connection of its own.
        assert sum(thread.name == "rowferry-rabbitmq-publisher" for thread in threading.enumerate()) == 1
