"""SIGKILL in the middle of purging: what is committed is whole, and the next purge goes on."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from common.clock import SystemClock
from common.crash_points import CrashPoint, arm
from common.dialects import open_database
from common.errors import OutageError
from common.ops.passed import note_passed
from common.runtime.node import Node, read_facts
from common.versions import Version
from consumer.purge import purge_received
from consumer.statements import writing
from producer.purge import purge_log
from tests.support.applying import Origin, TestClock, World, config_for, item
from tests.support.applying_child import run_child

KILLED = -signal.SIGKILL
ROWS = 60
IN_A_YEAR_US = 400 * 86_400_000_000


def purge_or_die(url: str, at_us: int, point: str | None, passes: int) -> None:
    """In a process of its own: purge both sides; die when `point` is reached for the n-th time."""
    config = config_for(url)
    database = open_database(url)
    node = Node(config, database, read_facts(database, config), TestClock(at_us))
    if point is not None:
        arm(CrashPoint(point), after_passes=passes)
    purge_received(node, actor="test")
    purge_log(node, actor="test")
    database.close()


def filled(world: World) -> None:
    """Many rows that came and were deleted again, and a log of this node's own with a large tx in it."""
    a = Origin("a")
    for number in range(1, ROWS + 1):
        world.receive(
            a.tx(item(number, "x", number), item(number, "x", 1_000 + number, Version(0, number, "a"), "D")).body
        )
    world.clock.us = SystemClock().now_us()
    sealer = world.node.database.sealer(world.node.facts)
    for first in (1_000, 2_000):
        values = ", ".join(f"({first + number}, 'own', 1)" for number in range(100))
        world.execute(f"INSERT INTO item VALUES {values}")
        while sealer.seal().more:
            pass
    facts = world.node.facts
    passed = {("a", "inc1"): a.lsn, (facts.node_id, facts.incarnation): 200}
    writing(world.node.database, lambda one: note_passed(one, "a", passed, world.clock.us))


def log_is_whole(world: World) -> None:
    """Every tx that is still there has all of its lines; nothing else is read."""
    for tx in world.node.database.log(world.node.facts).read(0, 2**30):
        assert len(list(tx.lines())) == tx.header.to_lsn - tx.header.from_lsn + 1


@pytest.mark.parametrize("point", [CrashPoint.PURGING, CrashPoint.PURGED])
def test_killed_at_any_piece_it_goes_on(world: World, point: CrashPoint) -> None:
    filled(world)
    url, at_us = world.node.config.node.database, world.clock.us + IN_A_YEAR_US
    rows, deaths = world.rows(), 0
    for passes in range(40):
        code = run_child(purge_or_die, url, at_us, point.value, 2 * passes)
        log_is_whole(world)
        forgotten = ROWS - world.one("SELECT count(*) FROM rf_row_version WHERE deleted")
        horizon = world.query("SELECT hlc FROM rf_horizon")
        # Whatever is forgotten lies below the horizon: the rows were deleted in order of their clocks.
        assert not forgotten or horizon[0][0] >= 1_000 + forgotten
        if code == 0:
            break
        assert code == KILLED
        deaths += 1
    else:
        pytest.fail("it never came to its end")
    assert deaths > 1
    assert run_child(purge_or_die, url, at_us, None, 0) == 0
    for table in ("rf_tx", "rf_change_log", "rf_purge_tombstone", "rf_purge_round"):
        assert world.one(f"SELECT count(*) FROM {table}") == 0, table
    assert world.one("SELECT count(*) FROM rf_row_version WHERE deleted") == 0
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 1
    assert world.rows() == rows
    late = Origin("b").put(5, "risen", 900)
    world.receive(late.body)
    assert world.rows() == rows
    assert world.letters() == [(late.tx_id, "older-than-tombstones", "dead")]


def test_who_reads_what_is_being_purged_is_told(world: World) -> None:
    filled(world)
    txs = list(world.node.database.log(world.node.facts).read(0, 1))
    world.execute("UPDATE rf_tx SET bytes = 20000000")
    large = list(world.node.database.log(world.node.facts).read(0, 1))
    late = replace(world.node, clock=TestClock(world.clock.us + IN_A_YEAR_US))
    purge_log(late, actor="test")
    assert len(list(txs[0].lines())) == 100
    with pytest.raises(OutageError, match="purged"):
        list(large[0].lines())
