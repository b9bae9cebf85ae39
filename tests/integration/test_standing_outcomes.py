"""Every line of the table in docs/DB_SYNC_POLICY.md, section 7: three real nodes of both kinds, in both orders."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from consumer.standing.refresh import Refresh
from tests.support.applying import World, close_world, open_world, sqlite_url
from tests.support.writers import Writer

pytestmark = pytest.mark.containers

HOUR = 3_600.0
SETUP = (
    "INSERT INTO parent VALUES (7, 'seven', NULL)",
    "INSERT INTO parent VALUES (8, 'eight', NULL)",
    "INSERT INTO child VALUES (1, 7, 'known')",
)
Rows = set[tuple[Any, ...]]


@dataclass(frozen=True)
class Line:
    """One line: what two nodes did without knowing of each other, and what stands in the end, on every node."""

    name: str
    action: str
    """Of the foreign key, on every node."""
    one: tuple[str, ...]
    other: tuple[str, ...]
    parents: Rows
    children: Rows
    aside: Rows = field(default_factory=set)
    """Table and key of the rows that have stepped back."""
    other_is_later: bool = True
    afterwards: tuple[str, ...] = ()
    """What the first node does when all have seen all, after which all children stand."""
    at_last: Rows = field(default_factory=set)


SEVEN, EIGHT, KNOWN = (7, "seven"), (8, "eight"), (1, 7, "known")
ADD = ("INSERT INTO child VALUES (2, 7, 'new')",)
NEW = (2, 7, "new")
AGAIN = ("INSERT INTO parent VALUES (7, 'again', NULL)",)
DELETE = ("DELETE FROM child WHERE parent_id = 7", "DELETE FROM parent WHERE id = 7")
TOUCH = ("UPDATE child SET note = 'touched' WHERE id = 1",)
TOUCHED = (1, 7, "touched")
MOVE = ("UPDATE parent SET id = 9 WHERE id = 7",)
NINE = (9, "seven")

LINES = (
    Line("deleted x added", "", DELETE, ADD, {EIGHT}, set(), {("child", 2)}, True, AGAIN, {NEW}),
    Line("deleted x added, earlier", "", DELETE, ADD, {EIGHT}, set(), {("child", 2)}, False, AGAIN, {NEW}),
    Line("cascade x added", "ON DELETE CASCADE", DELETE[1:], ADD, {EIGHT}, set(), {("child", 2)}, True, AGAIN, {NEW}),
    Line("restrict x added", "ON DELETE RESTRICT", DELETE, ADD, {EIGHT}, set(), {("child", 2)}, True, AGAIN, {NEW}),
    Line(
        "set null x added", "ON DELETE SET NULL", DELETE[1:], ADD,
        {EIGHT}, {(1, None, "known")}, {("child", 2)}, True, AGAIN, {(1, None, "known"), NEW},
    ),
    Line(
        "cascade x changed later", "ON DELETE CASCADE", DELETE[1:], TOUCH,
        {EIGHT}, set(), {("child", 1)}, True, AGAIN, {TOUCHED},
    ),
    Line("cascade x changed earlier", "ON DELETE CASCADE", DELETE[1:], TOUCH, {EIGHT}, set(), set(), False),
    Line("deleted x changed later", "", DELETE, TOUCH, {EIGHT}, set(), {("child", 1)}, True, AGAIN, {TOUCHED}),
    Line(
        "set null x changed later", "ON DELETE SET NULL", DELETE[1:], TOUCH,
        {EIGHT}, set(), {("child", 1)}, True, AGAIN, {TOUCHED},
    ),
    Line(
        "set null x changed earlier", "ON DELETE SET NULL", DELETE[1:], TOUCH,
        {EIGHT}, {(1, None, "known")}, set(), False,
    ),
    Line(
        "deleted x moved to it", "",
        ("DELETE FROM parent WHERE id = 8",), ("UPDATE child SET parent_id = 8 WHERE id = 1",),
        {SEVEN}, set(), {("child", 1)}, True, ("INSERT INTO parent VALUES (8, 'again', NULL)",), {(1, 8, "known")},
    ),
    Line(
        "deleted x moved away", "",
        DELETE, ("UPDATE child SET parent_id = 8 WHERE id = 1",),
        {EIGHT}, {(1, 8, "known")}, set(), True,
    ),
    Line(
        "deleted x child's key moved", "",
        DELETE, ("UPDATE child SET id = 3 WHERE id = 1",),
        {EIGHT}, set(), {("child", 3)}, True, AGAIN, {(3, 7, "known")},
    ),
    Line(
        "moved with its children x added", "ON UPDATE CASCADE", MOVE, ADD,
        {NINE, EIGHT}, {(1, 9, "known")}, {("child", 2)}, True, AGAIN, {(1, 9, "known"), NEW},
    ),
    Line(
        "moved with its children x changed later", "ON UPDATE CASCADE", MOVE, TOUCH,
        {NINE, EIGHT}, set(), {("child", 1)}, True, AGAIN, {TOUCHED},
    ),
    Line(
        "changed x added", "", ("UPDATE parent SET name = 'other' WHERE id = 7",), ADD,
        {(7, "other"), EIGHT}, {KNOWN, NEW}, set(),
    ),
    Line(
        "steps back x added", "",
        ("INSERT INTO parent VALUES (5, 'same', NULL)", "INSERT INTO child VALUES (5, 5, 'five')"),
        ("INSERT INTO parent VALUES (6, 'same', NULL)", "INSERT INTO child VALUES (6, 6, 'six')"),
        {SEVEN, EIGHT, (6, "same")}, {KNOWN, (6, 6, "six")}, {("parent", 5), ("child", 5)}, True,
        ("UPDATE parent SET name = 'unlike' WHERE id = 6",), {KNOWN, (5, 5, "five"), (6, 6, "six")},
    ),
)  # fmt: skip


def schema(action: str) -> tuple[str, ...]:
    return (
        "CREATE TABLE parent (id INTEGER PRIMARY KEY, name TEXT UNIQUE, note TEXT)",
        f"CREATE TABLE child (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES parent (id) {action}, note TEXT)",
    )


@dataclass
class Three:
    """The node that does the one thing, the node that does the other, and one that looks on."""

    worlds: list[World]
    writers: list[Writer]

    def write(self, place: int, *statements: str) -> None:
        self.writers[place].write(lambda _dice, _name: list(statements))

    def bodies(self, place: int) -> list[bytes]:
        return self.writers[place].new_bodies()

    def sealed(self, place: int) -> list[bytes]:
        found = self.bodies(place)
        assert found, "what a node refuses is no line of the table"
        return found

    def settle(self) -> None:
        for world in self.worlds:
            Refresh(world.node).catch_up()

    def rows(self, place: int) -> tuple[Rows, Rows, Rows]:
        world = self.worlds[place]
        aside = world.query("SELECT table_name, facts FROM rf_stepped_back")
        keys = {(table, json.loads(json.loads(facts)["pk"])["id"]) for table, facts in aside}
        return {row[:2] for row in world.rows("parent")}, set(world.rows("child")), keys


@pytest.fixture(params=["sqlite-postgresql-sqlite", "postgresql-sqlite-postgresql"])
def kinds(request: pytest.FixtureRequest) -> list[str]:
    return str(request.param).split("-")


@pytest.fixture
def open_three(kinds: list[str], tmp_path: Path, postgres_server: Any, pg_database_factory: Any) -> Iterator[Any]:
    with ExitStack() as closing:

        def opened(line: Line) -> Three:
            worlds = []
            for name, kind in zip("abc", kinds, strict=True):
                url = sqlite_url(tmp_path, f"{name}.db") if kind == "sqlite" else pg_database_factory(postgres_server)
                node = {"id": name, "database": url, "role": "branch"}
                worlds.append(open_world(url, schema(line.action), node=node))
                closing.callback(close_world, worlds[-1])
            skews = [0.0, HOUR if line.other_is_later else -HOUR, 0.0]
            return Three(worlds, [Writer(w, random.Random(0), s) for w, s in zip(worlds, skews, strict=True)])

        yield opened


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
def test_a_line_of_the_table(open_three: Any, kinds: list[str], line: Line) -> None:
    """Each of the first two nodes sees the other's write second; the third is on one kind of database or the other,
    and sees the one first there, the other here."""
    three: Three = open_three(line)
    three.write(2, *SETUP)
    first = three.sealed(2)
    three.worlds[0].receive(*first)
    three.worlds[1].receive(*first)
    three.write(0, *line.one)
    three.write(1, *line.other)
    one, other = three.sealed(0), three.sealed(1)
    three.worlds[0].receive(*other)
    three.worlds[1].receive(*one)
    three.worlds[2].receive(*([*one, *other] if kinds[2] == "sqlite" else [*other, *one]))
    three.settle()
    for place in range(3):
        assert three.rows(place) == (line.parents, line.children, line.aside), f"node {'abc'[place]}"
    assert_recorded(three, line)
    if line.afterwards:
        writer = 1 if line.name.startswith("steps back") else 0
        three.write(writer, *line.afterwards)
        three.settle()
        again = three.sealed(writer)
        for place in range(3):
            if place != writer:
                three.worlds[place].receive(*again)
            assert three.rows(place)[1:] == (line.at_last, set()), f"node {'abc'[place]}"
    three.settle()
    for place, world in enumerate(three.worlds):
        assert three.bodies(place) == [], "stepping back and returning is no write of anybody"
        assert world.letters() == []


def assert_recorded(three: Three, line: Line) -> None:
    kinds = {"parent": "unique", "child": "foreign-key"}
    for world in three.worlds:
        found = world.query(
            "SELECT table_name, pk, kind, state FROM rf_conflict WHERE kind IN ('unique', 'foreign-key')"
        )
        steps = {(table, json.loads(pk)["id"], kind, state) for table, pk, kind, state in found}
        assert steps == {(table, key, kinds[table], "settled") for table, key in line.aside}
