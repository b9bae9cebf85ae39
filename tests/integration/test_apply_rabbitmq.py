"""The intake on a real broker: from the queue into the database, dead letters into the dead queue and back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.ports.part import Service
from common.ports.sink import Envelope, Sink
from common.runtime.transports import open_dead_letter_mirror
from common.transports.rabbitmq import RabbitSettings, open_sink
from consumer import reshaped
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.part import part
from tests.support.applying import Origin, Tx, World, Write, close_world, item, open_world, outcomes, sqlite_url
from tests.support.rabbitmq import raw_channel
from tests.support.waiting import wait_for

SECONDS = 30


@pytest.fixture
def world(tmp_path: Path, rabbitmq_url: str) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path), broker={"url": rabbitmq_url})
    yield made
    close_world(made)


@pytest.fixture
def intake(world: World) -> Iterator[Service]:
    service, *_ = part.services(world.node, threading.Event())
    service.step(0)  # declares the node's queue, which a publisher may not
    yield service
    service.close()


@pytest.fixture
def sink(rabbitmq_url: str, intake: Service) -> Iterator[Sink]:
    made = open_sink(RabbitSettings(url=rabbitmq_url, node_id="a", channel="default"), lambda: None)
    yield made
    made.close()


def send(sink: Sink, *txs: Tx) -> None:
    for tx in txs:
        for body in tx.parts(4096):
            header = tx.header
            sink.send(Envelope(body, "a", header.incarnation, header.from_lsn, header.to_lsn, tx.tx_id))
    sink.flush(SECONDS)


def take_until_a_letter(world: World, intake: Service) -> None:
    def arrived() -> bool:
        intake.step(0.1)
        return bool(world.letters())

    wait_for(arrived, SECONDS, "the dead letter")


def test_from_the_queue_into_the_database(world: World, intake: Service, sink: Sink) -> None:
    a = Origin("a")
    large = a.tx(*(item(100 + number, "x" * 300, 1000 + number) for number in range(60)))
    send(sink, a.put(1, "one", 2000), large, a.put(2, "two", 2001))

    def arrived() -> bool:
        intake.step(0.1)
        return world.watermark("a") == a.lsn

    wait_for(arrived, SECONDS, "all batches to be applied")
    assert len(world.rows()) == 62
    assert world.letters() == []


def test_a_dead_letter_lies_in_the_dead_queue_until_it_is_replayed(world: World, intake: Service, sink: Sink) -> None:
    dead = Origin("a").tx(item(1, "x", 10), Write("I", "code", {"id": 9, "code": "taken"}, 11))
    world.block_codes()
    send(sink, dead)
    take_until_a_letter(world, intake)
    mirror = open_dead_letter_mirror(world.node)
    assert mirror is not None
    copies = BrokerCopies(world.node, mirror)
    try:
        (copy,) = copies.read_all()
        assert (copy.tx_id, copy.body, copy.reason, copy.source_node) == (dead.tx_id, dead.body, "constraint", "a")
        world.free_codes()
        world.execute("DELETE FROM rf_dead_letter")
        desk = DeadLetters(world.node, copies)
        assert desk.restore_from_queue() == 1
        assert outcomes(desk.replay(Selection(), Replay("tester"), lambda _: None)) == ["applied"]
        assert copies.read_all() == []
    finally:
        copies.close()
    assert [row[1] for row in world.rows()] == ["x"]


def test_a_copy_is_taken_off_once_its_letter_is_closed_by_what_came(
    world: World, intake: Service, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a whole copy of the batch here; so by a late parent, `rowferry migrate` or an import beside `run`."""
    monkeypatch.setattr(reshaped, "_COPIES_SECONDS", 0.0)
    stop = threading.Event()
    (beside,) = (one for one in part.services(world.node, stop) if one.name == "reshaped")
    tx = Origin("a").put(1, "one", 10)
    altered = tx.body.replace(b"one", b"two")
    header = tx.header
    sink.send(Envelope(altered, "a", header.incarnation, header.from_lsn, header.to_lsn, tx.tx_id))
    sink.flush(SECONDS)
    take_until_a_letter(world, intake)
    send(sink, tx)

    def applied() -> bool:
        intake.step(0.1)
        return bool(world.rows())

    wait_for(applied, SECONDS, "the whole batch")
    mirror = open_dead_letter_mirror(world.node)
    assert mirror is not None
    copies = BrokerCopies(world.node, mirror)
    try:
        assert len(copies.read_all()) == 1
        beside.step(0)
        assert copies.read_all() == []
    finally:
        copies.close()
        beside.close()


def test_a_copy_that_another_looker_holds_is_taken_off_later(
    world: World, intake: Service, sink: Sink, rabbitmq_url: str
) -> None:
    """Two terminals that replay at once: each goes through the whole queue, but for what the other holds."""
    dead = Origin("a").tx(Write("I", "code", {"id": 9, "code": "taken"}, 11))
    world.block_codes()
    send(sink, dead)
    take_until_a_letter(world, intake)
    mirror = open_dead_letter_mirror(world.node)
    assert mirror is not None
    copies = BrokerCopies(world.node, mirror)
    world.free_codes()
    try:
        with raw_channel(rabbitmq_url) as held:
            held.basic_get("rowferry.dead.here")
            assert outcomes(DeadLetters(world.node, copies).replay(Selection(), Replay("tester"), lambda _: None)) == [
                "applied"
            ]
        wait_for(lambda: len(copies.read_all()) == 1, SECONDS, "the copy to be back")
        assert copies.remove_settled() == 1
        assert copies.read_all() == []
        assert copies.remove_settled() == 0
    finally:
        copies.close()


def test_a_copy_that_is_gone_is_not_looked_for_for_ever(world: World, intake: Service, sink: Sink) -> None:
    dead = Origin("a").tx(Write("I", "code", {"id": 9, "code": "taken"}, 11))
    world.block_codes()
    send(sink, dead)
    take_until_a_letter(world, intake)
    mirror = open_dead_letter_mirror(world.node)
    assert mirror is not None
    copies = BrokerCopies(world.node, mirror)
    try:
        mirror.remove([dead.tx_id])
        world.free_codes()
        DeadLetters(world.node).replay(Selection(), Replay("tester"), lambda _: None)
        assert copies.remove_settled() == 0
        world.clock.pass_seconds(3_600)
        assert copies.remove_settled() == 1
        assert copies.remove_settled() == 0
    finally:
        copies.close()
