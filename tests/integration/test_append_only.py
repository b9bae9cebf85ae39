"""Append-only tables: what comes from other nodes, what becomes of it when the policy changes, and the command line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common.config.model import Config
from common.ops.migration import migrate
from common.versions import Version
from consumer.part import ConsumerPart
from consumer.reshaped import ReshapedRetries
from producer.watch import CaptureWatch
from tests.support.applying import DATABASES, Origin, TestClock, World, Write, world_on

APPEND_ONLY = {"policy": {"item": "append-only"}}
FIRST = Version(0, 10, "a")


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path, tables=APPEND_ONLY) as made:
        yield made


def with_policy(world: World, policy: str) -> World:
    """The node after its configuration was changed and it was started again."""
    node = world.node
    given = node.config.model_dump(mode="json") | {"tables": {"policy": {"item": policy}}}
    return World(replace(node, config=Config.model_validate(given)), world.clock)


def reasons(world: World) -> list[tuple[str, str]]:
    return [(reason, state) for _, reason, state in world.letters()]


def test_updates_and_deletes_of_others_are_set_aside_and_the_stream_goes_on(world: World) -> None:
    a = Origin("a")
    world.receive(
        a.put(1, "one", 10).body,
        a.put(1, "changed", 20, FIRST, "U").body,
        # given a tx that inserts as well: it stays whole
        a.tx(
            Write("I", "parent", {"id": 1, "name": "p"}, 25),
            Write("D", "item", {"id": 1, "name": "one"}, 30, base=FIRST),
        ).body,
        a.put(2, "two", 40).body,
    )

    assert [row[:2] for row in world.rows()] == [(1, "one"), (2, "two")]
    assert world.rows("parent") == []
    assert reasons(world) == [("policy", "dead"), ("policy", "dead")]
    assert world.watermark("a") == a.lsn
    assert {table for (table,) in world.query("SELECT table_name FROM rf_dead_letter")} == {"item"}


@pytest.mark.parametrize("swapped", [False, True])
def test_of_two_inserts_of_one_key_the_later_stands(world: World, swapped: bool) -> None:
    bodies = [Origin("a").put(1, "one", 10).body, Origin("b").put(1, "uno", 20).body]
    world.receive(*(reversed(bodies) if swapped else bodies))

    assert [row[1] for row in world.rows()] == ["uno"]
    assert world.query("SELECT kind, rule, state FROM rf_conflict") == [("insert", "append-only", "settled")]
    assert world.letters() == []


def test_a_large_tx_in_parts_is_set_aside_too(world: World) -> None:
    a = Origin("a")
    rows = [Write("I", "parent", {"id": n, "name": "x" * 500}, 100 + n) for n in range(20)]
    update = Write("U", "item", {"id": 1, "name": "y", "price": "1.50"}, 200, FIRST)
    parts = a.tx(*rows, update).parts(4096)
    assert len(parts) > 1
    world.receive(*parts)

    assert reasons(world) == [("policy", "dead")]
    assert world.rows("parent") == []


def test_run_tries_again_once_the_policy_is_another(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body, a.put(1, "changed", 20, FIRST, "U").body)
    world.clock.pass_seconds(5)

    # when the node is started again with another policy
    again = with_policy(world, "lww")
    assert CaptureWatch(again.node).look() == ["item"]
    retries = ReshapedRetries(again.node, None, threading.Event())
    assert retries.step(0)
    retries.close()

    assert [row[1] for row in world.rows()] == ["changed"]
    assert reasons(world) == [("policy", "replayed")]
    world.execute("UPDATE item SET name = 'here'")


def test_migrate_tries_again_what_may_be_applied_now_and_nothing_else(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body, a.put(1, "changed", 20, FIRST, "U").body)
    assert ConsumerPart().after_migrate(world.node) == 0
    assert world.query("SELECT attempts FROM rf_dead_letter") == [(1,)]

    again = with_policy(world, "main-wins")
    migrate(again.node.database, again.node.config, TestClock())
    assert ConsumerPart().after_migrate(again.node) == 1
    assert [row[1] for row in world.rows()] == ["changed"]


def test_a_policy_that_comes_later_guards_and_says_so(world: World) -> None:
    free = with_policy(world, "lww")
    assert CaptureWatch(free.node).look() == ["item"]
    world.execute("INSERT INTO item VALUES (1, 'a', 1)", "UPDATE item SET name = 'b'")

    assert CaptureWatch(world.node).look() == ["item"]
    assert CaptureWatch(world.node).look() == []
    with pytest.raises(Exception, match="item is append-only"):
        world.execute("UPDATE item SET name = 'c'")


def test_a_choice_between_two_inserts_is_taken(world: World) -> None:
    world.receive(Origin("a").put(1, "one", 10).body, Origin("b").put(1, "uno", 20).body)
    row = {"id": 1, "name": "one", "price": "1.50"}
    settled = (Version(0, 10, "a"), Version(0, 20, "b"))
    chosen = Write("U", "item", row, 30, Version(0, 20, "b"), resolves=settled)
    world.receive(Origin("c").tx(chosen).body)

    assert [row[1] for row in world.rows()] == ["one"]
    assert world.letters() == []
