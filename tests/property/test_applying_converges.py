"""Whatever the order, however often, in whatever groups: nodes that have seen the same batches hold the same rows."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from common.clock import SystemClock
from common.dialects import open_database
from common.runtime.node import Node, read_facts
from common.versions import NEVER, Version
from tests.support.applying import (
    TABLES,
    Origin,
    TestClock,
    Tx,
    World,
    Write,
    close_world,
    config_for,
    open_world,
    sqlite_url,
)

KEYS = (1, 2, 3, 4)
SOURCES = ("a", "b", "c")


@dataclass(frozen=True)
class History:
    """What three nodes wrote, and the rows it must come to."""

    txs: tuple[Tx, ...]
    standing: dict[int, Write]
    """The write with the highest version of each key."""


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Writes of three nodes: each on top of a write of the same key that its node may have seen."""
    origins = {name: Origin(name) for name in SOURCES}
    written: dict[int, list[Version]] = {key: [NEVER] for key in KEYS}
    standing: dict[int, Write] = {}
    clock = 0
    txs = []
    for _ in range(draw(st.integers(1, 12))):
        source = draw(st.sampled_from(SOURCES))
        writes = []
        for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)):
            clock += draw(st.integers(1, 3))
            # A node's own last write of the row is what it has, or something later that it has seen.
            own = [version for version in written[key] if version.node_id == source]
            seen = [version for version in written[key] if not own or version >= own[-1]]
            base = draw(st.sampled_from(seen))
            version = Version(0, max(clock, base.hlc + 1), source)
            clock = version.hlc
            op = draw(st.sampled_from("IUD"))
            write = Write(op, "item", {"id": key, "name": f"{source}{clock}", "price": "1.50"}, version.hlc, base)
            written[key].append(version)
            writes.append(write)
            standing[key] = write
        txs.append(origins[source].tx(*writes))
    return History(tuple(txs), standing)


@st.composite
def deliveries(draw: st.DrawFn, txs: tuple[Tx, ...]) -> list[bytes]:
    """The txs in any order, some of them twice, in messages of any size."""
    order = draw(st.permutations(txs)) + draw(st.lists(st.sampled_from(txs), max_size=5))
    bodies = [tx.body for tx in order]
    cuts = sorted(draw(st.sets(st.integers(1, len(bodies)), max_size=4)) | {len(bodies)})
    return [b"".join(bodies[start:stop]) for start, stop in zip([0, *cuts], cuts, strict=False)]


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, copied for every example."""
    folder = tmp_path_factory.mktemp("empty")
    close_world(open_world(sqlite_url(folder)))
    return folder / "app.db"


def copied(empty: Path, folder: str, name: str) -> World:
    shutil.copyfile(empty, Path(folder) / name)
    url = sqlite_url(Path(folder), name)
    config, clock = config_for(url), TestClock()
    database = open_database(url)
    return World(Node(config, database, read_facts(database, config), SystemClock()), clock)


def versions(world: World) -> list[tuple[Version, bool]]:
    shape = world.node.captured_tables()["item"]
    keys = [b'{"id":%d}' % key for key in KEYS]
    with world.node.database.apply_session() as session:
        return [(state.version, state.deleted) for state in session.lock(shape, TABLES["item"], keys)]


def worlds(empty: Path, *orders: list[bytes]) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        for number, bodies in enumerate(orders):
            world = copied(empty, folder, f"{number}.db")
            try:
                world.receive(*bodies)
                yield world
            finally:
                close_world(world)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_order_ends_with_the_highest_version_of_each_row(empty: Path, data: st.DataObject) -> None:
    history = data.draw(histories())
    expected = [(key, write.row["name"]) for key, write in sorted(history.standing.items()) if write.op != "D"]
    stands = []
    for key in KEYS:
        write = history.standing.get(key)
        source = write.row["name"][0] if write else ""
        stands.append((Version(0, write.hlc, source), write.op == "D") if write else (NEVER, False))
    orders = [data.draw(deliveries(history.txs)) for _ in range(2)]
    for world in worlds(empty, *orders):
        note(str(world.rows()))
        assert [row[:2] for row in world.rows()] == expected
        assert versions(world) == stands
        assert world.letters() == []
        assert world.one("SELECT count(*) FROM rf_applied_tx") == len(history.txs)
        for source in {tx.header.source_node for tx in history.txs}:
            assert world.watermark(source) == max(
                tx.header.to_lsn for tx in history.txs if tx.header.source_node == source
            )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_whoever_saw_what_stands_is_in_no_conflict(empty: Path, data: st.DataObject) -> None:
    """Every write made on top of what stands, delivered as made: nobody was unaware of anybody."""
    origins = {name: Origin(name) for name in SOURCES}
    last: dict[int, Version] = {}
    txs = []
    pairs = st.lists(st.tuples(st.sampled_from(SOURCES), st.sampled_from(KEYS)), min_size=1, max_size=12)
    for hlc, (source, key) in enumerate(data.draw(pairs), start=1):
        write = Write("U", "item", {"id": key, "name": f"{source}{hlc}", "price": "1.50"}, hlc, last.get(key))
        last[key] = Version(0, hlc, source)
        txs.append(origins[source].tx(write))
    for world in worlds(empty, [tx.body for tx in txs]):
        assert versions(world) == [(last.get(key, NEVER), False) for key in KEYS]
        assert world.one("SELECT count(*) FROM rf_conflict") == 0
