"""Whatever the order, however often, in whatever groups: nodes that have seen the same batches hold the same rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from common.versions import NEVER, Version
from tests.support.applying import TABLES, Origin, Tx, World, Write, close_world, open_world, sqlite_url

_examples = count()


@dataclass(frozen=True)
class Names:
    """Keys and nodes of one example: its own, so that all examples can share a database."""

    number: int

    @property
    def keys(self) -> tuple[int, ...]:
        return tuple(range(self.number * 4, self.number * 4 + 4))

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(f"{letter}{self.number}" for letter in "abc")


@dataclass(frozen=True)
class History:
    """What three nodes wrote, and what it must come to."""

    names: Names
    txs: tuple[Tx, ...]
    standing: dict[int, tuple[Version, Write]]
    """The write with the highest version of each key."""

    @property
    def rows(self) -> list[tuple[int, str]]:
        return [(key, write.row["name"]) for key, (_, write) in sorted(self.standing.items()) if write.op != "D"]

    @property
    def versions(self) -> list[tuple[Version, bool]]:
        found = [self.standing.get(key) for key in self.names.keys]
        return [(one[0], one[1].op == "D") if one else (NEVER, False) for one in found]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Writes of three nodes: each on top of a write of the same key that its node may have seen.

    Their clocks differ, and stand still now and then: two nodes may give one clock value to one row."""
    names = Names(next(_examples))
    origins = {name: Origin(name) for name in names.sources}
    written: dict[int, list[Version]] = {key: [NEVER] for key in names.keys}
    standing: dict[int, tuple[Version, Write]] = {}
    clock, ahead = 1, {name: draw(st.sampled_from([0, 0, 4])) for name in names.sources}
    txs = []
    for _ in range(draw(st.integers(1, 12))):
        source = draw(st.sampled_from(names.sources))
        writes = []
        for key in draw(st.lists(st.sampled_from(names.keys), min_size=1, max_size=3)):
            # A node's own last write of the row is what it has, or something later that it has seen.
            own = [version for version in written[key] if version.node_id == source]
            base = draw(st.sampled_from([version for version in written[key] if not own or version >= own[-1]]))
            clock += draw(st.integers(0, 2))
            version = Version(0, max(clock + ahead[source], base.hlc + 1), source)
            row = {"id": key, "name": f"{source}-{version.hlc}", "price": "1.50"}
            writes.append(Write(draw(st.sampled_from("IUD")), "item", row, version.hlc, base))
            written[key].append(version)
            if key not in standing or version > standing[key][0]:
                standing[key] = version, writes[-1]
        txs.append(origins[source].tx(*writes))
    return History(names, tuple(txs), standing)


@st.composite
def deliveries(draw: st.DrawFn, txs: tuple[Tx, ...]) -> list[bytes]:
    """The txs in any order, some of them twice, in messages of any size."""
    order = [*draw(st.permutations(txs)), *draw(st.lists(st.sampled_from(txs), max_size=5))]
    bodies = [tx.body for tx in order]
    cuts = sorted(draw(st.sets(st.integers(1, len(bodies)), max_size=4)) | {len(bodies)})
    return [b"".join(bodies[start:stop]) for start, stop in zip([0, *cuts], cuts, strict=False)]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[World]]:
    """Two nodes that all examples share."""
    made = [open_world(sqlite_url(tmp_path_factory.mktemp(name))) for name in ("one", "two")]
    for world in made:
        world.execute("PRAGMA journal_mode=WAL")
    yield made
    for world in made:
        close_world(world)


def rows(world: World, names: Names) -> list[tuple[int, str]]:
    first, last = names.keys[0], names.keys[-1]
    return [(key, name) for key, name in world.query(f"SELECT id, name FROM item WHERE id BETWEEN {first} AND {last}")]


def versions(world: World, names: Names) -> list[tuple[Version, bool]]:
    shape = world.node.captured_tables()["item"]
    keys = [b'{"id":%d}' % key for key in names.keys]
    with world.node.database.apply_session() as session:
        return [(state.version, state.deleted) for state in session.lock(shape, TABLES["item"], keys)]


def count_of(world: World, table: str, names: Names) -> int:
    sources = ", ".join(f"'{name}'" for name in names.sources)
    return int(world.one(f"SELECT count(*) FROM {table} WHERE source_node IN ({sources})"))


@given(data=st.data())
def test_any_order_ends_with_the_highest_version_of_each_row(nodes: list[World], data: st.DataObject) -> None:
    history = data.draw(histories())
    for world in nodes:
        world.receive(*data.draw(deliveries(history.txs)))
        found = rows(world, history.names)
        note(str(found))
        assert found == history.rows
        assert versions(world, history.names) == history.versions
        assert count_of(world, "rf_dead_letter", history.names) == 0
        assert count_of(world, "rf_applied_tx", history.names) == len(history.txs)
        ends = {tx.header.source_node: tx.header.to_lsn for tx in history.txs}
        assert {source: world.watermark(source) for source in ends} == ends


@given(data=st.data())
def test_whoever_saw_what_stands_is_in_no_conflict(nodes: list[World], data: st.DataObject) -> None:
    """Every write made on top of what stands, delivered as made: nobody was unaware of anybody."""
    names = Names(next(_examples))
    origins = {name: Origin(name) for name in names.sources}
    last: dict[int, Version] = {}
    txs = []
    pairs = st.lists(st.tuples(st.sampled_from(names.sources), st.sampled_from(names.keys)), min_size=1, max_size=12)
    for hlc, (source, key) in enumerate(data.draw(pairs), start=1):
        row = {"id": key, "name": f"{source}-{hlc}", "price": "1.50"}
        txs.append(origins[source].tx(Write("U", "item", row, hlc, last.get(key))))
        last[key] = Version(0, hlc, source)
    world = nodes[0]
    world.receive(*(tx.body for tx in txs))
    assert versions(world, names) == [(last.get(key, NEVER), False) for key in names.keys]
    assert count_of(world, "rf_conflict", names) == 0
