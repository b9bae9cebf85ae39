"""Two nodes damaged at random: every row that differs is named and no other, and a repair makes them the same."""

from __future__ import annotations

import io
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.transports.http.answers import RowsTaken, RowTaken
from common.versions import Version
from common.wire.digests import Reading, RowLine
from common.wire.signing import ANYBODY
from consumer.verifying.comparing import Comparison
from consumer.verifying.differences import State
from consumer.verifying.repairing import REPAIRED, Peer, Repairing
from consumer.verifying.sides import OwnSide
from consumer.verifying.taking import RowTaking
from tests.support.applying import Origin, World, Write, close_world, open_world, sqlite_url
from tests.support.either import KINDS
from tests.support.verifying import damage

A, B = "a", "b"
DDL = (
    "CREATE TABLE parent (id integer PRIMARY KEY, name text)",
    "CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric(12, 2))",
    "CREATE TABLE child (id integer PRIMARY KEY, parent_id integer NOT NULL REFERENCES parent (id))",
)


class InProcess:
    """What stands for the client of the other node: its rows are taken there at once."""

    url = "in-process"

    def __init__(self, taking: RowTaking) -> None:
        self._taking = taking

    def send_rows(self, body: bytes) -> RowsTaken:
        reading = Reading(io.BytesIO(body), ANYBODY)
        lines = [line for line in reading if isinstance(line, RowLine)]
        taken = self._taking.take(lines, reading.head.tables)
        return RowsTaken(results=tuple(RowTaken(outcome=one.outcome, why=one.why, reason=one.reason) for one in taken))


@pytest.fixture(params=KINDS)
def worlds(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[World, World]]:
    url = sqlite_url(tmp_path, "b.db")
    if request.param == "postgresql":
        url = request.getfixturevalue("pg_database")
    one = open_world(sqlite_url(tmp_path, "a.db"), DDL, node={"id": A})
    other = open_world(url, DDL, node={"id": B})
    yield one, other
    close_world(one)
    close_world(other)


def filled(worlds: tuple[World, World], rng: random.Random) -> None:
    """Give both the same rows, of several writers, with some changed and some deleted since."""
    for name in ("x", "y", A, B):
        origin = Origin(name)
        ids = range(*{"x": (0, 60), "y": (60, 90), A: (90, 110), B: (110, 130)}[name])
        writes = [Write("I", "item", {"id": i, "name": f"ä{i}", "price": f"{i}.50"}, 10 + i) for i in ids]
        parents = [Write("I", "parent", {"id": i, "name": "p"}, 10) for i in ids if i % 7 == 0]
        children = [Write("I", "child", {"id": i, "parent_id": i}, 11) for i in ids if i % 7 == 0]
        bodies = [origin.tx(*writes, *parents, *children).body]
        for i in rng.sample(ids, 5):
            row = {"id": i, "name": f"ä{i}", "price": f"{i}.50"}
            op = rng.choice("UD")
            base = Version(0, writes[ids.index(i)].hlc, name)
            change = row if op == "D" else row | {"name": "changed"}
            bodies.append(origin.tx(Write(op, "item", change, 1000 + i, base)).body)
        for world in worlds:
            if world.node.facts.node_id != name:
                world.receive(*bodies)
            else:
                _as_own(world, bodies)


def _as_own(world: World, bodies: list[bytes]) -> None:
    """A node's own rows: as if another life of it had made them, and they came back by a forwarder."""
    facts = replace(world.node.facts, node_id="nobody")
    stand_in = World(replace(world.node, facts=facts), world.clock)
    stand_in.receive(*bodies)
    for intake in stand_in.intakes:
        intake.close()


def broken(world: World, rng: random.Random) -> None:
    """Change, delete and add rows past all triggers, and forget versions."""
    url = world.node.config.node.database
    statements = []
    for i in rng.sample(range(130), rng.randint(1, 25)):
        kind = rng.choice(("change", "delete", "forget", "child", "parent"))
        statements += {
            "change": [f"UPDATE item SET name = '{rng.choice('äzA')}{rng.randint(0, 3)}' WHERE id = {i}"],
            "delete": [f"DELETE FROM item WHERE id = {i}"],
            "forget": [f"DELETE FROM item WHERE id = {i}", f"DELETE FROM rf_row_version WHERE key = {_named(url, i)}"],
            "child": [f"DELETE FROM child WHERE id = {i}"],
            "parent": [f"DELETE FROM child WHERE parent_id = {i}", f"DELETE FROM parent WHERE id = {i}"],
        }[kind]
    if statements:
        damage(url, *statements)


def _named(url: str, number: int) -> str:
    return f"'[{number}]'" if url.startswith("sqlite") else f"'{{\"id\":{number}}}'"


def rows(world: World) -> dict[tuple[str, int], Any]:
    found: dict[tuple[str, int], Any] = {}
    for table, columns in (("item", "name, price"), ("parent", "name"), ("child", "parent_id")):
        for key, *values in world.query(f"SELECT id, {columns} FROM {table}"):
            found[table, key] = [None if value is None else str(value).removesuffix("0") for value in values]
    return found


def compared(one: World, other: World) -> Comparison:
    comparison = Comparison(OwnSide(one.node), OwnSide(other.node), None, 0, lambda _: None)
    comparison.count()
    return comparison


@pytest.mark.parametrize("seed", range(4))
def test_what_differs_is_named_and_repaired(worlds: tuple[World, World], seed: int) -> None:
    rng, (one, other) = random.Random(seed), worlds
    filled(worlds, rng)
    assert rows(one) == rows(other)
    assert list(compared(one, other).rounds()) == []
    broken(one, rng)
    broken(other, rng)
    here, there = rows(one), rows(other)
    expected = {key for key in here.keys() | there.keys() if here.get(key) != there.get(key)}
    comparison = compared(one, other)
    found = [row for some in comparison.rounds() for row in some]
    named = {(row.table, row.pk["id"]) for row in found}
    by_version = {(row.table, row.pk["id"]) for row in found if row.document()["same_values"]}
    assert expected <= named, seed
    assert named - expected <= by_version, seed
    assert {row.state for row in found} <= {State.DIFFERENT, State.IN_FLIGHT}, seed

    forms = {name: common.forms for name, common in comparison.fit.tables.items()}
    client: Any = InProcess(RowTaking(other.node, A, "test", may_forward=True))
    taking = RowTaking(one.node, B, "test", may_forward=True)
    sides = OwnSide(one.node), OwnSide(other.node)
    states = REPAIRED | {State.IN_FLIGHT}
    repairing = Repairing(one.node, sides, Peer(B, client, taking), forms, states, lambda _: None)
    for _ in range(3):
        left = [row for some in compared(one, other).rounds() for row in some]
        repairing.repair(left)
    left = [row for some in compared(one, other).rounds() for row in some]
    assert [row.document() for row in left] == [], seed
    assert rows(one) == rows(other), seed
    for world in worlds:
        assert world.letters_open() == []
        # Nothing of it is taken for a write of the node's own.
        assert world.query("SELECT count(*) FROM rf_tx") == [(0,)]


def test_a_copy_of_a_file_is_equal_whatever_order_its_rows_are_in(tmp_path: Path) -> None:
    one = open_world(sqlite_url(tmp_path, "a.db"), DDL, node={"id": A})
    other = open_world(sqlite_url(tmp_path, "b.db"), DDL, node={"id": B})
    origin = Origin("x")
    bodies = [origin.tx(Write("I", "item", {"id": i, "name": "n", "price": "1"}, 10)).body for i in range(50)]
    one.receive(*bodies)
    other.receive(*reversed(bodies))
    with closing(sqlite3.connect(tmp_path / "b.db")) as raw, raw:
        raw.execute("CREATE TABLE held AS SELECT * FROM item ORDER BY random()")
    assert list(compared(one, other).rounds()) == []
    close_world(one)
    close_world(other)
