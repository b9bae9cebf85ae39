"""A node whose clock is ahead: its changes are applied, and somebody is told."""

from __future__ import annotations

import json
import logging

import pytest

from common.clock import from_us
from common.ops.status import ClockAhead
from common.ops.status_reading import read_standing
from common.versions import Version
from tests.integration.test_heartbeats import beat
from tests.support.applying import Origin, World, Write

HOUR = 3_600_000_000


def ahead(world: World) -> list[tuple[str, int]]:
    found = read_standing(world.node.database, world.node.config, world.node.facts, world.clock.us, {})
    assert any("clock" in reason for reason in found.attention) == bool(found.clocks_ahead)
    return [(one.node, one.ahead_us) for one in found.clocks_ahead]


def told(world: World) -> list[tuple[str, float]]:
    rows = world.query("SELECT source_node, detail FROM rf_audit WHERE action = 'clock-ahead' ORDER BY id")
    return [(source, json.loads(detail)["ahead_seconds"]) for source, detail in rows]


def test_it_is_applied_and_told_once_an_hour(world: World, caplog: pytest.LogCaptureFixture) -> None:
    a, now = Origin("a"), world.clock.us
    with caplog.at_level(logging.WARNING):
        world.receive(a.put(1, "now", now).body)
        assert (ahead(world), told(world)) == ([], [])
        world.receive(a.put(2, "soon", now + 300_000_000).body)
        assert (ahead(world), told(world)) == ([], [])
        world.receive(a.put(3, "one", now + HOUR).body, a.put(4, "two", now + 2 * HOUR).body)
        world.receive(a.put(5, "three", now + HOUR).body)
    assert [row[1] for row in world.rows()] == ["now", "soon", "one", "two", "three"]
    assert ahead(world) == [("a", HOUR)]
    assert told(world) == [("a", 7200.0)]
    assert [one.message for one in caplog.records].count("clock_ahead") == 1

    world.clock.pass_seconds(3_601)
    world.receive(a.put(6, "four", world.clock.us + HOUR).body)
    assert told(world) == [("a", 7200.0), ("a", 3600.0)]


def test_who_writes_on_top_of_a_future_write_is_not_to_blame(world: World) -> None:
    future = Version(0, world.clock.us + HOUR, "a")
    world.receive(Origin("a").put(1, "one", future.hlc).body)
    world.receive(Origin("b").put(1, "two", future.hlc + 1, future, "U").body)
    assert [row[1] for row in world.rows()] == ["two"]
    assert ahead(world) == [("a", HOUR)]


def test_it_ends_with_what_is_written_after_the_clock_was_set_right(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", world.clock.us + HOUR).body)
    # given something older that comes late: it says nothing of the clock as it is now
    world.receive(a.put(2, "two", world.clock.us - HOUR).body)
    assert ahead(world) == [("a", HOUR)]
    world.clock.pass_seconds(60)
    world.receive(a.put(3, "three", world.clock.us - 1_000_000).body)
    assert ahead(world) == []


def test_it_ends_with_a_heartbeat_after_the_clock_was_set_right(world: World) -> None:
    tx = Origin("a").put(1, "one", world.clock.us + HOUR)
    world.receive(tx.body)
    beat(world, 1, tx.tx_id, number=1, at=from_us(world.clock.us + HOUR + 60_000_000))
    assert ahead(world) == [("a", HOUR)]
    beat(world, 1, tx.tx_id, number=2)
    assert ahead(world) == []


def test_a_large_tx_in_parts_tells_of_its_clock_too(world: World) -> None:
    a = Origin("a")
    rows = [Write("I", "parent", {"id": n, "name": "x" * 500}, world.clock.us + HOUR + n) for n in range(20)]
    world.receive(*a.tx(*rows).parts(4096))
    assert ahead(world) == [("a", HOUR + 19)]
    assert len(told(world)) == 1


def test_what_is_set_aside_tells_nothing(world: World) -> None:
    row = {"id": 1, "name": "x", "price": "1.50"}
    world.receive(Origin("a").tx(Write("I", "nowhere", row, world.clock.us + HOUR)).body)
    assert (ahead(world), told(world)) == ([], [])


def test_the_sentence_says_what_to_do() -> None:
    assert str(ClockAhead("store-2", 4_000_500_000, 1)).startswith("the clock of store-2 is 4,000 s ahead")
