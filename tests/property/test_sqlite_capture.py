"""What capture and sealing say changed is what changed, whatever the application does; checked against the truth.

`ROWFERRY_SEEDS=100:200` runs those seeds; failures name theirs.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from common.dialects import open_database
from common.dialects.sqlite import backlog, looking
from common.errors import PoisonError, Reason
from common.ports.dialect import Database, NodeFacts, RowWrite
from common.schema.migrate import upgrade
from common.versions import NEVER, Version
from common.wire.records import Change
from tests.support.sqlite_oracle import APPLICATION_TRIGGERS, SCHEMA, RandomSql, dump, run_transaction

NODE = NodeFacts("here", "branch", "inc1")
_change = msgspec.json.Decoder(Change)
_SEEDS = range(*map(int, os.environ.get("ROWFERRY_SEEDS", "0:24").split(":")))
_STEPS = 60


class Shadow:
    """What a node would hold that has seen nothing but sealed changes."""

    def __init__(self, target: Database) -> None:
        self._target = target
        self._shapes = target.catalog().tables
        self._images: dict[tuple[str, bytes], bytes] = {}

    def take(self, found: list[Change]) -> None:
        """Check every before image, then apply the changes as a batch of another node."""
        for change in found:
            key = (change.table, bytes(change.pk))
            before = self._images.get(key, b"null")
            assert bytes(change.before) == before, f"{change.op} {key}: before image"
            assert bytes(change.before) != bytes(change.after), f"{change.op} {key}: nothing changed"
            self._images[key] = bytes(change.after)
        try:
            self._apply(found, replace=False)
        except PoisonError as error:
            # Unique values changed places halfway through: what the consumer does then too.
            if error.reason is not Reason.CONSTRAINT:
                raise
            self._apply(found, replace=True)

    def _apply(self, found: list[Change], *, replace: bool) -> None:
        with self._target.apply_session() as session:
            by_table: dict[str, dict[bytes, Change]] = {}
            for change in found:
                by_table.setdefault(change.table, {})[bytes(change.pk)] = change
            for table, changes in by_table.items():
                shape = self._shapes[table]
                states = session.lock(shape, shape.meta, list(changes))
                writes = [
                    RowWrite(state.key, pk, one.image, Version(0, one.lsn, "x"), NEVER)
                    for state, (pk, one) in zip(states, changes.items(), strict=True)
                ]
                session.write(shape, shape.meta, writes, replace=replace)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Database, Database]]:
    found = []
    for name in ("source", "target"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            for statement in SCHEMA:
                connection.execute(statement)
        found.append(open_database(f"sqlite:///{tmp_path / name}.db"))
        upgrade(found[-1].engine)
    yield found[0], found[1]
    for database in found:
        database.close()


def connect(database: Database) -> sqlite3.Connection:
    connection = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
    connection.text_factory = bytes
    return connection


@pytest.fixture(autouse=True)
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under every other seed a few touches are a backlog, that is copied aside and read in pieces."""
    seed = getattr(request.node, "callspec", None)
    if seed is not None and seed.params.get("seed", 0) % 2:
        monkeypatch.setattr(looking, "MOST_HELD", 5)
        monkeypatch.setattr(backlog, "_PAGE", 3)


def sealed_since(database: Database, lsn: int) -> list[Change]:
    while database.sealer(NODE).seal().more:
        pass
    return [_change.decode(line) for tx in database.log(NODE).read(lsn, 2**40) for line in tx.lines()]


@pytest.mark.parametrize("seed", _SEEDS)
def test_sealed_changes_are_the_difference_of_states(pair: tuple[Database, Database], seed: int) -> None:
    source, target = pair
    chance = random.Random(seed)
    shapes = source.catalog().tables
    keys = {name: shape.pk for name, shape in shapes.items()}
    with closing(connect(source)) as application, closing(connect(target)) as looker:
        application.execute(f"PRAGMA recursive_triggers = {seed % 2}")
        application.execute(f"PRAGMA foreign_keys = {int(seed % 3 != 2)}")
        before_ours = chance.sample(APPLICATION_TRIGGERS, chance.randrange(len(APPLICATION_TRIGGERS)))
        for trigger in before_ours:
            application.execute(trigger)
        source.capture().install(list(shapes.values()))
        for trigger in chance.sample(APPLICATION_TRIGGERS, chance.randrange(len(APPLICATION_TRIGGERS))):
            if trigger not in before_ours:
                application.execute(trigger)
        sql, shadow, lsn = RandomSql(chance), Shadow(target), 0
        for step in range(_STEPS):
            marked = chance.random() < 0.3
            for _ in range(chance.choice((1, 1, 2, 3))):
                run_transaction(application, sql, chance.choice((1, 2, 3)))
                if marked:
                    application.execute("INSERT INTO rf_mark DEFAULT VALUES")
            found = sealed_since(source, lsn)
            lsn += len(found)
            shadow.take(found)
            assert dump(looker, keys) == dump(application, keys), f"seed {seed}, step {step}"
