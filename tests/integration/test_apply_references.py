"""Foreign keys and keys that change places: whatever the order inside a tx and between txs, never an orphan."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.versions import Version
from common.wire.records import TableMeta
from tests.support.applying import (
    DATABASES,
    Origin,
    Tx,
    World,
    Write,
    close_world,
    item,
    open_world,
    sqlite_url,
    world_on,
)

TREE = TableMeta(pk=("id",), columns={"id": "int", "parent_id": "int"})
TABLES_SQL = (
    "CREATE TABLE tree (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES tree (id) ON DELETE CASCADE)",
    "CREATE TABLE named (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL UNIQUE)",
    "CREATE TABLE by_name (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES named (parent_id) ON UPDATE CASCADE)",
)
RING = {
    "sqlite": (
        "CREATE TABLE ring_a (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL REFERENCES ring_b (id)"
        " DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TABLE ring_b (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL REFERENCES ring_a (id)"
        " DEFERRABLE INITIALLY DEFERRED)",
    ),
    "postgresql": (
        "CREATE TABLE ring_b (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL)",
        "CREATE TABLE ring_a (id INTEGER PRIMARY KEY, parent_id INTEGER NOT NULL REFERENCES ring_b (id))",
        "ALTER TABLE ring_b ADD FOREIGN KEY (parent_id) REFERENCES ring_a (id) DEFERRABLE INITIALLY DEFERRED",
    ),
}


def prepare(world: World) -> None:
    world.execute(*TABLES_SQL, *RING[world.node.database.engine.dialect.name])
    world.node.database.capture().install(list(world.node.captured_tables().values()))


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path) as made:
        prepare(made)
        yield made


@pytest.fixture(params=DATABASES)
def careless(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A node whose sources never kept their foreign keys."""
    with world_on(request, tmp_path, tables={"foreign_keys": "ignore"}) as made:
        prepare(made)
        yield made


def origin(node_id: str) -> Origin:
    made = Origin(node_id)
    made.tables |= dict.fromkeys(("tree", "named", "by_name", "ring_a", "ring_b"), TREE)
    return made


def stepped_back(world: World) -> list[tuple[str, int]]:
    """Table and key of the rows that do not stand, though nobody deleted them."""
    rows = world.query("SELECT table_name, facts FROM rf_stepped_back ORDER BY table_name, key")
    return [(table, json.loads(json.loads(facts)["pk"])["id"]) for table, facts in rows]


def row(op: str, table: str, row_id: int, parent: int | None, hlc: int, base: int | None = None) -> Write:
    return Write(op, table, {"id": row_id, "parent_id": parent}, hlc, None if base is None else Version(0, base, "a"))


def test_children_stand_before_their_parents_in_one_tx(world: World) -> None:
    a = origin("a")
    world.receive(a.tx(*(row("I", "tree", n, n - 1 or None, 10 + n) for n in range(5, 0, -1))).body)
    assert world.rows("tree") == [(1, None), (2, 1), (3, 2), (4, 3), (5, 4)]
    # What cascaded at the source is in the batch, and nothing cascades here.
    world.receive(a.tx(*(row("D", "tree", n, n - 1 or None, 20 + n, 10 + n) for n in (1, 3, 2, 5, 4))).body)
    assert world.rows("tree") == []
    assert world.letters() == []


def test_children_step_back_with_a_parent_that_is_deleted_without_them(world: World) -> None:
    a = origin("a")
    world.receive(a.tx(*(row("I", "tree", n, n - 1 or None, 10 + n) for n in (1, 2, 3))).body)
    world.receive(a.tx(row("D", "tree", 1, None, 21, 11)).body)
    assert world.rows("tree") == []
    assert stepped_back(world) == [("tree", 2), ("tree", 3)]
    world.receive(a.tx(row("D", "tree", 2, 1, 22, 12)).body)
    assert stepped_back(world) == [("tree", 3)]
    world.receive(a.tx(row("U", "tree", 3, None, 23, 13)).body)
    assert (world.rows("tree"), stepped_back(world)) == ([(3, None)], [])
    assert world.letters() == []


def test_tables_that_point_at_each_other(world: World) -> None:
    a = origin("a")
    world.receive(a.tx(row("I", "ring_b", 1, 1, 10), row("I", "ring_a", 1, 1, 11)).body)
    world.receive(a.tx(row("I", "ring_a", 2, 2, 12), row("I", "ring_b", 2, 2, 13)).body)
    assert (world.rows("ring_a"), world.rows("ring_b")) == ([(1, 1), (2, 2)], [(1, 1), (2, 2)])
    half = a.tx(row("I", "ring_a", 3, 3, 14))
    world.receive(half.body)
    assert world.letters() == [(half.tx_id, "foreign-key", "early")]
    world.receive(a.tx(row("D", "ring_a", 1, 1, 20, 11), row("D", "ring_b", 1, 1, 21, 10)).body)
    assert (world.rows("ring_a"), world.rows("ring_b")) == ([(2, 2)], [(2, 2)])


def test_txs_that_need_each_other_go_in_one_commit_or_wait_for_a_person(world: World) -> None:
    """No source that keeps its foreign keys makes such txs; those of two nodes may come to it."""
    one, other = origin("a").tx(row("I", "ring_a", 1, 1, 10)), origin("b").tx(row("I", "ring_b", 1, 1, 11))
    world.receive(one.body + other.body)
    assert (world.rows("ring_a"), world.rows("ring_b")) == ([(1, 1)], [(1, 1)])
    assert world.letters() == []


def test_a_parent_by_another_unique_column(world: World) -> None:
    a = origin("a")
    world.receive(a.tx(row("I", "named", 1, 70, 10), row("I", "by_name", 1, 70, 11)).body)
    world.receive(a.tx(row("U", "named", 1, 71, 20, 10)).body)
    assert (world.rows("named"), world.rows("by_name")) == ([(1, 71)], [])
    assert (world.letters(), stepped_back(world)) == ([], [("by_name", 1)])
    world.receive(a.tx(row("U", "by_name", 1, None, 30, 11)).body)
    assert (world.rows("named"), world.rows("by_name")) == ([(1, 71)], [(1, None)])
    both = a.tx(row("U", "by_name", 1, 71, 40, 30), row("U", "named", 1, 71, 41, 20))
    world.receive(both.body)
    # The cascade of an update of the parent: both rows are in the batch.
    world.receive(a.tx(row("U", "named", 1, 72, 50, 41), row("U", "by_name", 1, 72, 51, 40)).body)
    assert (world.rows("named"), world.rows("by_name")) == ([(1, 72)], [(1, 72)])


def pass_patience(world: World) -> None:
    world.clock.pass_seconds(world.node.config.limits.early_seconds + 1)
    world.receive()


@pytest.mark.parametrize("deleted", [False, True])
def test_a_child_of_a_value_that_is_gone_ends_alike_whichever_came_first(world: World, deleted: bool) -> None:
    """Nobody keeps which values there once were: where the child comes last it waits first, and then steps back."""
    first = origin("a").tx(row("I", "named", 1, 70, 10))
    gone = origin("b").tx(row("D" if deleted else "U", "named", 1, 70 if deleted else 71, 20, 10))
    child = origin("c").tx(row("I", "by_name", 1, 70, 15), row("I", "tree", 9, None, 16))
    world.receive(first.body, gone.body, child.body)
    assert world.letters() == [(child.tx_id, "foreign-key", "early")]
    pass_patience(world)
    assert world.letters() == [(child.tx_id, "foreign-key", "replayed")]
    assert (world.rows("by_name"), world.rows("tree"), stepped_back(world)) == ([], [(9, None)], [("by_name", 1)])
    assert world.query("SELECT table_name, kind FROM rf_conflict") == [("by_name", "foreign-key")]
    # Somebody takes up the value: the child has its parent again.
    world.receive(origin("d").tx(row("I", "named", 2, 70, 30)).body)
    assert (world.rows("by_name"), stepped_back(world)) == ([(1, 70)], [])


def test_a_child_that_was_dead_for_want_of_a_value_steps_back_when_it_is_tried_again(world: World) -> None:
    child = origin("c").tx(row("I", "by_name", 1, 70, 15))
    world.receive(child.body)
    world.execute("UPDATE rf_dead_letter SET state = 'dead', first_failed_us = 0")
    world.clock.pass_seconds(61)
    world.receive(origin("a").tx(row("I", "named", 2, 71, 10)).body)
    assert world.letters() == [(child.tx_id, "foreign-key", "replayed")]
    assert (world.rows("by_name"), stepped_back(world)) == ([], [("by_name", 1)])


def test_a_child_that_has_stepped_back_does_not_wait_when_it_is_written_again(world: World) -> None:
    """Its author had not seen that the value is gone."""
    a, c = origin("a"), origin("c")
    world.receive(a.tx(row("I", "named", 1, 70, 10), row("I", "by_name", 1, 70, 11)).body)
    world.receive(a.tx(row("D", "named", 1, 70, 20, 10)).body)
    again = c.tx(row("U", "by_name", 1, 70, 15, 11), row("I", "tree", 9, None, 16))
    world.receive(again.body)
    assert (world.letters(), world.rows("tree"), stepped_back(world)) == ([], [(9, None)], [("by_name", 1)])
    kept = json.loads(str(world.one("SELECT version FROM rf_stepped_back WHERE table_name = 'by_name'")))
    assert kept == [0, 15, "c"]


def test_keys_that_change_places_in_one_tx(world: World) -> None:
    a = Origin("a")
    world.receive(a.tx(item(1, "one", 10), item(2, "two", 11)).body)
    world.receive(
        a.tx(
            item(1, "one", 20, Version(0, 10, "a"), "D"),
            item(2, "two", 21, Version(0, 11, "a"), "D"),
            item(2, "one", 22, Version(0, 21, "a")),
            item(1, "two", 23, Version(0, 20, "a")),
        ).body
    )
    assert [(key, name) for key, name, _ in world.rows()] == [(1, "two"), (2, "one")]


def test_unique_values_freed_and_used_again_in_one_tx(world: World) -> None:
    a = Origin("a")
    code: dict[str, Any] = {"table": "code"}
    world.receive(a.tx(Write("I", row={"id": 1, "code": "x"}, hlc=10, **code)).body)
    used_before_freed = [
        Write("I", row={"id": 2, "code": "x"}, hlc=20, **code),
        Write("D", row={"id": 1, "code": "x"}, hlc=21, base=Version(0, 10, "a"), **code),
    ]
    world.receive(a.tx(*used_before_freed).body)
    assert world.rows("code") == [(2, "x")]
    world.receive(
        a.tx(
            Write("U", row={"id": 2, "code": "y"}, hlc=30, base=Version(0, 20, "a"), **code),
            Write("I", row={"id": 1, "code": "x"}, hlc=31, base=Version(0, 21, "a"), **code),
        ).body
    )
    assert world.rows("code") == [(1, "x"), (2, "y")]
    assert world.letters() == []


def parent(op: str, hlc: int, base: Version | None = None) -> Write:
    return Write(op, "parent", {"id": 7, "name": "p"}, hlc, base)


def child_against_parent() -> tuple[Tx, Tx, Tx]:
    """A parent; its delete at one node; a child that another node gives it, not knowing."""
    first = Origin("a").tx(parent("I", 10))
    gone = Origin("b").tx(parent("D", 20, Version(0, 10, "a")))
    child = Origin("c").tx(Write("I", "child", {"id": 1, "parent_id": 7}, 15))
    return first, gone, child


@pytest.mark.parametrize("together", [False, True])
def test_a_child_against_the_delete_of_its_parent(world: World, together: bool) -> None:
    """The child steps back, and returns with its parent; docs/DB_SYNC_POLICY.md, section 7."""
    first, gone, child = child_against_parent()
    world.receive(*([first.body + gone.body + child.body] if together else [first.body, gone.body, child.body]))
    assert (world.rows("parent"), world.rows("child")) == ([], [])
    assert (world.letters(), stepped_back(world)) == ([], [("child", 1)])
    # The parent comes back, later and knowing of its delete.
    world.receive(Origin("b", lsn=1, made=1).tx(parent("I", 30, Version(0, 20, "b"))).body)
    assert (world.rows("parent"), world.rows("child")) == ([(7, "p")], [(1, 7)])
    assert stepped_back(world) == []


def test_a_child_of_a_parent_that_was_never_known_waits_for_it(world: World) -> None:
    first, _, child = child_against_parent()
    world.receive(child.body)
    assert world.letters() == [(child.tx_id, "foreign-key", "early")]
    world.receive(first.body)
    assert (world.rows("parent"), world.rows("child")) == ([(7, "p")], [(1, 7)])


def test_the_delete_of_a_parent_against_its_child(world: World) -> None:
    first, gone, child = child_against_parent()
    world.receive(first.body, child.body, gone.body)
    assert (world.rows("parent"), world.rows("child")) == ([], [])
    assert (world.letters(), stepped_back(world)) == ([], [("child", 1)])


def test_foreign_keys_that_nobody_kept(careless: World) -> None:
    first, gone, child = child_against_parent()
    careless.receive(child.body, first.body, gone.body)
    assert (careless.rows("parent"), careless.rows("child")) == ([], [(1, 7)])
    assert careless.letters() == []
    large = origin("d").tx(*(row("I", "tree", n, n + 1, 10 + n) for n in range(1, 90)))
    careless.receive(*large.parts(4096))
    assert len(careless.rows("tree")) == 89


def test_a_large_tx_whose_children_come_parts_before_their_parents(world: World) -> None:
    count = 6_000
    large = origin("d").tx(*(row("I", "tree", n, n - 1 or None, 10 + n) for n in range(count, 0, -1)))
    world.receive(*large.parts(200_000))
    assert world.one("SELECT count(*) FROM tree") == count
    orphan = origin("e").tx(*(row("I", "tree", n, n + 1, 10 + n) for n in range(count + 1, count + 90)))
    world.receive(*orphan.parts(4096))
    assert world.one("SELECT count(*) FROM tree") == count
    assert world.letters() == [(orphan.tx_id, "foreign-key", "early")]
    world.receive(origin("f").tx(row("I", "tree", count + 90, None, 99)).body)
    assert world.one("SELECT count(*) FROM tree") == count + 90


def test_sqlite_compares_references_under_the_collation_of_the_parent(tmp_path: Path) -> None:
    """`ABC` points to `abc` where the parent's column says so; the delete of `abc` must not leave it behind."""
    schema = (
        "CREATE TABLE word (id TEXT COLLATE NOCASE PRIMARY KEY, kind TEXT)",
        "CREATE TABLE used (id INTEGER PRIMARY KEY, word TEXT REFERENCES word (id))",
    )
    made = open_world(sqlite_url(tmp_path), schema=schema)
    a = Origin("a")
    a.tables |= {
        "word": TableMeta(pk=("id",), columns={"id": "text", "kind": "text"}),
        "used": TableMeta(pk=("id",), columns={"id": "int", "word": "text"}),
    }
    word = Write("I", "word", {"id": "abc", "kind": None}, 10)
    made.receive(a.tx(word, Write("I", "used", {"id": 1, "word": "ABC"}, 11)).body)
    gone = a.tx(replace(word, op="D", hlc=20, base=Version(0, 10, "a")))
    made.receive(gone.body)
    assert (made.letters(), stepped_back(made)) == ([], [("used", 1)])
    assert (made.rows("word"), made.rows("used")) == ([], [])
    made.receive(a.tx(replace(word, hlc=30, base=Version(0, 20, "a"))).body)
    assert (made.rows("word"), made.rows("used")) == ([("abc", None)], [(1, "ABC")])
    close_world(made)
