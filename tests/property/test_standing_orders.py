"""Every order of a few txs, on one node: the same rows stand, those that the rule names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, permutations
from typing import Any

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from common.versions import Version
from common.wire.records import TableMeta
from tests.support.applying import TABLES, Origin, Tx, World, Write, close_world, open_world, sqlite_url
from tests.support.standing_model import Model

SCHEMA = (
    "CREATE TABLE shelf (id INTEGER PRIMARY KEY, place TEXT UNIQUE)",
    "CREATE TABLE book (id INTEGER PRIMARY KEY, shelf_id INTEGER REFERENCES shelf (id), title TEXT UNIQUE)",
    "CREATE TABLE folder (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES folder (id), path TEXT UNIQUE)",
)
METAS = {
    "shelf": TableMeta(pk=("id",), columns={"id": "int", "place": "text"}),
    "book": TableMeta(pk=("id",), columns={"id": "int", "shelf_id": "int", "title": "text"}),
    "folder": TableMeta(pk=("id",), columns={"id": "int", "parent_id": "int", "path": "text"}),
}
KEYS = range(3)
VALUES = ["a", "b", None]
_numbers = count()


@dataclass(frozen=True)
class Plan:
    """A write before it is known in which corner of the database it happens."""

    op: str
    table: str
    key: int
    value: str | None
    parent: int | None
    hlc: int
    base: Version | None
    source: str

    def write(self, corner: int) -> Write:
        """Return the write in one corner: with keys, values and nodes of its own."""
        at = corner * 10
        row: dict[str, Any] = {"id": at + self.key}
        value = None if self.value is None else f"{corner}{self.value}"
        parent = None if self.parent is None else at + self.parent
        match self.table:
            case "shelf":
                row["place"] = value
            case "book":
                row |= {"shelf_id": parent, "title": value}
            case _:
                row |= {"parent_id": parent, "path": value}
        base = None if self.base is None else Version(0, self.base.hlc, f"{self.base.node_id}{corner}")
        return Write(self.op, self.table, row, self.hlc, base)


@st.composite
def histories(draw: st.DrawFn, tables: tuple[str, ...]) -> list[list[Plan]]:
    """Txs of a few nodes; first one that makes every row, so that nobody points to what was never known."""
    last: dict[tuple[str, int], Version] = {}
    first = []
    for table in tables:
        for key in KEYS:
            last[table, key] = Version(0, 1, "o")
            first.append(Plan("I", table, key, f"x{table}{key}", None, 1, None, "o"))
    txs = [first]
    for source in draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=3, unique=True)):
        plans, seen = [], dict(last) if draw(st.booleans()) else dict.fromkeys(last, Version(0, 1, "o"))
        places = [(table, key) for table in tables for key in KEYS]
        for table, key in draw(st.lists(st.sampled_from(places), min_size=1, max_size=4, unique=True)):
            base = seen[table, key]
            hlc = max(draw(st.integers(2, 6)), base.hlc + 1)
            op = draw(st.sampled_from("UUD"))
            plan = Plan(
                op, table, key, draw(st.sampled_from(VALUES)), draw(st.sampled_from([0, 1, 2, None])), hlc, base, source
            )
            last[table, key] = Version(0, hlc, source)
            plans.append(plan)
        txs.append(plans)
    return txs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    TABLES.update(METAS)
    made = open_world(sqlite_url(tmp_path_factory.mktemp("orders")), SCHEMA)
    made.execute("PRAGMA journal_mode=WAL")
    yield made
    close_world(made)
    for name in METAS:
        del TABLES[name]


def delivered(world: World, history: list[list[Plan]], order: tuple[int, ...]) -> tuple[Any, list[bytes], int]:
    """Apply the txs in that order in a new corner; return the rows there as they are named in any corner."""
    corner = next(_numbers)
    origins: dict[str, Origin] = {}
    txs: list[Tx] = []
    for plans in history:
        source = f"{plans[0].source}{corner}"
        txs.append(origins.setdefault(source, Origin(source)).tx(*(plan.write(corner) for plan in plans)))
    world.receive(txs[0].body)
    for place in order:
        world.receive(txs[place].body)
    return rows_of(world, corner), [tx.body for tx in txs], corner


def rows_of(world: World, corner: int) -> set[tuple[Any, ...]]:
    found: set[tuple[Any, ...]] = set()
    for table in METAS:
        for row in world.query(f"SELECT * FROM {table} WHERE id / 10 = {corner}"):
            found.add((table, *(_plain(value, corner) for value in row)))
    return found


def _plain(value: Any, corner: int) -> Any:
    if isinstance(value, int):
        return value - corner * 10
    return value if value is None else value.removeprefix(str(corner))


@given(histories(("shelf", "book")))
def test_every_order_ends_as_the_rule_says(world: World, history: list[list[Plan]]) -> None:
    for order in permutations(range(1, len(history))):
        found, bodies, corner = delivered(world, history, order)
        note(f"{order}: {found}")
        model = Model(
            {"shelf": lambda row: [row["place"]], "book": lambda row: [row["title"]]}, {"book": {"shelf_id": "shelf"}}
        )
        model.take(bodies)
        rows = model.standing(("shelf", "book"))
        expected = {(table, *(_plain(one, corner) for one in row.values())) for (table, _), row in rows.items()}
        assert found == expected
    assert world.letters() == []


# Each is delivered in up to six orders to a database, a third of a second: fewer, for the quick half's sake.
@settings(max_examples=settings().max_examples // 3)
@given(histories(("folder",)))
def test_rows_in_circles_end_the_same_in_every_order(world: World, history: list[list[Plan]]) -> None:
    ends = [delivered(world, history, order)[0] for order in permutations(range(1, len(history)))]
    note(json.dumps([sorted(map(repr, end)) for end in ends], indent=1))
    assert all(end == ends[0] for end in ends)
    paths = [path for *_, path in ends[0] if path is not None]
    assert len(paths) == len(set(paths))
    keys = {key for _, key, *_ in ends[0]}
    assert all(parent is None or parent in keys for _, _, parent, _ in ends[0])
    assert world.letters() == []


def test_a_row_that_leaves_a_circle_lets_its_rivals_be_told_apart_anew(world: World) -> None:
    """Folder 2 descended from its rival 1, over 0, and stepped back for it; then 0 is no child of 1 any more."""
    made = Version(0, 1, "o")
    history = [
        [Plan("I", "folder", key, f"x{key}", None, 1, None, "o") for key in KEYS],
        [
            Plan("U", "folder", 1, "a", 0, 2, made, "a"),
            Plan("U", "folder", 0, "b", 1, 2, made, "a"),
            Plan("U", "folder", 2, "a", 0, 2, made, "a"),
        ],
        [Plan("U", "folder", 0, "b", 0, 2, made, "b")],
    ]
    ends = [delivered(world, history, order)[0] for order in permutations((1, 2))]
    assert ends == [{("folder", 0, 0, "b"), ("folder", 2, 0, "a")}] * 2
