"""SIGKILL in the middle of applying, two appliers at once, and a tx that kills whoever decodes it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from common.crash_points import CrashPoint
from common.versions import Version
from tests.support.applying import Origin, World, Write, item
from tests.support.applying_child import replay_all, run_child, run_children, take, take_or_die_of
from tests.support.mirror import FileMirror

KILLED = -signal.SIGKILL


@pytest.fixture
def url(world: World) -> str:
    return world.node.config.node.database


def batches() -> list[bytes]:
    """Small txs of two sources on the same rows, and a large one in parts."""
    a, b = Origin("a"), Origin("b")
    bodies = []
    for number in range(1, 21):
        bodies.append(a.put(number, f"a{number}", 10 * number).body)
        bodies.append(b.put(number, f"b{number}", 10 * number + 5, Version(0, 10 * number, "a"), "U").body)
    large = a.tx(*(item(100 + number, "x" * 300, 1000 + number) for number in range(60)))
    return [*bodies, *large.parts(4096)]


def assert_applied_exactly_once(world: World) -> None:
    assert [row[1] for row in world.rows()] == [f"b{number}" for number in range(1, 21)] + ["x" * 300] * 60
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 41
    assert world.query("SELECT count(*), count(DISTINCT tx_id) FROM rf_audit") == [(41, 41)]
    assert (world.watermark("a"), world.watermark("b")) == (80, 20)
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0
    assert world.letters() == []
    assert world.one("SELECT count(*) FROM rf_conflict") == 0


@pytest.mark.parametrize(
    "point", [CrashPoint.PART_STORED, CrashPoint.ROWS_WRITTEN, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT]
)
def test_killed_while_applying_and_delivered_again(world: World, url: str, point: CrashPoint) -> None:
    bodies = batches()
    assert run_child(take, url, bodies, False, point.value) == KILLED
    assert run_child(take, url, bodies, True, point.value) in (KILLED, 0)
    assert run_child(take, url, bodies, True) == 0
    assert_applied_exactly_once(world)
    assert world.one("SELECT count(*) FROM rf_attempt") == 0


def test_killed_after_an_attempt_began(world: World, url: str) -> None:
    bodies = batches()
    assert run_child(take, url, bodies, True, CrashPoint.ATTEMPT_BEGUN.value) == KILLED
    assert run_child(take, url, bodies, True) == 0
    assert_applied_exactly_once(world)
    assert world.one("SELECT count(*) FROM rf_attempt") == 0


@pytest.mark.parametrize("redelivered", [True, False])
def test_a_tx_that_kills_the_process_is_set_aside_alone(world: World, url: str, redelivered: bool) -> None:
    a = Origin("a")
    txs = [a.put(number, f"a{number}", number) for number in range(1, 10)]
    poison = txs[4].tx_id
    body = b"".join(tx.body for tx in txs)
    codes = []
    for attempt in range(6):
        codes.append(run_child(take_or_die_of, url, [body], poison, redelivered and attempt > 0))
        if codes[-1] == 0:
            break
    assert codes == [KILLED] * (len(codes) - 1) + [0]
    assert 4 <= len(codes) <= 6
    assert world.letters() == [(poison, "crash", "dead")]
    assert [row[0] for row in world.rows()] == [1, 2, 3, 4, 6, 7, 8, 9]
    assert world.watermark("a") == 9
    assert world.one("SELECT count(*) FROM rf_attempt") == 0


def test_a_waiting_tx_that_kills_the_process_when_tried_again_is_set_aside(world: World, url: str) -> None:
    child = Origin("a").tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    parent = Origin("b").tx(Write("I", "parent", {"id": 7, "name": "p"}, 20))
    world.receive(child.body)
    world.intakes[-1].close()
    # The world's clock stands in another year than that of the process.
    ago_us = time.time_ns() // 1000 - 60_000_000
    world.execute(f"UPDATE rf_dead_letter SET first_failed_us = {ago_us}, last_failed_us = {ago_us}")
    codes: list[int | None] = []
    for _ in range(6):
        codes.append(run_child(take_or_die_of, url, [parent.body], child.tx_id, bool(codes)))
        if codes[-1] == 0:
            break
    assert codes == [KILLED] * (len(codes) - 1) + [0]
    assert len(codes) == 5
    assert world.letters() == [(child.tx_id, "crash", "dead")]
    assert world.rows("parent") == [(7, "p")]
    assert world.one("SELECT count(*) FROM rf_attempt") == 0


def test_two_processes_apply_the_same_at_the_same_time(world: World, url: str) -> None:
    bodies = batches()
    codes = run_children(take, [(url, bodies), (url, [*bodies[20:40], *bodies[:20], *bodies[40:]]), (url, bodies)])
    assert codes == [0, 0, 0]
    assert_applied_exactly_once(world)


def test_killed_between_the_brokers_copy_and_the_table(world: World, url: str, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    folder.mkdir()
    dead = Origin("a").tx(item(1, "x", 10), Write("I", "code", {"id": 9, "code": "taken"}, 11))
    world.block_codes()
    assert run_child(take, url, [dead.body], False, CrashPoint.LETTER_COPIED.value, str(folder)) == KILLED
    assert run_child(take, url, [dead.body], True, None, str(folder)) == 0
    assert {letter.tx_id for letter in FileMirror(str(folder)).read_all()} == {dead.tx_id}

    world.free_codes()
    assert run_child(replay_all, url, CrashPoint.BEFORE_COMMIT.value, str(folder)) == KILLED
    assert world.letters() == [(dead.tx_id, "constraint", "dead")]
    assert run_child(replay_all, url, CrashPoint.REPLAYED.value, str(folder)) == KILLED
    assert world.letters() == [(dead.tx_id, "constraint", "replayed")]
    assert FileMirror(str(folder)).read_all() != []
    assert run_child(replay_all, url, None, str(folder)) == 0
    assert FileMirror(str(folder)).read_all() == []
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'replayed'") == 1
    assert [row[1] for row in world.rows()] == ["x"]


def clashing() -> list[bytes]:
    """Every row of one node steps back for one of another, and some return; children go along."""
    a, b = Origin("a"), Origin("b")
    bodies = []
    for n in range(1, 11):
        parent = Write("I", "parent", {"id": n, "name": "p"}, 10)
        bodies.append(a.tx(Write("I", "code", {"id": n, "code": f"c{n}"}, 10), parent).body)
        bodies.append(b.tx(Write("I", "code", {"id": 100 + n, "code": f"c{n}"}, 20)).body)
        bodies.append(b.tx(Write("D", "parent", {"id": n, "name": "p"}, 20, Version(0, 10, "a"))).body)
        bodies.append(a.tx(Write("I", "child", {"id": n, "parent_id": n}, 15)).body)
    for n in range(1, 6):
        moved = Write("U", "code", {"id": 100 + n, "code": f"d{n}"}, 30, Version(0, 20, "b"))
        bodies.append(b.tx(moved, Write("I", "parent", {"id": n, "name": "again"}, 30, Version(0, 20, "b"))).body)
    return bodies


@pytest.mark.parametrize("point", [CrashPoint.ROWS_WRITTEN, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT])
def test_killed_while_rows_step_back_and_return(world: World, url: str, point: CrashPoint) -> None:
    bodies = clashing()
    assert run_child(take, url, bodies, False, point.value) == KILLED
    assert run_child(take, url, bodies, True, point.value) in (KILLED, 0)
    assert run_child(take, url, bodies, True) == 0
    codes = [(n, f"c{n}") for n in range(1, 6)]
    codes += [(100 + n, f"d{n}" if n < 6 else f"c{n}") for n in range(1, 11)]
    assert (world.rows("code"), world.rows("child")) == (codes, [(n, n) for n in range(1, 6)])
    aside = world.query("SELECT table_name, count(*) FROM rf_stepped_back GROUP BY table_name ORDER BY table_name")
    assert aside == [("child", 5), ("code", 5)]
    assert world.one("SELECT count(*) FROM rf_claim WHERE key NOT IN (SELECT key FROM rf_stepped_back)") == 0
    assert [letter for letter in world.letters() if letter[2] != "replayed"] == []
    assert world.query("SELECT count(*), count(DISTINCT tx_id) FROM rf_applied_tx") == [(len(bodies), len(bodies))]
