"""Rows that step back and return: unique keys of every kind, what the application does meanwhile, kills, large txs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import OutageError
from common.ports.source import Delivery
from common.versions import Version
from common.wire.records import TableMeta
from consumer.apply import committing
from consumer.apply.group import Applier
from consumer.arrivals import Arrivals
from consumer.conflict import reading as conflicts
from consumer.dead_letters.show import show
from consumer.dead_letters.table_store import Selection, find
from consumer.files import FileImport, ImportRules
from consumer.inbox import Inbox
from consumer.page.rows import effect_of
from consumer.part import part
from consumer.standing import store
from consumer.standing.causes import concerns
from consumer.standing.refresh import Refresh
from consumer.statements import reading
from tests.support.applying import (
    TABLES,
    Origin,
    World,
    Write,
    close_world,
    open_world,
    seal_all,
    sqlite_url,
)

METAS = {
    "slot": TableMeta(pk=("id",), columns={"id": "int", "a": "text", "b": "int", "c": "text"}),
    "left_one": TableMeta(pk=("id",), columns={"id": "int", "other": "int", "name": "text"}),
    "right_one": TableMeta(pk=("id",), columns={"id": "int", "other": "int", "name": "text"}),
}
SLOT = "CREATE TABLE slot (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c TEXT)"
RING = (
    "CREATE TABLE right_one (id INTEGER PRIMARY KEY, other INTEGER, name TEXT UNIQUE)",
    "CREATE TABLE left_one (id INTEGER PRIMARY KEY, other INTEGER REFERENCES right_one (id), name TEXT UNIQUE)",
)


@pytest.fixture(autouse=True)
def metas() -> Iterator[None]:
    TABLES.update(METAS)
    yield
    for name in METAS:
        del TABLES[name]


def with_tables(world: World, *statements: str) -> None:
    world.execute(*statements)
    world.node.database.capture().install(list(world.node.captured_tables().values()))


def is_sqlite(world: World) -> bool:
    return world.node.database.engine.dialect.name == "sqlite"


def code(row_id: int, value: str, hlc: int, base: Version | None = None, op: str = "I", **more: Any) -> Write:
    return Write(op, "code", {"id": row_id, "code": value}, hlc, base, **more)


def slot(row_id: int, a: str | None, b: int | None, hlc: int, c: str | None = None) -> Write:
    return Write("I", "slot", {"id": row_id, "a": a, "b": b, "c": c}, hlc)


def aside(world: World) -> list[tuple[str, int]]:
    rows = world.query("SELECT table_name, facts FROM rf_stepped_back")
    return sorted((table, json.loads(json.loads(facts)["pk"])["id"]) for table, facts in rows)


def own_changes(world: World) -> int:
    """Seal; return how many changes this node has made itself."""
    sealer = world.node.database.sealer(world.node.facts)
    while sealer.seal().more:
        pass
    return world.node.database.log(world.node.facts).head().lsn


def test_of_two_rows_with_one_value_the_later_stands_whichever_came_first(world: World) -> None:
    early, late = Origin("a").tx(code(1, "x", 10)), Origin("b").tx(code(2, "x", 20))
    world.receive(early.body)
    world.receive(late.body)
    assert (world.rows("code"), aside(world)) == ([(2, "x")], [("code", 1)])
    later = Origin("c").tx(code(3, "y", 30)), Origin("d").tx(code(4, "y", 25))
    for tx in later:
        world.receive(tx.body)
    assert (world.rows("code"), aside(world)) == ([(2, "x"), (3, "y")], [("code", 1), ("code", 4)])
    assert (world.letters(), own_changes(world)) == ([], 0)
    with world.node.database.engine.connect() as connection:
        found = conflicts.find(connection, conflicts.Wanted(table="code"))
        shown = conflicts.read(connection, found[0]["id"])
    told = [(one["pk"], one["kind"], one["state"], one["winner"], one["rule"]) for one in found]
    assert told == [({"id": 1}, "unique", "settled", "theirs", "lww"), ({"id": 4}, "unique", "settled", "ours", "lww")]
    assert shown is not None
    assert (shown["our_image"], shown["their_image"]) == ({"id": 1, "code": "x"}, {"id": 2, "code": "x"})
    assert part.status(world.node)["stepped_back"] == {"code": 2}


def test_it_returns_when_its_rival_moves_away_or_goes(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(code(1, "x", 10)).body, b.tx(code(2, "x", 20)).body)
    world.receive(b.tx(code(2, "z", 30, Version(0, 20, "b"), "U")).body)
    assert (world.rows("code"), aside(world)) == ([(1, "x"), (2, "z")], [])
    world.receive(b.tx(code(2, "x", 40, Version(0, 30, "b"), "U")).body)
    assert aside(world) == [("code", 1)]
    world.receive(b.tx(code(2, "x", 50, Version(0, 40, "b"), "D")).body)
    assert (world.rows("code"), aside(world)) == ([(1, "x")], [])


def test_a_row_that_stepped_back_is_written_to_like_any_other(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(code(1, "x", 10)).body, b.tx(code(2, "x", 20)).body)
    update = a.tx(code(1, "y", 30, Version(0, 10, "a"), "U"))
    world.receive(update.body)
    assert (world.rows("code"), aside(world)) == ([(1, "y"), (2, "x")], [])
    world.receive(a.tx(code(1, "x", 15, op="U", base=Version(0, 10, "a"))).body)
    assert world.rows("code") == [(1, "y"), (2, "x")], "an older write changes nothing"
    world.receive(Origin("c").tx(code(3, "x", 5)).body)
    assert aside(world) == [("code", 3)]
    concurrent = Origin("d").tx(code(3, "w", 6))
    world.receive(concurrent.body)
    ours = world.query("SELECT our_image FROM rf_conflict WHERE kind = 'insert'")
    assert [json.loads(image) for (image,) in ours] == [{"id": 3, "code": "x"}], (
        "its image is seen where it stepped back"
    )
    assert (world.rows("code"), aside(world)) == ([(1, "y"), (2, "x"), (3, "w")], [])
    world.receive(Origin("e").tx(code(3, "w", 7, Version(0, 6, "d"), "D")).body)
    assert world.rows("code") == [(1, "y"), (2, "x")]


def test_delivering_again_changes_nothing(world: World) -> None:
    txs = [Origin("a").tx(code(1, "x", 10)), Origin("b").tx(code(2, "x", 20)), Origin("c").tx(code(3, "x", 15))]
    world.receive(*(tx.body for tx in txs))
    before = world.rows("code"), aside(world), world.one("SELECT count(*) FROM rf_conflict")
    world.receive(*(tx.body for tx in txs), *(tx.body for tx in reversed(txs)))
    assert before == (world.rows("code"), aside(world), world.one("SELECT count(*) FROM rf_conflict"))


def test_what_clashes_only_halfway_is_no_clash(world: World) -> None:
    a = Origin("a")
    world.receive(a.tx(code(1, "x", 10), code(2, "y", 11)).body)
    swapped = a.tx(code(1, "y", 20, Version(0, 10, "a"), "U"), code(2, "x", 21, Version(0, 11, "a"), "U"))
    world.receive(swapped.body)
    assert world.rows("code") == [(1, "y"), (2, "x")]
    handed_on = a.tx(code(3, "y", 30), code(1, "z", 31, Version(0, 20, "a"), "U"))
    world.receive(handed_on.body)
    assert (world.rows("code"), aside(world)) == ([(1, "z"), (2, "x"), (3, "y")], [])
    assert world.one("SELECT count(*) FROM rf_conflict") == 0


@pytest.mark.parametrize("mains_first", [True, False])
def test_where_main_wins_its_rows_stand_before_later_ones(tmp_path: Path, mains_first: bool) -> None:
    url = sqlite_url(tmp_path)
    node = {"id": "here", "database": url, "main": "m"}
    made = open_world(url, tables={"policy": {"code": "main-wins"}}, node=node)
    mains, branchs = Origin("m").tx(code(1, "x", 10, epoch=1)), Origin("b").tx(code(2, "x", 20))
    made.receive(*([mains.body, branchs.body] if mains_first else [branchs.body, mains.body]))
    assert (made.rows("code"), aside(made)) == ([(1, "x")], [("code", 2)])
    # A branch's write on top of main's is a branch's: by its clock alone.
    made.receive(Origin("c").tx(code(1, "x", 15, Version(1, 10, "m"), "U", epoch=1)).body)
    assert (made.rows("code"), aside(made)) == ([(2, "x")], [("code", 1)])
    close_world(made)


def test_keys_of_several_columns_partial_ones_and_expressions(world: World) -> None:
    with_tables(
        world,
        SLOT,
        "CREATE UNIQUE INDEX slot_pair ON slot (a, b)",
        "CREATE UNIQUE INDEX slot_c ON slot (lower(c)) WHERE b > 5",
    )
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(slot(1, "p", 1, 10), slot(2, None, 1, 11), slot(3, None, 1, 12), slot(4, "p", 2, 13)).body)
    world.receive(b.tx(slot(5, "p", 1, 20), slot(6, None, 1, 21)).body)
    assert aside(world) == [("slot", 1)]
    world.receive(a.tx(slot(7, "q", 6, 30, "Word"), slot(8, "q", 1, 31, "word")).body)
    world.receive(b.tx(slot(9, "r", 7, 32, "WORD")).body)
    assert aside(world) == [("slot", 1), ("slot", 7)]
    world.receive(b.tx(Write("U", "slot", {"id": 9, "a": "r", "b": 3, "c": "WORD"}, 40, Version(0, 32, "b"))).body)
    assert aside(world) == [("slot", 1)]
    # One row against two others, of which each has a key of its own.
    world.receive(b.tx(slot(10, "q", 8, 50, "word")).body, b.tx(slot(11, "q", 8, 60, None)).body)
    assert aside(world) == [("slot", 1), ("slot", 10)]
    assert world.letters() == []


@pytest.mark.containers
def test_nulls_that_are_not_distinct_clash(pg_database: str) -> None:
    made = open_world(pg_database)
    with_tables(made, SLOT, "CREATE UNIQUE INDEX slot_null ON slot (a, b) NULLS NOT DISTINCT")
    made.receive(Origin("a").tx(slot(1, None, 1, 10)).body, Origin("b").tx(slot(2, None, 1, 20)).body)
    assert (made.rows("slot"), aside(made)) == ([(2, None, 1, None)], [("slot", 1)])
    made.receive(Origin("c").tx(slot(3, None, 2, 30)).body)
    assert aside(made) == [("slot", 1)]
    close_world(made)


LATE = "CREATE TABLE slot (id INTEGER PRIMARY KEY, a TEXT, b INTEGER UNIQUE DEFERRABLE INITIALLY DEFERRED, c TEXT)"


@pytest.mark.containers
def test_keys_that_are_checked_at_the_commit_clash(pg_world: World) -> None:
    """No write of one is refused where the application's triggers are quiet."""
    with_tables(pg_world, LATE)
    a, b = Origin("a"), Origin("b")
    pg_world.receive(a.tx(slot(1, "p", 1, 10), slot(2, "q", 2, 11)).body)
    swapped = slot(1, "p", 2, 20), slot(2, "q", 1, 21)
    pg_world.receive(
        a.tx(*(Write("U", "slot", one.row, one.hlc, Version(0, one.hlc - 10, "a")) for one in swapped)).body
    )
    assert (pg_world.rows("slot"), aside(pg_world)) == ([(1, "p", 2, None), (2, "q", 1, None)], [])
    pg_world.receive(b.tx(slot(3, "r", 1, 30)).body)
    pg_world.receive(b.tx(slot(4, "s", 2, 15)).body)
    assert (pg_world.rows("slot"), aside(pg_world)) == (
        [(1, "p", 2, None), (3, "r", 1, None)],
        [("slot", 2), ("slot", 4)],
    )
    assert pg_world.letters() == []


@pytest.mark.containers
def test_a_large_tx_meets_keys_that_are_checked_at_the_commit(pg_world: World) -> None:
    with_tables(pg_world, LATE)
    pg_world.receive(Origin("b").tx(slot(1, "p", 1, 10)).body)
    pg_world.receive(*Origin("a").tx(*(slot(one, "q" * 500, one - 1, 20 + one) for one in range(2, 9))).parts(2_000))
    assert len(pg_world.rows("slot")) == 7
    assert aside(pg_world) == [("slot", 1)]


@pytest.mark.containers
def test_who_writes_a_key_that_is_checked_at_the_commit_is_waited_for(
    pg_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_tables(pg_world, LATE)
    monkeypatch.setattr(committing, "PATIENCE_SECONDS", 0.3)
    with pg_world.node.database.engine.connect() as writer:
        writer.exec_driver_sql("INSERT INTO slot VALUES (1, 'p', 1, NULL)")
        with pytest.raises(OutageError, match="held by others"):
            pg_world.receive(Origin("b").tx(slot(2, "q", 1, 10)).body)
        writer.commit()
    seal_all(pg_world)
    pg_world.receive()
    assert (pg_world.rows("slot"), aside(pg_world)) == ([(1, "p", 1, None)], [("slot", 2)])


@pytest.mark.parametrize(
    ("declared", "one", "same", "other"),
    [
        ("TEXT COLLATE NOCASE", "Ab", "aB", "ab "),
        ("TEXT COLLATE RTRIM", "ab", "ab  ", "AB"),
        ("TEXT", "ab", "ab", "Ab"),
    ],
)
def test_sqlite_compares_by_the_collation(tmp_path: Path, declared: str, one: str, same: str, other: str) -> None:
    made = open_world(sqlite_url(tmp_path))
    with_tables(made, f"CREATE TABLE slot (id INTEGER PRIMARY KEY, a {declared} UNIQUE, b INTEGER, c TEXT)")
    made.receive(Origin("a").tx(slot(1, one, None, 10)).body, Origin("b").tx(slot(2, same, None, 20)).body)
    made.receive(Origin("c").tx(slot(3, other, None, 30)).body)
    assert ([key for key, *_ in made.rows("slot")], aside(made)) == ([2, 3], [("slot", 1)])
    # Found again by what it claims, however that is written.
    made.receive(Origin("d").tx(slot(4, same, None, 5)).body)
    made.receive(Origin("b", lsn=1, made=1).tx(Write("D", "slot", {"id": 2}, 40, Version(0, 20, "b"))).body)
    assert ([key for key, *_ in made.rows("slot")], aside(made)) == ([1, 3], [("slot", 4)])
    close_world(made)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("declared", "logical", "one", "same"),
    [
        ("TEXT COLLATE NOCASE", "text", "de", "DE"),
        ("TEXT COLLATE RTRIM", "text", "de", "de "),
        ("BLOB", "bytes", {"$int": 1}, {"$float": 1.0}),
    ],
)
@pytest.mark.parametrize("without_rowid", ["", " WITHOUT ROWID"])
def test_two_names_that_sqlite_takes_for_one_primary_key_clash_like_any_unique_value(
    tmp_path: Path, declared: str, logical: str, one: Any, same: Any, without_rowid: str, turned: bool
) -> None:
    """They are two rows' names; a dead letter would leave each node with its own for good."""
    made = open_world(sqlite_url(tmp_path))
    with_tables(made, f"CREATE TABLE slot (id {declared} PRIMARY KEY, b INTEGER){without_rowid}")
    TABLES["slot"] = TableMeta(pk=("id",), columns={"id": logical, "b": "int"})
    b = Origin("b")
    bodies = [
        Origin("a").tx(Write("I", "slot", {"id": one, "b": 1}, 10)).body,
        b.tx(Write("I", "slot", {"id": same, "b": 2}, 20)).body,
    ]
    for body in reversed(bodies) if turned else bodies:
        made.receive(body)
    assert made.letters() == []
    assert ([value for _, value in made.rows("slot")], aside(made)) == ([2], [("slot", one)])
    assert made.query("SELECT kind, state FROM rf_conflict") == [("unique", "settled")]
    made.receive(b.tx(Write("D", "slot", {"id": same, "b": 2}, 30, Version(0, 20, "b"))).body)
    assert ([value for _, value in made.rows("slot")], aside(made)) == ([1], [])
    close_world(made)


def test_sqlite_takes_1_and_1_0_for_one_value(tmp_path: Path) -> None:
    made = open_world(sqlite_url(tmp_path))
    with_tables(made, "CREATE TABLE slot (id INTEGER PRIMARY KEY, a BLOB UNIQUE, b INTEGER, c TEXT)")
    TABLES["slot"] = TableMeta(pk=("id",), columns={"id": "int", "a": "bytes", "b": "int", "c": "text"})
    whole, broken = slot(1, {"$int": 1}, None, 10), slot(2, {"$float": 1.0}, None, 20)  # type: ignore[arg-type]
    made.receive(Origin("a").tx(whole).body, Origin("b").tx(broken).body)
    assert ([key for key, *_ in made.rows("slot")], aside(made)) == ([2], [("slot", 1)])
    made.receive(Origin("c").tx(slot(3, {"$int": 1}, None, 30)).body)  # type: ignore[arg-type]
    assert aside(made) == [("slot", 1), ("slot", 2)]
    close_world(made)


def test_rows_that_hold_each_other_return_together(world: World) -> None:
    with_tables(world, *RING)
    if not is_sqlite(world):
        world.execute("ALTER TABLE right_one ADD FOREIGN KEY (other) REFERENCES left_one (id)")
    else:
        world.execute("DROP TABLE right_one")
        world.execute(RING[0].replace("other INTEGER", "other INTEGER REFERENCES left_one (id)"))
    with_tables(world)
    a, b = Origin("a"), Origin("b")
    ring = [Write("I", table, {"id": 1, "other": 1, "name": "n"}, 10) for table in ("left_one", "right_one")]
    world.receive(a.tx(*ring).body)
    assert (len(world.rows("left_one")), len(world.rows("right_one"))) == (1, 1)
    rival = Write("I", "right_one", {"id": 2, "other": None, "name": "n"}, 20)
    world.receive(b.tx(rival).body)
    assert aside(world) == [("left_one", 1), ("right_one", 1)]
    away = Write("U", "right_one", {"id": 2, "other": None, "name": "m"}, 30, Version(0, 20, "b"))
    world.receive(b.tx(away).body)
    assert (aside(world), world.rows("left_one")) == ([], [(1, 1, "n")])


def clash(world: World) -> None:
    """Row 1 steps back for row 2."""
    world.receive(Origin("a").tx(code(1, "x", 10)).body, Origin("b").tx(code(2, "x", 20)).body)
    assert aside(world) == [("code", 1)]


def test_the_application_deletes_the_rival(world: World) -> None:
    clash(world)
    refresh = Refresh(world.node)
    assert not refresh.step()
    world.execute("DELETE FROM code WHERE id = 2")
    assert not refresh.step(), "what is not sealed has no version yet"
    assert own_changes(world) == 1
    assert refresh.step()
    assert (world.rows("code"), aside(world), own_changes(world)) == ([(1, "x")], [], 1)
    assert not refresh.step()


def test_the_application_takes_the_key_of_a_row_that_stepped_back(world: World) -> None:
    clash(world)
    world.execute("INSERT INTO code VALUES (1, 'mine')")
    assert own_changes(world) == 1
    Refresh(world.node).catch_up()
    assert (world.rows("code"), aside(world)) == ([(1, "mine"), (2, "x")], [])
    (line,) = [line for tx in world.node.database.log(world.node.facts).read(0, 10**6) for line in tx.lines()]
    assert json.loads(line)["base"] == [0, 10, "a"], "a new write of the row, on top of the version that stepped back"
    world.receive(Origin("b", lsn=1, made=1).tx(code(2, "x", 50, Version(0, 20, "b"), "D")).body)
    assert world.rows("code") == [(1, "mine")]


def test_the_application_takes_a_value_that_another_row_has_a_better_right_to(world: World) -> None:
    """Row 3 comes from a node whose clock is far ahead, and steps back for row 4, from one still further ahead."""
    ahead = 4_000_000_000_000_000
    world.receive(Origin("a").tx(code(3, "x", ahead)).body)
    world.receive(Origin("b").tx(code(4, "x", ahead + 1)).body)
    world.execute("DELETE FROM code WHERE id = 4", "INSERT INTO code VALUES (5, 'x')")
    assert own_changes(world) == 2
    Refresh(world.node).catch_up()
    assert (world.rows("code"), aside(world)) == ([(3, "x")], [("code", 5)])
    kinds = world.query("SELECT kind, winner FROM rf_conflict ORDER BY id")
    assert kinds == [("unique", "theirs"), ("unique", "theirs")]
    assert own_changes(world) == 2


def test_a_write_of_the_application_that_is_not_sealed_is_never_taken_away(world: World) -> None:
    clash(world)
    world.execute("UPDATE code SET code = 'mine' WHERE id = 2")
    # Its version is not known yet, and its value is taken: the applier seals first.
    world.receive(Origin("c").tx(code(3, "mine", 4_000_000_000_000_000)).body)
    assert own_changes(world) == 1
    Refresh(world.node).catch_up()
    assert (world.rows("code"), aside(world)) == ([(1, "x"), (3, "mine")], [("code", 2)])


def test_a_parent_that_the_application_brings_back_and_writes_again_at_once(world: World) -> None:
    """Both writes are followed up together: what the second one found was not what had been there before."""
    a, b = Origin("a"), Origin("b")
    world.receive(a.tx(Write("I", "parent", {"id": 7, "name": "p"}, 10)).body)
    world.receive(b.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 20)).body)
    world.receive(a.tx(Write("D", "parent", {"id": 7, "name": "p"}, 30, Version(0, 10, "a"))).body)
    refresh = Refresh(world.node)
    # The first one looks at all that has stepped back.
    refresh.step()
    assert (world.rows("child"), aside(world)) == ([], [("child", 1)])
    world.execute("INSERT INTO parent (id, name) VALUES (7, 'mine')")
    own_changes(world)
    world.execute("UPDATE parent SET name = 'mine still' WHERE id = 7")
    own_changes(world)
    refresh.step()
    assert (world.rows("child"), aside(world)) == ([(1, 7)], [])


def test_a_parent_that_the_application_takes_away_and_brings_back_around_a_batch(world: World) -> None:
    """When both are followed up it is as it was before, and in between a child came that did not find it."""
    a, b = Origin("a"), Origin("b")
    world.receive(
        a.tx(Write("I", "parent", {"id": 7, "name": "p"}, 10), Write("I", "parent", {"id": 8, "name": "q"}, 11)).body
    )
    world.receive(b.tx(Write("I", "child", {"id": 2, "parent_id": 8}, 12)).body)
    world.receive(a.tx(Write("D", "parent", {"id": 8, "name": "q"}, 13, Version(0, 11, "a"))).body)
    refresh = Refresh(world.node)
    refresh.step()
    assert aside(world) == [("child", 2)]
    world.execute("DELETE FROM parent WHERE id = 7")
    own_changes(world)
    world.receive(b.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 20)).body)
    assert aside(world) == [("child", 1), ("child", 2)]
    world.execute("INSERT INTO parent (id, name) VALUES (7, 'p')")
    own_changes(world)
    refresh.step()
    assert (world.rows("child"), aside(world)) == ([(1, 7)], [("child", 2)])


def test_an_index_that_is_dropped_lets_rows_return(world: World) -> None:
    with_tables(world, SLOT, "CREATE UNIQUE INDEX slot_a ON slot (a)")
    world.receive(Origin("a").tx(slot(1, "p", 1, 10)).body)
    world.receive(Origin("b").tx(slot(2, "p", 2, 20)).body)
    assert aside(world) == [("slot", 1)]
    world.execute("DROP INDEX slot_a")
    assert Refresh(world.node).step()
    assert ([key for key, *_ in world.rows("slot")], aside(world)) == ([1, 2], [])
    assert own_changes(world) == 0


def test_an_index_that_is_new_counts_for_rows_that_stepped_back_before(world: World) -> None:
    with_tables(world, SLOT, "CREATE UNIQUE INDEX slot_a ON slot (a)")
    world.receive(Origin("a").tx(slot(1, "p", 1, 10)).body)
    world.receive(Origin("b").tx(slot(2, "p", 1, 20)).body)
    world.execute("CREATE UNIQUE INDEX slot_b ON slot (b)")
    moved = Write("U", "slot", {"id": 2, "a": "q", "b": 1, "c": None}, 30, Version(0, 20, "b"))
    world.receive(Origin("b", lsn=1, made=1).tx(moved).body)
    assert (aside(world), world.letters()) == ([("slot", 1)], [])
    again = Write("U", "slot", {"id": 2, "a": "q", "b": 9, "c": None}, 40, Version(0, 30, "b"))
    Refresh(world.node).step()
    world.receive(Origin("b", lsn=2, made=2).tx(again).body)
    assert ([key for key, *_ in world.rows("slot")], aside(world)) == ([1, 2], [])


def test_a_row_that_no_longer_fits_its_table_stays_aside_and_holds_nobody_up(world: World) -> None:
    with_tables(world, SLOT, "CREATE UNIQUE INDEX slot_a ON slot (a)")
    world.receive(Origin("a").tx(slot(1, "p", 1, 10, "gone")).body)
    world.receive(Origin("b").tx(slot(2, "p", 1, 20)).body)
    TABLES["slot"] = TableMeta(pk=("id",), columns={"id": "int", "a": "text", "b": "int"})
    others = [shape for name, shape in world.node.captured_tables().items() if name != "slot"]
    world.node.database.capture().install(others)
    with_tables(world, "ALTER TABLE slot DROP COLUMN c")
    moved = Write("U", "slot", {"id": 2, "a": "q", "b": 1}, 30, Version(0, 20, "b"))
    world.receive(Origin("b", lsn=1, made=1).tx(moved).body)
    assert (world.rows("slot"), aside(world)) == ([(2, "q", 1)], [("slot", 1)])
    assert world.letters() == []


def renamed(world: World) -> None:
    """A migration renames `a`, which is unique, to `d`, and the index with it."""
    TABLES["slot"] = TableMeta(pk=("id",), columns={"id": "int", "d": "text", "b": "int", "c": "text"})
    others = [shape for name, shape in world.node.captured_tables().items() if name != "slot"]
    world.node.database.capture().install(others)
    with_tables(
        world,
        "DROP INDEX slot_a",
        "ALTER TABLE slot RENAME COLUMN a TO d",
        "CREATE UNIQUE INDEX slot_d ON slot (d)",
    )


def test_a_row_that_fits_neither_its_table_nor_its_keys_holds_nobody_up(world: World) -> None:
    with_tables(world, SLOT, "CREATE UNIQUE INDEX slot_a ON slot (a)")
    world.receive(Origin("a").tx(slot(1, "p", 1, 10), code(1, "x", 10)).body)
    world.receive(Origin("b").tx(slot(2, "p", 1, 20), code(2, "x", 20)).body)
    assert aside(world) == [("code", 1), ("slot", 1)]
    renamed(world)
    refresh = Refresh(world.node)
    refresh.step()
    world.execute("DELETE FROM code WHERE id = 2")
    own_changes(world)
    refresh.step()
    assert (world.rows("code"), aside(world)) == ([(1, "x")], [("slot", 1)])


def test_own_writes_from_before_a_column_got_another_type_hold_nobody_up(world: World) -> None:
    if is_sqlite(world):
        pytest.skip("SQLite takes any value in any column")
    with_tables(world, SLOT, "CREATE UNIQUE INDEX slot_a ON slot (a)")
    world.receive(Origin("a").tx(slot(1, "p", 1, 10)).body)
    world.receive(Origin("b").tx(slot(2, "p", 1, 20)).body)
    world.execute("UPDATE slot SET c = 'no date' WHERE id = 2")
    own_changes(world)
    world.execute("UPDATE slot SET c = '2026-01-01' WHERE id = 2")
    own_changes(world)
    with_tables(world, "ALTER TABLE slot ALTER c TYPE date USING c::date")
    world.execute("DELETE FROM slot WHERE id = 2")
    own_changes(world)
    Refresh(world.node).step()
    assert ([key for key, *_ in world.rows("slot")], aside(world)) == ([1], [])


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "without-c"])
def test_a_row_that_fits_no_longer_is_written_anew(world: World, whole: bool) -> None:
    with_tables(world, SLOT, "CREATE UNIQUE INDEX slot_a ON slot (a)")
    world.receive(Origin("a").tx(slot(1, "p", 1, 10, "old")).body)
    world.receive(Origin("b").tx(slot(2, "p", 1, 20)).body)
    renamed(world)
    Refresh(world.node).step()
    row = {"id": 1, "d": "q", "b": 1, "c": "new"}
    if not whole:
        del row["c"]
        TABLES["slot"] = TableMeta(pk=("id",), columns={"id": "int", "d": "text", "b": "int"})
    world.receive(Origin("a", lsn=1, made=1).tx(Write("U", "slot", row, 30, Version(0, 10, "a"))).body)
    assert (world.letters(), aside(world)) == ([], [])
    assert world.rows("slot") == [(1, "q", 1, "new" if whole else "old"), (2, "p", 1, None)]


def test_a_row_that_stepped_back_goes_along_when_its_table_is_renamed(world: World) -> None:
    """Under the old name it would be nobody's, and a look for rows that are gone would take it for deleted."""
    with_tables(world, SLOT, "CREATE UNIQUE INDEX slot_a ON slot (a)")
    world.receive(Origin("a").tx(slot(1, "p", 1, 10)).body)
    world.receive(Origin("b").tx(slot(2, "p", 1, 20)).body)
    with_tables(world, "ALTER TABLE slot RENAME TO place")
    seal_all(world)
    assert (own_changes(world), aside(world)) == (0, [("place", 1)])
    refresh = Refresh(world.node)
    refresh.step()
    world.execute("DELETE FROM place WHERE id = 2")
    own_changes(world)
    refresh.step()
    assert (world.rows("place"), aside(world)) == ([(1, "p", 1, None)], [])


def test_an_import_ends_with_what_the_application_did_followed_up(world: World, tmp_path: Path) -> None:
    clash(world)
    world.execute("DELETE FROM code WHERE id = 2")
    file = tmp_path / "one.jsonl"
    file.write_bytes(Origin("z").put(1, "one", 10).body)
    work = FileImport(world.node, ImportRules())
    files, report = work.look([file])
    work.apply(files, report, lambda _: None)
    assert (world.rows("code"), aside(world)) == ([(1, "x")], [])


def test_a_large_tx_with_clashes(world: World) -> None:
    """Parts are applied slice by slice; what clashes between slices only is no clash, and no conflict on record."""
    count = 6_000
    clash(world)
    writes = [code(10 + n, f"v{n}", 100) for n in range(count)]
    # Freed last, used first: by the row that the second slice holds.
    writes = [code(9, "x", 100), *writes, code(2, "other", 101, Version(0, 20, "b"), "U")]
    world.receive(*Origin("l").tx(*writes).parts(200_000))
    assert world.letters() == []
    assert world.one("SELECT count(*) FROM code") == count + 2
    assert aside(world) == [("code", 1)]
    assert world.query("SELECT id FROM code WHERE code = 'x'") == [(9,)]
    world.receive(*Origin("k").tx(*(code(10_000 + n, f"v{n}", 50) for n in range(count))).parts(200_000))
    assert world.one("SELECT count(*) FROM rf_stepped_back") == count + 1
    assert world.one("SELECT count(*) FROM rf_conflict WHERE kind = 'unique'") == count + 1


def test_a_dead_letter_tells_which_of_its_rows_would_step_back(world: World) -> None:
    child = Write("I", "child", {"id": 1, "parent_id": 7}, 22)
    letter = Origin("a").tx(code(1, "x", 20), code(2, "y", 21), child)
    world.receive(letter.body, Origin("b").tx(code(9, "x", 50)).body)
    world.execute("INSERT INTO parent VALUES (7, 'p')")
    with reading(world.node.database) as connection:
        (found,) = find(connection, Selection())
    shown = show(world.node, found)
    effects = [(row["table"], row["pk"], row["effect"]) for row in shown["rows"]]
    assert effects == [("code", {"id": 1}, "aside"), ("code", {"id": 2}, "writes"), ("child", {"id": 1}, "writes")]
    assert (shown["blocked_by"], aside(world)) == (None, [])
    assert effect_of(shown["rows"][0]).says == "would step back"


def test_a_dry_run_leaves_nothing(world: World) -> None:
    world.receive(Origin("a").tx(code(1, "x", 10)).body)
    (tx,) = Arrivals(world.node, Inbox(world.node)).read(Delivery(Origin("b").tx(code(2, "x", 20)).body, "test", None))
    result = Applier(world.node).try_out(tx, lambda _: None)
    assert result.error is None
    assert (world.rows("code"), aside(world)) == ([(1, "x")], [])


def test_tables_without_such_keys_ask_nothing(world: World) -> None:
    """The one question is whether any row has stepped back at all."""
    clash(world)
    with world.node.database.engine.connect() as connection:
        assert store.tables_with_copies(connection) == {"code"}
    shapes = world.node.captured_tables()
    assert not concerns({"code"}, {"item", "parent"}, shapes)
    assert concerns({"child"}, {"parent"}, shapes)
    assert concerns({"code"}, {"code"}, shapes)
