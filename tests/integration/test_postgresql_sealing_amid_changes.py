"""Transactions that stay open, savepoints, two sealers in small steps, other nodes' writes, TRUNCATE, ALTER TABLE and
tables made anew, in any order; one thread, so that a seed is nearly one history (only waiting for locks is timed).
Where the server has prepared transactions, some are.

The log is read after each step and replayed on what stood before. `ROWFERRY_SEEDS=100:200` runs those seeds."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import psycopg
import pytest

from common.dialects.postgresql import apply_settings, turn
from common.errors import ConfigError, ContentionError, PausedError, UncapturedError
from common.ports.dialect import RowWrite
from common.versions import NEVER, Version
from common.wire.records import Change, TableMeta
from tests.support.postgresql_node import PostgresNode

pytestmark = pytest.mark.containers

_SEEDS = range(*map(int, os.environ.get("ROWFERRY_SEEDS", "0:3").split(":")))
_SCHEMA = """
CREATE TABLE tick (id int PRIMARY KEY);
CREATE TABLE a (id int PRIMARY KEY, n int, u int UNIQUE);
CREATE TABLE b (id int PRIMARY KEY, n int, p int REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE c (k text PRIMARY KEY, n int, x int);
"""
_KEYS = {"tick": "id", "a": "id", "b": "id", "c": "k"}
_WRITERS = 4
_change = msgspec.json.Decoder(Change)

Row = dict[str, Any]
Place = tuple[str, Any]


class Writer:
    """One connection of the application, and the transaction that is open on it."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        self.connection = connection
        self.number: int | None = None


class World:
    """One database, all who write to it, and what a node would hold that replays its log."""

    def __init__(self, node: PostgresNode, dice: random.Random, writers: list[Writer]) -> None:
        self.node, self.dice, self.writers = node, dice, writers
        self.number = self.remote = self.added = 0
        self.committed: set[int] = set()
        self.prepared: list[int] = []
        self.can_prepare = node.rows("SHOW max_prepared_transactions") != [("0",)]
        self.sealed: list[int] = []
        self.rows: dict[Place, Row] = {}
        self.versions: dict[Place, Version] = {}
        self.sealers = [node.database.sealer(node.facts), node.database.sealer(node.facts)]
        self.lsn = 0
        self.merged: set[Place] = set()
        """Rows that another node wrote without knowing all of their columns: they are sent again as they stand."""
        self.columns: dict[tuple[str, str], str | None] = {}
        self.reshaped: set[str] = set()
        self.altered: set[str] = set()
        """Of these a value that a migration gave is not in the log."""
        self.bare: set[str] = set()
        """Tables that were made anew, and have no triggers yet."""
        self.shapes = node.tables

    # What happens.

    def write(self) -> bool:
        writer = self.dice.choice(self.writers)
        if writer.number is None:
            self.number += 1
            writer.number = self.number
        kept = True
        for _ in range(self.dice.choice((1, 1, 3))):
            if kept:
                kept = self._write(writer, self._statement(writer.number))
        if self.dice.random() < 0.2 and kept:
            # What a savepoint takes back, beside what stays.
            writer.connection.execute("SAVEPOINT back")
            self._write(writer, self._statement(writer.number))
            self._write(writer, "DELETE FROM tick")
            writer.connection.execute("ROLLBACK TO back")
        return True

    def _write(self, writer: Writer, statement: str) -> bool:
        """Run one statement in a subtransaction; one that would wait too long, or breaks a rule, is taken back."""
        writer.connection.execute("SAVEPOINT one")
        try:
            writer.connection.execute(statement.encode())
        except psycopg.Error:
            writer.connection.execute("ROLLBACK TO one")
            return False
        if self.dice.random() < 0.5:
            writer.connection.execute("RELEASE one")
        return True

    def end(self) -> bool:
        writer = self.dice.choice(self.writers)
        if writer.number is None:
            return False
        if self.dice.random() < 0.15:
            writer.connection.rollback()
        else:
            writer.connection.execute(f"INSERT INTO tick VALUES ({writer.number})".encode())
            if self.can_prepare and self.dice.random() < 0.2:
                writer.connection.execute(f"PREPARE TRANSACTION '{writer.number}'".encode())
                self.prepared.append(writer.number)
            else:
                self.committed.add(writer.number)
            writer.connection.commit()
        writer.number = None
        return True

    def settle(self) -> bool:
        """End a transaction that was prepared, whenever that was."""
        if not self.prepared:
            return False
        number = self.prepared.pop(self.dice.randrange(len(self.prepared)))
        keep = self.dice.random() < 0.8
        self.node.run(f"{'COMMIT' if keep else 'ROLLBACK'} PREPARED '{number}'")
        if keep:
            self.committed.add(number)
        return True

    def _statement(self, number: int) -> str:
        dice = self.dice
        one, other, unique = dice.randrange(6), dice.randrange(6), dice.choice(("NULL", *"012345"))
        found = [
            f"INSERT INTO a (id, u) VALUES ({one}, {unique}) ON CONFLICT (id) DO UPDATE SET u = excluded.u",
            f"INSERT INTO a (id, u) VALUES ({one}, {unique}), ({other}, NULL) ON CONFLICT DO NOTHING",
            f"UPDATE a SET id = {one} WHERE id = {other}",
            f"UPDATE a SET u = {unique} WHERE id = {other}",
            f"DELETE FROM a WHERE id = {one}",
            f"INSERT INTO b (id, p) SELECT {other}, id FROM a WHERE id = {one}",
            f"WITH gone AS (DELETE FROM b WHERE id = {one} RETURNING p)"
            f" INSERT INTO b (id, p) SELECT {other}, p FROM gone",
            f"DELETE FROM b WHERE id >= {one}",
            f"INSERT INTO c (k) VALUES ('{one}') ON CONFLICT (k) DO UPDATE SET k = excluded.k",
            f"UPDATE c SET k = '{one}' WHERE k = '{other}'",
            f"DELETE FROM c WHERE k <= '{one}'",
        ]
        if dice.random() < 0.05:
            return dice.choice(("TRUNCATE b", "TRUNCATE c", "TRUNCATE a, b"))
        table = dice.choice("abc")
        found += [
            f"UPDATE {table} SET {column} = {number} WHERE {_KEYS[table]} >= '{one}'" for column in self._plain(table)
        ] * 2
        return dice.choice(found)

    def _plain(self, table: str) -> list[str]:
        return [name for name in self.shapes[table].meta.columns if name not in ("id", "k", "u", "p")]

    def seal(self) -> bool:
        place = self.dice.randrange(2)
        if self.dice.random() < 0.1:
            self.sealers[place] = self.node.database.sealer(self.node.facts)
        sealer = self.sealers[place]
        if self.dice.random() < 0.3 and sealer.is_quiet():
            assert not sealer.seal().txs
            return False
        report = sealer.seal(self.dice.choice((1, 3, 50)))
        self.replay()
        return report.more or report.txs > 0

    def put(self) -> bool:
        """Write a row as a batch of another node does, if nobody here has."""
        table = self.dice.choice("abc")
        shape = self.shapes[table]
        key: Any = self.dice.randrange(6)
        key = str(key) if table == "c" else key
        pk: Row = {_KEYS[table]: key}
        self.remote += 1
        image: Row | None = None
        meta, plain = shape.meta, self._plain(table)
        if self.dice.random() < 0.7 or table == "a":
            image = dict.fromkeys(shape.meta.columns) | pk
            image |= dict.fromkeys(plain, -self.remote)
            if plain and self.dice.random() < 0.2:
                # As of a node that does not know some column.
                del image[unknown := self.dice.choice(plain)]
                columns = {name: kind for name, kind in meta.columns.items() if name != unknown}
                meta = TableMeta(pk=meta.pk, columns=columns)
        chosen = self.dice.random() < 0.2
        line, place = msgspec.json.encode(pk), (table, key)
        body = None if image is None else msgspec.json.encode(image)
        try:
            with self.node.database.apply_session() as session:
                (state,) = session.lock(shape, meta, [line])
                (stood,) = session.images(shape, [line], shape.meta)
                version = Version(0, max(state.version.hlc + 1, 2**51), "there")
                if chosen:
                    write = RowWrite(state.key, line, body, state.version, state.base)
                    session.choose(shape, meta, write, [version])
                else:
                    session.write(shape, meta, [RowWrite(state.key, line, body, version, state.version)])
                if session.unsealed(shape, [state.key]):
                    raise ContentionError("own writes are not sealed")
                assert table not in self.bare, f"a write of {place} would go unseen"
                if table not in self.altered:
                    assert msgspec.json.decode(stood or b"null") == self.rows.get(place), f"a write of {place} is lost"
                known = self.versions.get(place, NEVER)
                assert state.version == known, f"{place}: {state.version} is not {known}"
                if image is not None and meta is not shape.meta:
                    (whole,) = session.images(shape, [line], shape.meta)
                    image = msgspec.json.decode(whole or b"null")
        except (ContentionError, PausedError, ConfigError):
            return False
        except UncapturedError:
            assert table in self.bare
            if self.dice.random() < 0.5:
                self.install()
            return False
        if chosen:
            # It is this node's own write.
            return True
        self.versions[place] = version
        if image is None:
            self.rows.pop(place, None)
        else:
            self.rows[place] = image
            if meta is not shape.meta:
                self.merged.add(place)
        return True

    def alter(self) -> bool:
        table = self.dice.choice("abc")
        plain = self._plain(table)
        self.added += 1
        fresh, kind = f"m{self.added}", self.dice.randrange(3)
        with self.node.connect(autocommit=True) as owner:
            owner.execute("SET lock_timeout = '20ms'")
            try:
                if kind == 0:
                    owner.execute(f"ALTER TABLE {table} ADD COLUMN {fresh} int DEFAULT 7".encode())
                elif kind == 1 and plain:
                    name = self.dice.choice(plain)
                    owner.execute(f"ALTER TABLE {table} RENAME COLUMN {name} TO {fresh}".encode())
                    self.columns[table, name] = fresh
                elif len(plain) > 1:
                    name = self.dice.choice(plain)
                    owner.execute(f"ALTER TABLE {table} DROP COLUMN {name}".encode())
                    self.columns[table, name] = None
            except psycopg.errors.LockNotAvailable:
                return False
        self.reshaped.add(table)
        self.altered.add(table)
        self.shapes = self.node.tables
        if self.dice.random() < 0.5:
            self.install()
        return True

    def rebuild(self) -> bool:
        """Make a table anew under its name, as tools do that migrate; or take its triggers off."""
        table = self.dice.choice("bc")
        names = ", ".join(self.shapes[table].meta.columns)
        foreign = ", ADD FOREIGN KEY (p) REFERENCES a ON DELETE CASCADE ON UPDATE CASCADE" if table == "b" else ""
        key = f"ALTER TABLE {table} ADD PRIMARY KEY ({_KEYS[table]}){foreign}"
        ways = (
            (
                f"CREATE TABLE made AS SELECT {names} FROM {table}",
                f"DROP TABLE {table}",
                f"ALTER TABLE made RENAME TO {table}",
                key,
            ),
            (
                f"CREATE TEMP TABLE kept ON COMMIT DROP AS SELECT {names} FROM {table}",
                f"DROP TABLE {table}",
                f"CREATE TABLE {table} AS SELECT {names} FROM kept",
                key,
            ),
            (f"ALTER TABLE {table} DISABLE TRIGGER ALL",),
        )
        with self.node.connect() as owner:
            owner.execute("SET lock_timeout = '20ms'")
            try:
                # Else a row that is written between would be lost by its owner.
                owner.execute(f"LOCK TABLE {table}".encode())
                for statement in self.dice.choice(ways):
                    owner.execute(statement.encode())
            except psycopg.errors.LockNotAvailable:
                owner.rollback()
                return False
        self.reshaped.add(table)
        self.bare.add(table)
        self.shapes = self.node.tables
        if self.dice.random() < 0.2:
            self.install()
        return True

    def install(self) -> bool:
        try:
            self.node.install()
        except ContentionError:
            # The tables that nobody holds have theirs.
            self.bare &= set(self.node.database.capture().drifted(list(self.shapes.values())))
            return False
        self.bare.clear()
        return True

    # What came of it.

    def replay(self) -> None:
        for tx in self.node.txs(self.lsn):
            assert (tx.header.prev_lsn, tx.header.from_lsn) == (self.lsn, self.lsn + 1)
            ticks: list[int] = []
            for change in map(_change.decode, tx.lines()):
                self.lsn += 1
                assert change.lsn == self.lsn
                self._take(change)
                if change.table == "tick":
                    ticks.append(msgspec.json.decode(change.after)["id"])
            assert tx.header.to_lsn == self.lsn
            # What the appliers left to be sealed, and what was missed, has none.
            assert len(ticks) <= 1, f"{ticks} are one tx"
            self.sealed += ticks
            assert self.committed.issuperset(ticks), "not committed"
            self._check_rules(ticks)

    def _check_rules(self, ticks: list[int]) -> None:
        parents = {key for table, key in self.rows if table == "a"}
        for (table, key), row in self.rows.items():
            if table == "b" and row.get("p") is not None:
                assert row["p"] in parents, f"after {ticks}: row {key} of b has no parent"
        unique = [row["u"] for (table, _), row in self.rows.items() if table == "a" and row["u"] is not None]
        assert len(unique) == len(set(unique)), f"after {ticks}: two rows of a have one value"

    def _take(self, change: Change) -> None:
        key = next(iter(msgspec.json.decode(change.pk).values()))
        place = change.table, key
        before, after = (self._known(change.table, image) for image in (change.before, change.after))
        stood = self.rows.get(place)
        if place in self.merged and before is None:
            self.merged.discard(place)
        elif change.resolves and after is None and stood is None:
            assert before == {_KEYS[change.table]: key}
        elif change.table not in self.reshaped:
            assert before == stood, f"{change.lsn}: {change.op} {place}"
        base = None if change.base is None else Version(*change.base)
        assert (base or NEVER) == self.versions.get(place, NEVER), f"{change.lsn}: {change.op} {place}"
        assert Version(*change.version) > (base or NEVER)
        self.versions[place] = Version(*change.version)
        if after is None:
            self.rows.pop(place, None)
        else:
            self.rows[place] = (stood or {}) | after

    def _known(self, table: str, image: bytes) -> Row | None:
        row = msgspec.json.decode(image)
        return None if row is None else self._named_now(table, row)

    def _named_now(self, table: str, row: Row) -> Row:
        found: Row = {}
        for name, value in row.items():
            now: str | None = name
            while now is not None and (table, now) in self.columns:
                now = self.columns[table, now]
            if now is not None:
                found[now] = value
        return found

    def finish(self) -> None:
        for writer in self.writers:
            writer.connection.rollback()
        while self.settle():
            pass
        assert self.install()
        quiet = 0
        while quiet < 4:
            quiet = 0 if self.seal() else quiet + 1
        stored: dict[Place, Row] = {}
        with self.node.connect() as connection:
            for table, key in _KEYS.items():
                for (row,) in connection.execute(f"SELECT row_to_json(t) FROM {table} t".encode()):
                    stored[table, row[key]] = row
        found = {place: self._named_now(place[0], row) for place, row in self.rows.items()}
        assert found.keys() == stored.keys()
        for place, row in stored.items():
            assert {name: 7 if name[0] == "m" else None for name in row} | found[place] == row, place
        assert sorted(self.sealed) == sorted(self.committed)


@pytest.fixture
def node(pg_database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PostgresNode]:
    monkeypatch.setattr(apply_settings, "ROW_LOCK_TIMEOUT", "10ms")
    monkeypatch.setattr(turn, "ROW_LOCK_TIMEOUT", "10ms")
    with PostgresNode(pg_database, "here", _SCHEMA) as opened:
        yield opened


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_log_replayed_is_the_database(node: PostgresNode, seed: int) -> None:
    dice = random.Random(seed)
    writers = [Writer(node.connect()) for _ in range(_WRITERS)]
    try:
        for writer in writers:
            writer.connection.execute("SET lock_timeout = '10ms'")
            writer.connection.execute("SET synchronous_commit = off")
            writer.connection.commit()
        world = World(node, dice, writers)
        happenings: list[Callable[[], bool]] = (
            [world.write] * 8 + [world.end] * 5 + [world.settle] * 2 + [world.seal] * 6
        )
        if seed % 3:
            happenings += [world.put] * 3
        if seed % 3 == 2:
            happenings += [world.alter, world.install] + [world.rebuild] * 2
        for _ in range(200):
            dice.choice(happenings)()
        world.finish()
    finally:
        for writer in writers:
            writer.connection.close()
