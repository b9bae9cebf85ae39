"""A dead letter of a grouped tx is applied in pieces: what can be applied is, the rest stays, killed or not."""

from __future__ import annotations

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.crash_points import CrashPoint
from common.versions import FIRST, Version
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.incoming import Result
from tests.support.applying import Origin, Tx, World, Write, item, outcomes
from tests.support.applying_child import replay_all, run_child
from tests.support.cli import document, rowferry
from tests.support.private import write_private

KILLED = -signal.SIGKILL
PIECES = Replay("tester", in_pieces=True)


def grouped(tx: Tx) -> Tx:
    """The tx as a node on SQLite makes it: everything between two looks."""
    return dataclasses.replace(tx, header=msgspec.structs.replace(tx.header, grouped=True))


def letter(origin: Origin, rows: int = 40) -> Tx:
    """Rows of which two families have no parent yet, and one code is taken here."""
    writes = [
        Write("I", "child", {"id": 1, "parent_id": 1}, 10),
        Write("I", "child", {"id": 2, "parent_id": 70}, 11),
        Write("I", "code", {"id": 9, "code": "taken"}, 12),
        Write("I", "child", {"id": 3, "parent_id": 71}, 13),
        *(item(number, f"n{number}", 100 + number) for number in range(rows)),
        # The parent of the first comes last, in another half.
        Write("I", "parent", {"id": 1, "name": "p"}, 20),
    ]
    return grouped(origin.tx(*writes))


def in_pieces(world: World) -> list[Result]:
    return DeadLetters(world.node).replay(Selection(), PIECES, lambda _: None)


def block(world: World) -> None:
    world.block_codes()


def test_what_can_be_applied_is_and_the_rest_stays(world: World) -> None:
    block(world)
    tx = letter(Origin("a"))
    world.receive(tx.body)
    (set_aside,) = world.letters()
    assert set_aside[0] == tx.tx_id
    assert world.rows() == []

    (result,) = in_pieces(world)
    assert result.outcome.set_aside
    assert result.open_changes == 3
    assert len(world.rows()) == 40
    assert world.rows("child") == [(1, 1)]
    assert world.rows("code") == [(5, "taken")]
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 0
    assert json.loads(world.one("SELECT applied_lsns FROM rf_dead_letter")) == [[1, 1], [5, 45]]
    actions = {row[0] for row in world.query("SELECT action FROM rf_audit WHERE actor = 'tester'")}
    assert actions == {"replayed-piece", "replay-failed"}

    # It comes again: it is known, and stays as it is.
    world.receive(tx.body)
    assert len(world.letters()) == 1
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 0

    b = Origin("b")
    world.free_codes()
    world.receive(b.tx(Write("I", "parent", {"id": 70, "name": "late"}, 30)).body)
    (result,) = in_pieces(world)
    assert result.open_changes == 1
    assert world.rows("code") == [(9, "taken")]
    world.receive(b.tx(Write("I", "parent", {"id": 71, "name": "later"}, 31)).body)
    (result,) = [one for one in in_pieces(world) if one.incoming.tx_id == tx.tx_id] or [None]
    assert result is None or result.outcome.value == "applied"
    assert world.rows("child") == [(1, 1), (2, 70), (3, 71)]
    assert [state for _, _, state in world.letters()] == ["replayed"]
    assert world.one(f"SELECT count(*) FROM rf_applied_tx WHERE tx_id = '{tx.tx_id}'") == 1
    assert in_pieces(world) == []
    world.receive(tx.body)
    assert world.one("SELECT count(*) FROM rf_conflict") == 0


def test_later_writes_are_not_undone_and_no_conflict_is_recorded_twice(world: World) -> None:
    block(world)
    tx = grouped(
        Origin("a").tx(item(1, "dead", 10), item(2, "dead", 11), Write("I", "code", {"id": 9, "code": "taken"}, 12))
    )
    world.receive(tx.body, Origin("b").put(1, "rival", 50).body)
    for _ in range(2):
        in_pieces(world)
    assert [row[1] for row in world.rows()] == ["rival", "dead"]
    assert world.one("SELECT count(*) FROM rf_conflict") == 1
    world.receive(Origin("c").put(2, "on top", 60, Version(0, 11, "a"), "U").body)
    world.free_codes()
    results = DeadLetters(world.node).replay(Selection(), Replay("tester"), lambda _: None)
    assert outcomes(results) == ["applied"]
    assert [row[1] for row in world.rows()] == ["rival", "on top"]
    assert world.rows("code") == [(9, "taken")]
    assert world.one("SELECT count(*) FROM rf_conflict") == 1


def test_keys_and_unique_values_that_change_places(world: World) -> None:
    a = Origin("a")
    first = a.tx(Write("I", "code", {"id": 1, "code": "x"}, 1), Write("I", "code", {"id": 2, "code": "y"}, 2))
    world.receive(first.body)
    tx = grouped(
        a.tx(
            Write("U", "code", {"id": 1, "code": "y"}, 10, Version(0, 1, "a")),
            Write("U", "code", {"id": 2, "code": "x"}, 11, Version(0, 2, "a")),
            Write("I", "child", {"id": 1, "parent_id": 70}, 12),
        )
    )
    world.receive(tx.body)
    (result,) = in_pieces(world)
    assert result.open_changes == 1
    swapped = [(1, "y"), (2, "x")]
    assert world.rows("code") == swapped
    world.receive(Origin("b").tx(Write("I", "parent", {"id": 70, "name": "p"}, 30)).body)
    in_pieces(world)
    assert world.rows("code") == swapped
    assert [state for _, _, state in world.letters()] == ["replayed"]


@pytest.mark.parametrize("place", range(2))
@pytest.mark.parametrize("with_first", [False, True])
def test_a_transaction_of_an_application_is_not_taken_to_pieces(world: World, place: int, with_first: bool) -> None:
    """Neither where first versions of `adopt` came into it: a mark on SQLite may close over both."""
    block(world)
    writes = [item(1, "whole", 10), Write("I", "code", {"id": 9, "code": "taken"}, 12)]
    if with_first:
        writes[place] = dataclasses.replace(writes[place], hlc=1, resolves=FIRST)
    tx = Origin("a").tx(*writes)
    world.receive(tx.body)
    (result,) = in_pieces(world)
    assert result.error is not None
    assert "whole or not at all" in result.error
    assert world.rows() == []
    assert world.letters() == [(tx.tx_id, "constraint", "dead")]


def test_a_letter_in_parts(world: World) -> None:
    block(world)
    tx = letter(Origin("a"), rows=300)
    parts = tx.parts(4096)
    assert len(parts) > 3
    world.receive(*parts)
    (result,) = in_pieces(world)
    assert result.open_changes == 3
    assert len(world.rows()) == 300
    assert world.one("SELECT count(*) FROM rf_tx_part") == len(parts)
    world.free_codes()
    b = Origin("b")
    world.receive(*(b.tx(Write("I", "parent", {"id": number, "name": "p"}, 30 + number)).body for number in (70, 71)))
    in_pieces(world)
    assert [state for _, _, state in world.letters()] == ["replayed"]
    assert world.rows("child") == [(1, 1), (2, 70), (3, 71)]
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0


@pytest.mark.parametrize("point", [CrashPoint.ROWS_WRITTEN, CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT])
def test_killed_between_pieces(world: World, point: CrashPoint) -> None:
    block(world)
    world.receive(letter(Origin("a")).body)
    world.intakes[-1].close()
    url = world.node.config.node.database
    for passes in (0, 1, 2):
        assert run_child(replay_all, url, point.value, None, True, passes) == KILLED
    assert run_child(replay_all, url, None, None, True) == 0
    assert len(world.rows()) == 40
    assert world.rows("child") == [(1, 1)]
    applied = [msgspec.json.decode(line[0]) for line in world.query(
        "SELECT detail FROM rf_audit WHERE action = 'replayed-piece'"
    )]  # fmt: skip
    lsns = [lsn for detail in applied for first, last in detail["lsns"] for lsn in range(first, last + 1)]
    assert sorted(lsns) == [1, *range(5, 46)]


def test_the_command_and_what_show_says(world: World, tmp_path: Path) -> None:
    config = tmp_path / "rowferry.toml"
    write_private(config, f'[node]\nid = "here"\ndatabase = "{world.node.config.node.database}"\n')
    block(world)
    tx = letter(Origin("a"), rows=2)
    world.receive(tx.body)
    shown: Any = document(config, "dlq", "show", tx.tx_id)
    assert shown["open_changes"] == 7
    assert {row["open"] for row in shown["rows"]} == {True}
    report: Any = document(config, "dlq", "replay", tx.tx_id, "--in-pieces", code=4)
    assert report["results"][0]["open_changes"] == 3
    shown = document(config, "dlq", "show", tx.tx_id)
    assert shown["open_changes"] == 3
    assert [(row["table"], row["open"]) for row in shown["rows"]] == [
        ("child", False), ("child", True), ("code", True), ("child", True),
        ("item", False), ("item", False), ("parent", False),
    ]  # fmt: skip
    assert rowferry(config, "dlq", "replay", tx.tx_id, "--in-pieces", "--dry-run").exit_code == 2
