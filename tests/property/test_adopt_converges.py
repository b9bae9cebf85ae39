"""Three nodes that had rows before they met, adopting, writing and hearing of each other in any order: all end with the
same rows, and every image that had to give way to a first version is on record where it stood."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from common.versions import NEVER
from common.wire.encode import encode_tx
from consumer.adopting.adoption import Wanted, adopt
from consumer.adopting.choosing import From
from consumer.adopting.giving import Giving
from consumer.adopting.report import Report
from consumer.verifying.sides import OwnSide
from tests.support.applying import World, close_world, open_world, sqlite_url
from tests.support.either import KINDS

NAMES = ("main", "a", "z")
IDS = range(1, 13)
DDL = (
    "CREATE TABLE parent (id integer PRIMARY KEY, name text)",
    "CREATE TABLE item (id integer PRIMARY KEY, parent_id integer REFERENCES parent (id), name text)",
)
Rows = dict[tuple[str, int], dict[str, Any]]


class Nodes:
    """Three nodes whose batches reach all others, as by a broker, whenever `carry` is called."""

    def __init__(self, urls: Sequence[str], rng: random.Random, policy: str) -> None:
        self.rng = rng
        self.worlds: dict[str, World] = {}
        self._sent = dict.fromkeys(NAMES, 0)
        self._waiting: dict[str, list[bytes]] = {name: [] for name in NAMES}
        policies = {"policy": {"parent": policy, "item": policy}}
        for name, url in zip(NAMES, urls, strict=True):
            role = "main" if name == "main" else "branch"
            node = {"id": name, "role": role} | ({} if name == "main" else {"main": "main"})
            self.worlds[name] = open_world(url, (*DDL, *self._rows(name)), node=node, tables=policies)
        self.first = {name: rows(world) for name, world in self.worlds.items()}
        self.touched: set[tuple[str, str, int]] = set()
        """Node, table, key: rows that somebody wrote there by hand."""

    def _rows(self, name: str) -> Iterator[str]:
        for i in IDS:
            if self.rng.random() < 0.7:
                yield f"INSERT INTO parent VALUES ({i}, '{self.rng.choice(['same', name])}')"
                if self.rng.random() < 0.7:
                    yield f"INSERT INTO item VALUES ({i}, {i}, '{self.rng.choice(['same', name])}')"

    def write(self) -> None:
        name, i = self.rng.choice(NAMES), self.rng.choice(IDS)
        world = self.worlds[name]
        what = self.rng.choice(("update", "update", "delete", "insert"))
        if what == "update":
            table = self.rng.choice(("parent", "item"))
            world.execute(f"UPDATE {table} SET name = 'by {name} {self.rng.random()}' WHERE id = {i}")
        elif what == "delete":
            table = "item"
            world.execute(f"DELETE FROM item WHERE id = {i}")
        else:
            table = "parent"
            if not world.query(f"SELECT 1 FROM parent WHERE id = {i}"):
                world.execute(f"INSERT INTO parent VALUES ({i}, 'new at {name}')")
        self.touched.add((name, table, i))

    def adopt(self, name: str, side: From) -> Report:
        here, there = self.worlds[name].node, self.worlds["main"].node
        giving = Giving(there, name, "test")
        wanted = Wanted(side, None, False, 100, "test", lambda _: None)
        return adopt(here, OwnSide(there), giving.give, "main", wanted)

    def carry(self, name: str) -> None:
        """Send what a node has sealed to all others; each takes it when it is next `heard`."""
        world = self.worlds[name]
        sealer = world.node.database.sealer(world.node.facts)
        while sealer.seal().more:
            pass
        for tx in world.node.database.log(world.node.facts).read(self._sent[name], 10**9):
            self._sent[name] = tx.header.to_lsn
            for other in NAMES:
                if other != name:
                    self._waiting[other] += [one.body for one in encode_tx(tx, 10**9)]

    def heard(self, name: str) -> None:
        bodies, self._waiting[name] = self._waiting[name], []
        self.rng.shuffle(bodies)
        if bodies:
            self.worlds[name].receive(*bodies)

    def step(self, side: From) -> None:
        match self.rng.choice(("write", "write", "adopt", "carry", "carry", "heard", "heard")):
            case "write":
                self.write()
            case "adopt":
                self.adopt(self.rng.choice(NAMES[1:]), side)
            case "carry":
                self.carry(self.rng.choice(NAMES))
            case _:
                self.heard(self.rng.choice(NAMES))

    def settle(self) -> None:
        for _ in range(2):
            for name in NAMES:
                self.carry(name)
            for name in NAMES:
                self.heard(name)
                # What came before its parent.
                self.worlds[name].clock.pass_seconds(60)
                self.worlds[name].receive()


def rows(world: World) -> Rows:
    found: Rows = {}
    for table, columns in (("parent", ("id", "name")), ("item", ("id", "parent_id", "name"))):
        for values in world.query(f"SELECT {', '.join(columns)} FROM {table}"):
            found[table, values[0]] = dict(zip(columns, values, strict=True))
    return found


@pytest.fixture(params=KINDS)
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    last = request.getfixturevalue("pg_database") if request.param == "postgresql" else sqlite_url(tmp_path, "z.db")
    return [sqlite_url(tmp_path, "main.db"), sqlite_url(tmp_path, "a.db"), last]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", ["lww", "main-wins"])
@pytest.mark.parametrize("side", [*From])
def test_all_end_with_the_same_rows(urls: list[str], seed: int, policy: str, side: From) -> None:
    nodes = Nodes(urls, random.Random(f"{seed} {policy} {side}"), policy)
    try:
        for _ in range(25):
            nodes.step(side)
        nodes.settle()
        for name in NAMES[1:]:
            nodes.adopt(name, side)
            nodes.settle()
        assert nodes.adopt("a", side).rows == nodes.adopt("z", side).rows == []
        ends = {name: rows(world) for name, world in nodes.worlds.items()}
        assert ends["main"] == ends["a"] == ends["z"]
        for name, world in nodes.worlds.items():
            _nothing_went_unrecorded(nodes, name, world, ends[name])
    finally:
        for world in nodes.worlds.values():
            close_world(world)


def _nothing_went_unrecorded(nodes: Nodes, name: str, world: World, end: Rows) -> None:
    """A row from before the first sync that is another one now was written by hand, here or elsewhere, or is kept."""
    kept = {
        (table, json.loads(pk)["id"])
        for table, pk in world.query("SELECT table_name, pk FROM rf_conflict WHERE our_image IS NOT NULL")
    }
    by_hand = {(table, i) for _, table, i in nodes.touched}
    for key, image in nodes.first[name].items():
        if end.get(key) != image and key not in by_hand:
            assert key in kept, (name, key, image, end.get(key))
    versions = world.query("SELECT our_version FROM rf_conflict WHERE kind = 'first-sync'")
    assert {tuple(json.loads(one)) for (one,) in versions} <= {tuple(NEVER)}
