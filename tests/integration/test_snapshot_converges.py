"""A node that begins with a snapshot, taken in the middle of everything: it ends with what all others end with."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from consumer.apply.committing import Committing
from consumer.snapshots import exporting
from consumer.snapshots.importing import SnapshotImport
from tests.fixtures.containers import DatabaseFactory
from tests.integration.test_nodes_converge import item_statements, items, linked_rows, linked_statements, writers_of
from tests.support.applying import TABLES, World, close_world, sqlite_url
from tests.support.postgres_server import PostgresServer
from tests.support.writers import KEYS, Network, Writer, nodes_of_both_kinds, row_states, writer_node

pytestmark = pytest.mark.containers


@pytest.fixture
def worlds(tmp_path: Path, pg_database: str) -> Iterator[list[World]]:
    """Two nodes on SQLite, one on PostgreSQL."""
    with nodes_of_both_kinds(tmp_path, pg_database) as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def newcomer(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres_server: PostgresServer,
    pg_database_factory: DatabaseFactory,
) -> Iterator[World]:
    """A node without any row."""
    url = sqlite_url(tmp_path, "d.db") if request.param == "sqlite" else pg_database_factory(postgres_server)
    made = writer_node(url, "d")
    yield made
    close_world(made)


class Scene:
    """Nodes that write and hear of each other, and all that was ever sent."""

    def __init__(self, writers: list[Writer], seed: int) -> None:
        self.writers = writers
        self.network = Network(writers, random.Random(seed))
        self.sent: dict[str, list[bytes]] = {}

    def rounds(self, statements: object, count: int) -> None:
        for _ in range(count):
            for writer in self.writers:
                for _ in range(writer.dice.randint(0, 3)):
                    writer.write(statements)  # type: ignore[arg-type]
            self.send()
            self.network.deliver(self.network.dice.choice([0.0, 0.3, 0.7]))

    def send(self) -> None:
        for writer in self.writers:
            bodies = writer.new_bodies()
            self.sent.setdefault(writer.node_id, []).extend(bodies)
            for other in self.writers:
                if other is not writer:
                    self.network.waiting.setdefault(other.node_id, []).extend(bodies)

    def join(self, writer: Writer) -> None:
        """What was ever sent waits for the new one too, as an old folder or a peer's log has it."""
        self.writers.append(writer)
        self.network.waiting[writer.node_id] = [body for bodies in self.sent.values() for body in bodies]

    def end(self) -> None:
        self.send()
        self.network.deliver(1)
        for writer in self.writers:
            assert self.network.waiting[writer.node_id] == []
            writer.world.refresh.catch_up()
            assert writer.new_bodies() == [], "what was applied is not a node's own change"


def known_of(world: World, table: str) -> list[tuple[Any, ...]]:
    """All that a node knows of each key but how it spells it."""
    shape = world.node.captured_tables()[table]
    with world.node.database.apply_session() as session:
        states = session.lock(shape, TABLES[table], [b'{"id":%d}' % key for key in KEYS])
    return [(state.version, state.base, state.deleted, state.known) for state in states]


def above_marks(world: World, source: str) -> set[tuple[str, str]]:
    """What was applied, of others than `source`, where something is missing below."""
    return {
        (node, tx_id)
        for node, tx_id in world.query(
            "SELECT a.source_node, a.tx_id FROM rf_applied_tx a JOIN rf_sync_state s ON s.peer = a.source_node"
            " AND s.direction = 'in' AND s.incarnation = a.incarnation AND a.prev_lsn >= s.last_lsn"
        )
        if node != source
    }


def holds_the_same(source: World, target: World, tables: Sequence[str]) -> None:
    for table in tables:
        assert known_of(target, table) == known_of(source, table)
    node_id = source.node.facts.node_id
    assert above_marks(target, node_id) == above_marks(source, node_id)
    marks = "SELECT peer, incarnation, last_lsn, last_tx_id, highest_lsn FROM rf_sync_state WHERE direction = 'in'"
    theirs = {row for row in target.query(marks) if row[0] != node_id}
    assert theirs == set(source.query(marks))
    assert target.watermark(node_id) == source.node.database.log(source.node.facts).head().lsn


def row_lines(path: Path) -> set[bytes]:
    with path.open("rb") as file:
        return {line for line in file if b'"type":"row"' in line}


def take_snapshot(source: World, target: World, path: Path) -> None:
    exporting.export_snapshot(source.node, path, "tester", lambda _: None)
    work = SnapshotImport(target.node, path, "tester", replace=False)
    work.apply(work.look(lambda _: None), lambda _: None)


@pytest.mark.parametrize("source", [0, 2], ids=["from SQLite", "from PostgreSQL"])
@pytest.mark.parametrize("statements", [item_statements, linked_statements], ids=["one table", "linked tables"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_sealed_is_taken_back(
    worlds: list[World], seed: int, statements: Any, source: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = writers_of(worlds, seed)
    Scene(writers, seed).rounds(statements, 8)
    world = worlds[source]
    exporting.export_snapshot(world.node, tmp_path / "before.jsonl", "tester", lambda _: None)
    monkeypatch.setattr(Committing, "seal", lambda _: None)
    for _ in range(8):
        writers[source].write(statements)
        exporting.export_snapshot(world.node, tmp_path / "after.jsonl", "tester", lambda _: None)
        assert row_lines(tmp_path / "after.jsonl") == row_lines(tmp_path / "before.jsonl")
    assert world.node.database.log(world.node.facts).unsealed().changes > 0


@pytest.mark.parametrize("sealed", [True, False], ids=["sealed", "amid unsealed writes"])
@pytest.mark.parametrize("source", [0, 2], ids=["from SQLite", "from PostgreSQL"])
@pytest.mark.parametrize("seed", range(2))
def test_whoever_begins_with_a_snapshot_ends_equal(
    worlds: list[World],
    newcomer: World,
    seed: int,
    source: int,
    sealed: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writers = writers_of(worlds, seed)
    scene = Scene(writers, seed)
    scene.rounds(item_statements, 6)
    for _ in range(4):
        writers[source].write(item_statements)
    path = tmp_path / "d.jsonl.zst"
    with monkeypatch.context() as patch:
        if not sealed:
            patch.setattr(Committing, "seal", lambda _: None)
        exporting.export_snapshot(worlds[source].node, path, "tester", lambda _: None)
    if not sealed:
        for _ in range(4):
            writers[source].write(item_statements)
    work = SnapshotImport(newcomer.node, path, "tester", replace=False)
    work.apply(work.look(lambda _: None), lambda _: None)
    if sealed:
        holds_the_same(worlds[source], newcomer, ["item"])
        assert items(newcomer) == items(worlds[source])
    scene.join(Writer(newcomer, random.Random(seed), 0.0))
    scene.rounds(item_statements, 4)
    scene.end()
    for world in [*worlds[1:], newcomer]:
        assert items(world) == items(worlds[0]), f"seed {seed}"
        assert row_states(world, "item") == row_states(worlds[0], "item"), f"seed {seed}"
        assert world.letters() == []
        assert world.one("SELECT count(*) FROM rf_sync_state WHERE last_lsn < highest_lsn") == 0


@pytest.mark.parametrize("source", [0, 2], ids=["from SQLite", "from PostgreSQL"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_that_have_stepped_back_come_along(
    worlds: list[World], newcomer: World, seed: int, source: int, tmp_path: Path
) -> None:
    writers = writers_of(worlds, seed)
    scene = Scene(writers, seed)
    aside = "SELECT table_name, version, kind FROM rf_stepped_back"
    for _ in range(30):
        scene.rounds(linked_statements, 3)
        if worlds[source].query(aside):
            break
    take_snapshot(worlds[source], newcomer, tmp_path / "d.jsonl")
    assert set(newcomer.query(aside)) == set(worlds[source].query(aside)) != set()
    holds_the_same(worlds[source], newcomer, ["parent", "child", "code"])
    assert linked_rows(newcomer) == linked_rows(worlds[source])
    scene.join(Writer(newcomer, random.Random(seed), 0.0))
    scene.rounds(linked_statements, 12)
    scene.end()
    for world in [*worlds[1:], newcomer]:
        assert linked_rows(world) == linked_rows(worlds[0]), f"seed {seed}"
        assert world.letters_open() == []
        assert set(world.query(aside)) == set(worlds[0].query(aside))
