"""Between the pieces of a look everything happens that may: writes of the application and of other nodes, a second
sealer, a pause, tables that change their shape or are made anew.

The log is read after each piece and replayed on what stood before; each transaction ticks, so its place is known.
`ROWFERRY_SEEDS=100:200` runs those seeds."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.dialects.sqlite import backlog, looking, missed, sealing
from common.errors import ConfigError, PausedError, UncapturedError
from common.ports.dialect import RowWrite, Sealer
from common.versions import NEVER, Version
from common.wire.records import Change, TableMeta
from tests.support.sqlite_app import NODE, SqliteApp, sqlite_app

_SEEDS = range(*map(int, os.environ.get("ROWFERRY_SEEDS", "0:12").split(":")))
_POINTS = "FOREIGN KEY (p) REFERENCES a (id) ON DELETE CASCADE ON UPDATE CASCADE"
_SCHEMA = (
    "CREATE TABLE tick (id INTEGER PRIMARY KEY)",
    "CREATE TABLE a (id INTEGER PRIMARY KEY, n INTEGER, u INTEGER UNIQUE)",
    f"CREATE TABLE b (id INTEGER PRIMARY KEY, n INTEGER, p INTEGER, {_POINTS})",
    "CREATE TABLE c (k TEXT PRIMARY KEY, n INTEGER, x INTEGER) WITHOUT ROWID",
)
_KEYS = {"tick": "id", "a": "id", "b": "id", "c": "k"}
_MARK = "INSERT INTO rf_mark DEFAULT VALUES"
_NOW = 2**52
_change = msgspec.json.Decoder(Change)

Row = dict[str, Any]
State = dict[tuple[str, Any], Row]


class World:
    """One database, all who write to it, and what a node would hold that replays its log."""

    def __init__(self, app: SqliteApp, dice: random.Random) -> None:
        self.app, self.dice = app, dice
        self.number = self.remote = self.added = 0
        self.named: list[int] = []
        self.shadow: State = {}
        self.versions: dict[tuple[str, Any], Version] = {}
        self.pending: dict[int, State] = {}
        """The database as it stood after each transaction that is not sealed yet, with what others wrote since."""
        self.txs: list[set[int]] = []
        self.sealers: list[Sealer] = [app.database.sealer(NODE), app.database.sealer(NODE)]
        self.paused: set[str] = set()
        self.unseen: set[str] = set()
        """Tables that were changed while capture was off, or did not fit."""
        self.drifted: set[str] = set()
        """Tables that capture does not fit for now: what is written then is found only when it does."""
        self.bare: set[str] = set()
        """Tables that were made anew, and have no triggers yet."""
        self.merged: set[tuple[str, Any]] = set()
        """Rows that another node wrote without knowing all of their columns: they are sent again as they stand."""
        self.columns: dict[tuple[str, str], str | None] = {}
        """What became of columns: the next name; None: dropped."""

    def stored(self) -> State:
        found: State = {}
        for table, key in _KEYS.items():
            cursor = self.app.connection.execute(f"SELECT * FROM {table}")
            names = [one[0] for one in cursor.description]
            for values in cursor.fetchall():
                row = dict(zip(names, values, strict=True))
                found[table, row[key]] = row
        return found

    # What happens.

    def write(self) -> None:
        self.number += 1
        number, dice = self.number, self.dice
        self.app.connection.execute("BEGIN")
        for _ in range(dice.choice((1, 1, 2, 8))):
            try:
                self.app.connection.execute(self._statement())
            except sqlite3.IntegrityError:
                # The statement is taken back, the transaction goes on.
                continue
        self.app.connection.execute(f"INSERT INTO tick VALUES ({number})")
        if dice.random() < 0.05:
            self.app.connection.execute("ROLLBACK")
            return
        if dice.random() < 0.5:
            self.app.connection.execute(_MARK)
            self.named.append(number)
        try:
            self.app.connection.execute("COMMIT")
        except sqlite3.IntegrityError:
            self.app.connection.execute("ROLLBACK")
            self.named = [one for one in self.named if one != number]
            return
        self.pending[number] = self.stored()

    def _statement(self) -> str:
        dice, number = self.dice, self.number
        one, other, unique = dice.randrange(6), dice.randrange(6), dice.choice(("NULL", *"012345"))
        return dice.choice(
            (
                f"INSERT INTO a (id, u) VALUES ({one}, {unique}) ON CONFLICT (id) DO UPDATE SET u = excluded.u",
                f"REPLACE INTO a (id, u) VALUES ({one}, {unique})",
                f"UPDATE OR REPLACE a SET id = {one} WHERE id = {other}",
                f"UPDATE OR REPLACE a SET u = {unique} WHERE id = {other}",
                f"DELETE FROM a WHERE id = {one}",
                f"REPLACE INTO b (id, p) SELECT {other}, id FROM a WHERE id = {one}",
                f"INSERT INTO b (p) SELECT id FROM a WHERE id = {one}",
                f"DELETE FROM b WHERE id = {one}",
                f"REPLACE INTO c (k) VALUES ('{one}')",
                f"INSERT OR IGNORE INTO c (k) VALUES ('{one}'), ('{other}')",
                f"UPDATE OR IGNORE c SET k = '{one}' WHERE k = '{other}'",
                f"DELETE FROM c WHERE k <= '{one}'",
                *(
                    f"UPDATE {table} SET {column} = {number} WHERE {_KEYS[table]} >= {one}"
                    for table in "abc"
                    for column in self._plain_columns(table)
                ),
            )
        )

    def _plain_columns(self, table: str) -> list[str]:
        names = [name for _, name, *_ in self.app.query(f"PRAGMA table_info({table})")]
        return [name for name in names if name not in ("id", "k", "u", "p")]

    def seal(self) -> bool:
        place = self.dice.randrange(2)
        if self.dice.random() < 0.1:
            # As after a kill: what the look before had found is forgotten.
            self.sealers[place] = self.app.database.sealer(NODE)
        before = self.app.database.log(NODE).head().lsn
        more = self.sealers[place].seal(1).more
        self._replay(before)
        return more

    def put(self) -> None:
        """Write a row as a batch of another node does, if the application has not."""
        table = self.dice.choice("abc")
        shape = self.app.tables[table]
        key = self.dice.randrange(6)
        pk: Row = {_KEYS[table]: str(key) if table == "c" else key}
        self.remote += 1
        image: Row | None = None
        meta = shape.meta
        if self.dice.random() < 0.7:
            image = dict.fromkeys(shape.meta.columns) | pk
            image |= dict.fromkeys(self._plain_columns(table), -self.remote)
            if self.dice.random() < 0.2:
                # As of a node that does not know some column.
                del image[unknown := self.dice.choice(self._plain_columns(table))]
                columns = {name: kind for name, kind in meta.columns.items() if name != unknown}
                meta = TableMeta(pk=meta.pk, columns=columns)
        line = msgspec.json.encode(pk)
        place = table, pk[_KEYS[table]]
        chosen = self.dice.random() < 0.2
        try:
            with self.app.database.apply_session() as session:
                (state,) = session.lock(shape, meta, [line])
                if session.unsealed(shape, [state.key]):
                    raise PausedError(table, state.key)
                assert table not in self.bare - self.paused, f"a write of {place} would go unseen"
                assert table in self.drifted or self._is_sealed(place), f"a write of {place} would be lost"
                assert state.version == self.versions.get(place, NEVER)
                version = Version(0, max(state.version.hlc + 1, _NOW - 2**51), "there")
                body = None if image is None else msgspec.json.encode(image)
                if chosen:
                    write = RowWrite(state.key, line, body, state.version, state.base)
                    session.choose(shape, meta, write, [version])
                else:
                    session.write(shape, meta, [RowWrite(state.key, line, body, version, state.version)])
        except (PausedError, ConfigError):
            return
        except UncapturedError:
            assert table in self.bare
            if self.dice.random() < 0.5:
                self.install()
            return
        if chosen:
            # It is this node's own write. What is written next tells where it belongs.
            number = self.number
            while self.number not in self.pending or self.number == number:
                self.write()
            return
        self.versions[place] = version
        if image is not None and image.keys() < shape.meta.columns.keys():
            self.merged.add(place)
            image = {name: self._kept(table, key, name) for name in shape.meta.columns} | image
        for state_of in (self.shadow, *self.pending.values()):
            if image is None:
                state_of.pop(place, None)
            else:
                state_of[place] = dict(image)

    def _is_sealed(self, place: tuple[str, Any]) -> bool:
        """Tell whether the row stands as the log has it."""
        row = self.stored().get(place)
        return row == self._as_sealed(place, row or {})

    def _as_sealed(self, place: tuple[str, Any], columns: Iterable[str]) -> Row | None:
        """Return the row as the log has it, with the defaults of columns that came since."""
        sealed = self.shadow.get(place)
        defaults = {name: 7 if name[0] == "m" else None for name in columns}
        return None if sealed is None else defaults | self.named_now(place[0], sealed)

    def _kept(self, table: str, key: int, name: str) -> Any:
        return self.app.query(f"SELECT {name} FROM {table} WHERE {_KEYS[table]} = '{key}'")[0][0]

    def alter(self) -> None:
        """Change a table's shape, install capture at once or some time."""
        table = self.dice.choice("abc")
        plain = self._plain_columns(table)
        self.added += 1
        fresh = f"m{self.added}"
        kind = self.dice.randrange(3)
        if kind == 0:
            self.app.run(f"ALTER TABLE {table} ADD COLUMN {fresh} INTEGER DEFAULT 7")
        elif kind == 1 and plain:
            name = self.dice.choice(plain)
            self.app.run(f"ALTER TABLE {table} RENAME COLUMN {name} TO {fresh}")
            self.columns[table, name] = fresh
        elif kind == 2 and len(plain) > 1 and table in self.paused:
            name = self.dice.choice(plain)
            self.app.run(f"ALTER TABLE {table} DROP COLUMN {name}")
            self.columns[table, name] = None
        self.unseen.add(table)
        self.drifted.add(table)
        if self.dice.random() < 0.5:
            self.install()

    def rebuild(self) -> None:
        """Make a table anew under its name, as tools do that migrate."""
        table = self.dice.choice("bc")
        key, ending = ("k TEXT", ") WITHOUT ROWID") if table == "c" else ("id INTEGER", ", " + _POINTS + ")")
        infos = self.app.query(f"PRAGMA table_info({table})")
        columns = [f"{name} {kind}" for _, name, kind, *_ in infos if name not in ("k", "id")]
        names = ", ".join(name for _, name, *_ in infos)
        made = f"({key} PRIMARY KEY, {', '.join(columns)}{ending}"
        if self.dice.random() < 0.5:
            self.app.run(
                f"CREATE TABLE made {made}",
                f"INSERT INTO made ({names}) SELECT {names} FROM {table}",
                f"DROP TABLE {table}",
                f"ALTER TABLE made RENAME TO {table}",
            )
        else:
            self.app.run(
                f"CREATE TEMP TABLE kept AS SELECT * FROM {table}",
                f"DROP TABLE {table}",
                f"CREATE TABLE {table} {made}",
                f"INSERT INTO {table} ({names}) SELECT {names} FROM kept",
                "DROP TABLE kept",
            )
        self.unseen.add(table)
        self.bare.add(table)
        if self.dice.random() < 0.2:
            self.install()

    def install(self) -> None:
        self.app.capture()
        self.drifted &= self.paused
        self.bare &= self.paused

    def pause(self) -> None:
        table = self.dice.choice("abc")
        capture = self.app.database.capture()
        if table in self.paused:
            capture.resume([table], list(self.app.tables.values()))
            self.paused.discard(table)
            self.drifted &= self.paused
            self.bare &= self.paused
        else:
            if capture.drifted([self.app.tables[table]]):
                self.install()
            capture.pause([self.app.tables[table]], 1, "test")
            self.paused.add(table)
            self.unseen.add(table)

    # What came of it.

    def _replay(self, after_lsn: int) -> None:
        lsn = after_lsn
        for tx in self.app.database.log(NODE).read(after_lsn, 2**40):
            assert (tx.header.prev_lsn, tx.header.from_lsn) == (lsn, lsn + 1)
            ticks: list[int] = []
            for change in map(_change.decode, tx.lines()):
                lsn += 1
                assert change.lsn == lsn
                self._take(change)
                if change.table == "tick":
                    ticks.append(msgspec.json.decode(change.after)["id"])
            assert tx.header.to_lsn == lsn
            self.txs.append(set(ticks))
            if ticks:
                stood = self.pending[max(ticks)]
                self.pending = {number: state for number, state in self.pending.items() if number > max(ticks)}
                if not self.unseen:
                    assert self.shadow == stood, f"after the transactions {ticks}"

    def _take(self, change: Change) -> None:
        key = next(iter(msgspec.json.decode(change.pk).values()))
        place = change.table, key
        before, after = (self._known(change.table, image) for image in (change.before, change.after))
        stood = self.shadow.get(place)
        if place in self.merged and before == (None if after is not None else {_KEYS[change.table]: key}):
            self.merged.discard(place)
        elif change.resolves and after is None and stood is None:
            assert before == {_KEYS[change.table]: key}
        elif change.table not in self.unseen:
            assert before == stood, f"{change.op} {place}, {change.version}"
        base = None if change.base is None else Version(*change.base)
        assert (base or NEVER) == self.versions.get(place, NEVER), f"{change.op} {place}"
        assert Version(*change.version) > (base or NEVER)
        self.versions[place] = Version(*change.version)
        if after is None:
            self.shadow.pop(place, None)
        else:
            self.shadow[place] = (stood or {}) | after

    def _known(self, table: str, image: bytes) -> Row | None:
        row = msgspec.json.decode(image)
        return None if row is None else self.named_now(table, row)

    def named_now(self, table: str, row: Row) -> Row:
        found = {}
        for name, value in row.items():
            now: str | None = name
            while now is not None and (table, now) in self.columns:
                now = self.columns[table, now]
            if now is not None:
                found[now] = value
        return found

    def end(self) -> None:
        for table in list(self.paused):
            self.app.database.capture().resume([table], list(self.app.tables.values()))
        self.install()
        quiet = 0
        while quiet < 20:
            quiet = 0 if self.seal() else quiet + 1
        stored = self.stored()
        assert self.shadow.keys() == stored.keys()
        for place, row in stored.items():
            assert row == self._as_sealed(place, row), place
        assert not self.pending
        order = [ticks for ticks in self.txs if ticks]
        assert all(max(one) < min(other) for one, other in pairwise(order)), "out of order"
        if not self.unseen:
            for ticks in order:
                split = [one for one in self.named if min(ticks) <= one < max(ticks)]
                assert not split, f"{ticks} are one tx, though {split} were named"


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_log_replayed_is_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    dice = random.Random(seed)
    monkeypatch.setattr(sealing, "_CHANGES_A_LOCK", dice.choice((1, 10)))
    monkeypatch.setattr(looking, "MOST_HELD", dice.choice((1, 6, 50_000)))
    monkeypatch.setattr(backlog, "_PAGE", dice.choice((1, 3)))
    monkeypatch.setattr(missed, "_ROWS_A_PAGE", dice.choice((1, 3)))
    monkeypatch.setattr(missed, "_PAGES_A_STEP", 1)
    with sqlite_app(tmp_path / "a.db", *_SCHEMA) as app:
        world = World(app, dice)
        happenings: list[Callable[[], object]] = [world.write] * 6 + [world.seal] * 8
        if seed % 3:
            happenings += [world.put] * 4
        if seed % 3 == 2:
            happenings += [world.alter, world.install, world.pause] + [world.rebuild] * 2
        for _ in range(150):
            dice.choice(happenings)()
        world.end()
