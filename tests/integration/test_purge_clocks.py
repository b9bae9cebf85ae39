"""Purging, trying again and falling back by a clock that was wrong: an empty battery, an hour in another century."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from common.clock import SystemClock, from_iso, to_iso
from common.errors import OutageError
from common.ops.ages import DAY_US, Ages, look_at_clock
from common.ops.passed import note_passed
from common.ops.stalls import FRESH_US, still_looks
from common.versions import Version
from consumer.early import EarlyRetries
from consumer.purge import purge_received
from consumer.statements import writing
from consumer.tombstones import purge_tombstones
from producer.cursors import Cursors
from producer.purge import purge_log
from producer.road import BrokerRoad
from tests.support.applying import Origin, World, Write, seal_all
from tests.support.postgresql_node import PostgresNode
from tests.support.waiting import wait_for

BATTERY_EMPTY, NEXT_CENTURY = from_iso("2000-01-01"), from_iso("2099-01-01")
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'"


def by_itself(world: World, at_us: int) -> Ages:
    """What `run` goes by at that time of its clock."""
    world.clock.us = at_us
    return look_at_clock(world.node.database, world.clock)


def purged(world: World, at_us: int) -> int:
    """Purge as `run` does; return how much went."""
    ages = by_itself(world, at_us)
    found = purge_received(world.node, actor="test", ages=ages)
    return sum(one.rows for one in [*found, purge_log(world.node, actor="test", ages=ages)])


def steadily(world: World, days: int) -> int:
    """Let so many days pass, with a purge a day; return how much went in all."""
    return sum(purged(world, world.clock.us + DAY_US) for _ in range(days))


def sealed_at(world: World, lsn: int, us: int) -> None:
    world.execute(f"UPDATE rf_tx SET exported_at = '{to_iso(us)}' WHERE to_lsn = {lsn}")


def left(world: World) -> int:
    return int(world.one("SELECT count(*) FROM rf_tx"))


def test_what_was_written_before_the_clock_was_set_is_as_old_as_that(sender: World) -> None:
    now_us = sender.clock.us
    assert purged(sender, BATTERY_EMPTY) == 0
    sealed_at(sender, 1, BATTERY_EMPTY)
    assert purged(sender, now_us) == 0
    assert steadily(sender, 89) == 0
    assert left(sender) == 3
    assert steadily(sender, 3) == 3


@pytest.mark.parametrize("wrong", [NEXT_CENTURY, BATTERY_EMPTY])
def test_a_clock_that_is_wrong_for_a_moment_takes_nothing(sender: World, wrong: int) -> None:
    now_us = sender.clock.us
    a = Origin("a")
    born = a.put(9, "x", now_us - 1)
    gone = a.put(9, "x", now_us, Version(0, now_us - 1, "a"), "D")
    sender.receive(*(tx.body for tx in (born, gone)))
    before = [sender.query(f"SELECT count(*) FROM {name}") for name in ("rf_applied_tx", "rf_row_version", "rf_audit")]
    for at_us in (now_us, wrong, wrong + DAY_US // 24, now_us + DAY_US, wrong, now_us + 2 * DAY_US):
        assert purged(sender, at_us) == 0
    after = [sender.query(f"SELECT count(*) FROM {name}") for name in ("rf_applied_tx", "rf_row_version", "rf_audit")]
    assert (after, left(sender)) == (before, 3)
    assert sender.query("SELECT * FROM rf_horizon") == []


@pytest.mark.containers
def test_the_first_look_at_the_clock_may_be_two_at_once(pg_database: str) -> None:
    with PostgresNode(pg_database) as node, ThreadPoolExecutor() as beside:
        with node.application() as other:
            other.execute("INSERT INTO rf_purged (what, name, purged_us, rows) VALUES ('clock', '', 7, 0)")
            look = beside.submit(look_at_clock, node.database, SystemClock())
            wait_for(lambda: node.rows(WAITING), 30, "the look to wait for the other one")
        assert look.result(timeout=30).steady_us == 0
        assert node.rows("SELECT purged_us FROM rf_purged WHERE what = 'clock'") == [(7,)]


def test_a_node_that_is_off_for_a_few_days_counts_them(sender: World) -> None:
    now_us = sender.clock.us
    assert [by_itself(sender, now_us + days * DAY_US).steady_us for days in (0, 6, 12, 18)] == [0, 0, 0, 0]
    off_us = now_us + 40 * DAY_US
    assert by_itself(sender, off_us).steady_us == off_us
    assert by_itself(sender, off_us + DAY_US).steady_us == off_us
    assert by_itself(sender, off_us - DAY_US).steady_us == off_us - DAY_US
    assert Ages(100 * DAY_US, 69 * DAY_US).before(30) == 70 * DAY_US
    assert Ages(100 * DAY_US, 71 * DAY_US).before(30) == 0


def test_one_tx_of_the_next_century_does_not_keep_the_log(sender: World) -> None:
    """All tx_ids after it are of the next century too."""
    now_us = sender.clock.us
    sealed_at(sender, 1, NEXT_CENTURY)
    sender.execute("UPDATE rf_tx SET tx_id = 'f' || substr(tx_id, 2)")
    by_itself(sender, NEXT_CENTURY)
    by_itself(sender, now_us)
    Cursors(sender.node.database, sender.clock).save("directory", sender.node.facts.incarnation, 3)
    assert steadily(sender, 29) == 0
    assert steadily(sender, 3) == 3


def test_an_operator_who_purges_says_that_the_clock_is_right(sender: World) -> None:
    by_itself(sender, sender.clock.us)
    sender.clock.us += 91 * DAY_US
    assert purge_log(sender.node, actor="somebody").rows == 3


def test_a_tombstone_waits_for_a_peer_though_the_log_is_gone(sender: World) -> None:
    sender.execute("DELETE FROM item WHERE id = 1")
    seal_all(sender)
    facts = sender.node.facts
    sender.receive(Origin("a").put(9, "x", 1).body)
    writing(
        sender.node.database,
        lambda one: note_passed(one, "a", {(facts.node_id, facts.incarnation): 3, ("a", "inc1"): 1}, sender.clock.us),
    )
    sender.clock.us += 91 * DAY_US
    assert purge_log(sender.node, actor="test").rows == 4
    assert purge_tombstones(sender.node, Ages(sender.clock.us)).waits == ("a has not passed LSN 4 of here",)
    assert sender.query("SELECT * FROM rf_horizon") == []


def test_a_watchdog_of_the_next_century_does_not_look_any_more(sender: World) -> None:
    now_us = sender.clock.us
    assert not still_looks(NEXT_CENTURY, now_us)
    assert still_looks(now_us + FRESH_US // 2, now_us)


@pytest.mark.parametrize("year", [2250, 9_000])
def test_a_write_of_a_year_that_no_version_may_have_is_one_all_the_same(sender: World, year: int) -> None:
    sender.execute("UPDATE item SET name = 'one' WHERE id = 1")
    if sender.node.database.features.name == "sqlite":
        logs = sender.query("SELECT name FROM sqlite_master WHERE sql LIKE 'CREATE TABLE%, kind, at, %'")
        instant = "NULL" if year == 9_000 else f"julianday('{year}-01-01')"
        sender.execute(*(f"UPDATE {log} SET at = {instant}" for (log,) in logs))
    else:
        newest = "(SELECT max(seq) FROM rf_change_log)"
        sender.execute(f"UPDATE rf_change_log SET captured_at = '{year}-01-01' WHERE seq = {newest}")
    before = sender.one("SELECT max(hlc) FROM rf_row_version WHERE hlc < 7258118400000000")
    seal_all(sender)
    first = sender.one("SELECT hlc FROM rf_row_version WHERE base_hlc > 0")
    assert first == sender.one("SELECT base_hlc FROM rf_row_version WHERE base_hlc > 0") + 1
    sender.execute("UPDATE item SET name = 'two' WHERE id = 1")
    seal_all(sender)
    assert before <= sender.one("SELECT hlc FROM rf_row_version WHERE base_hlc > 0") < 7_258_118_400_000_000


@pytest.mark.parametrize("is_overdue", [False, True])
def test_what_lacked_a_parent_while_the_clock_was_ahead_is_tried_again(world: World, is_overdue: bool) -> None:
    right_us, child = world.clock.us, Origin("a").tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))

    def due() -> str:
        """Try as a new process does; return what the letter is then."""
        EarlyRetries(world.node, world.intakes[-1]._applier.apply).due()
        return str(world.one("SELECT state FROM rf_dead_letter"))

    if not is_overdue:
        world.clock.us = NEXT_CENTURY
    world.receive(child.body)
    world.clock.us = NEXT_CENTURY
    assert due() == ("dead" if is_overdue else "early")
    world.clock.us = right_us
    world.execute("INSERT INTO parent VALUES (7, 'p')")
    seal_all(world)
    world.clock.pass_seconds(2)
    assert due() == "replayed"


def test_a_clock_that_was_ahead_when_the_broker_went_keeps_no_fallback_waiting(sender: World) -> None:
    road, right_us = BrokerRoad(sender.node.database, sender.clock), sender.clock.us
    sender.clock.us = NEXT_CENTURY
    road.failed(OutageError("away"), opening=True)
    sender.clock.us = right_us
    road.failed(OutageError("away"), opening=True)
    sender.clock.pass_seconds(61)
    assert road.failing_seconds() == 61
