"""Early txs on RabbitMQ's clock: they come again through the node's retry queue, and the table stays the truth."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import OutageError
from common.ports.dead_letters import Retry
from common.runtime.node import Node
from common.transports.rabbitmq import RabbitDeadLetters, queue_depths, settings_from
from common.transports.rabbitmq.declare import declare_for_consumer
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.retries import delay_seconds
from consumer.intake import Intake
from consumer.part import part
from tests.integration.test_dead_letters_operations import MemoryMirror
from tests.support.applying import Origin, World, Write, close_world, open_world, sqlite_url
from tests.support.rabbitmq import raw_channel
from tests.support.waiting import wait_for


def child(row_id: int, parent_id: int, hlc: int) -> Write:
    return Write("I", "child", {"id": row_id, "parent_id": parent_id}, hlc)


def parent(row_id: int, hlc: int) -> Write:
    return Write("I", "parent", {"id": row_id, "name": "p"}, hlc)


class Timer(MemoryMirror):
    """A mirror that keeps what is to be retried."""

    def __init__(self) -> None:
        super().__init__()
        self.retries: list[Retry] = []

    def retry_all(self, retries: list[Retry]) -> None:
        if self.away:
            raise OutageError("the broker is away")
        self.retries += retries


def again(world: World, one: Retry) -> None:
    """Let a retry come back, as the broker does."""
    headers = {**one.headers, "rowferry_retries": one.before + 1}
    world.receive(one.body, source_node=one.headers["source_node"], headers=headers)


def test_an_early_tx_is_sent_to_come_again_once_each_time_it_came(world: World) -> None:
    timer = Timer()
    world.intake(copies=BrokerCopies(world.node, timer))
    a = Origin("a")
    tx = a.tx(child(1, 7, 10))
    world.receive(tx.body)
    (one,) = timer.retries
    assert (one.tx_id, one.body, one.before, one.headers["source_node"]) == (tx.tx_id, tx.body, 0, "a")
    world.clock.pass_seconds(30)
    world.intakes[-1].step(0)
    assert len(timer.retries) == 1, "the table's clock asks the broker for nothing"
    again(world, one)
    assert [two.before for two in timer.retries] == [0, 1]
    assert world.letters_open() == [(tx.tx_id, "foreign-key", "early")]
    world.receive(a.tx(parent(7, 11)).body)
    assert (world.letters_open(), len(world.rows("child"))) == ([], 1)
    again(world, timer.retries[-1])
    again(world, timer.retries[-1])
    assert (world.letters_open(), len(world.rows("child")), len(timer.retries)) == ([], 1, 2)


def test_a_broker_that_takes_no_retry_stops_nothing(world: World) -> None:
    timer = Timer()
    world.intake(copies=BrokerCopies(world.node, timer))
    timer.away = True
    a = Origin("a")
    world.receive(a.tx(child(1, 7, 10)).body)
    assert len(world.source.acked) == 1
    world.receive(a.tx(parent(7, 11)).body)
    assert world.letters_open() == []


def test_past_its_limit_it_is_dead_and_a_late_parent_lets_it_in(world: World) -> None:
    a = Origin("a")
    tx = a.tx(child(1, 7, 10))
    world.receive(tx.body)
    world.clock.pass_seconds(world.node.config.limits.early_seconds + 61)
    world.intakes[-1].step(0)
    assert world.letters() == [(tx.tx_id, "foreign-key", "dead")]
    error, table = world.query("SELECT error, table_name FROM rf_dead_letter")[0]
    assert table == "parent"
    assert "7" in error.partition("parent that is not here")[2]
    world.receive(a.tx(parent(7, 11)).body)
    assert (world.letters_open(), len(world.rows("child"))) == ([], 1)


def test_orphans_are_not_tried_with_every_tx_of_a_busy_table(world: World) -> None:
    a = Origin("a")
    tx = a.tx(child(1, 7, 10))
    world.receive(tx.body)
    world.clock.pass_seconds(world.node.config.limits.early_seconds + 61)
    world.intakes[-1].step(0)
    tries, told = "SELECT attempts FROM rf_dead_letter", "SELECT count(*) FROM rf_audit WHERE action = 'set-aside'"
    before, lines = world.one(tries), world.one(told)
    for number in range(20, 30):
        world.receive(a.tx(parent(number, number)).body)
        world.clock.pass_seconds(1)
    assert world.one(tries) == before + 1
    world.receive(a.tx(parent(7, 40)).body)
    assert len(world.letters_open()) == 1, "its table's turn has not come"
    world.clock.pass_seconds(61)
    world.intakes[-1].step(0)
    assert (world.letters_open(), len(world.rows("child"))) == ([], 1)
    assert world.one(told) == lines


def test_a_parent_that_came_while_nobody_looked_lets_it_in_at_the_next_start(world: World) -> None:
    a = Origin("a")
    world.receive(a.tx(child(1, 7, 10)).body)
    world.clock.pass_seconds(world.node.config.limits.early_seconds + 61)
    world.intakes[-1].step(0)
    world.execute("INSERT INTO parent VALUES (7, 'by the application')")
    world.intake().step(0)
    world.clock.pass_seconds(1)
    world.intakes[-1].step(0)
    assert (world.letters_open(), len(world.rows("child"))) == ([], 1)


def test_the_table_lost_the_retry_brings_the_tx_back(world: World) -> None:
    timer = Timer()
    world.intake(copies=BrokerCopies(world.node, timer))
    tx = Origin("a").tx(child(1, 7, 10))
    world.receive(tx.body)
    with world.node.database.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM rf_dead_letter")
        connection.exec_driver_sql("DELETE FROM rf_sync_state")
    again(world, timer.retries[0])
    assert world.letters_open() == [(tx.tx_id, "foreign-key", "early")]


def test_delays_grow_to_a_minute() -> None:
    waits = [delay_seconds(number) for number in range(8)]
    assert 5 <= waits[0] <= 6
    assert 10 <= waits[1] <= 11
    assert all(60 <= one <= 61 for one in waits[4:])
    assert delay_seconds(10**6) <= 61


@pytest.fixture
def on_broker(tmp_path: Path, rabbitmq_url: str) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path), broker={"url": rabbitmq_url})
    declare_for_consumer(settings_from("here", made.node.config.broker))  # type: ignore[arg-type]
    yield made
    close_world(made)


@pytest.mark.containers
def test_it_waits_in_the_nodes_retry_queue_and_comes_back(on_broker: World, rabbitmq_url: str) -> None:
    node: Node = on_broker.node
    intake, *rest = part.services(node, threading.Event())
    assert isinstance(intake, Intake)
    a = Origin("a")
    tx = a.tx(child(1, 7, 10))
    settings = settings_from("here", node.config.broker)  # type: ignore[arg-type]

    def publish(body: bytes) -> None:
        import pika

        properties = pika.BasicProperties(headers={"source_node": "a"}, delivery_mode=2)
        with raw_channel(rabbitmq_url) as channel:
            channel.basic_publish("rowferry.changes", "default.a", body, properties)

    def step_until(done: Any, what: str) -> None:
        wait_for(lambda: intake.step(0.1) is None or done(), 30, what)

    try:
        intake.step(0)
        publish(tx.body)
        step_until(lambda: on_broker.letters_open() != [], "the early letter")
        assert queue_depths(settings)["rowferry.retry.here"] == 1
        attempts = "SELECT attempts FROM rf_dead_letter"
        first = on_broker.one(attempts)
        wait_for(lambda: queue_depths(settings)["rowferry.retry.here"] == 0, 60, "the retry to leave its queue")
        step_until(lambda: on_broker.one(attempts) > first, "the retry to be tried")
        publish(a.tx(parent(7, 11)).body)
        step_until(lambda: on_broker.letters_open() == [], "the parent to let it in")
        assert len(on_broker.rows("child")) == 1
    finally:
        for service in (intake, *rest):
            service.close()


@pytest.mark.containers
def test_a_full_retry_queue_refuses_and_loses_nothing(on_broker: World) -> None:
    settings = settings_from("here", on_broker.node.config.broker)  # type: ignore[arg-type]
    letters = RabbitDeadLetters(settings)
    letters.retry_all([Retry("t1", b"x" * 100, {"source_node": "a"}, False, 0, 60.0)])
    assert queue_depths(settings)["rowferry.retry.here"] == 1
    letters.close()
