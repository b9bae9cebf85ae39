"""SQLite to SQLite through a shared folder, no servers: the same loads, Rowferry alone, for want of a peer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.catch_up import Trial
from tests.bench.pair import MARK, MARK_DDL
from tests.bench.plan import START_ROWS, plan
from tests.bench.processes import Workers
from tests.bench.results import Load
from tests.support.nodes import CliNode
from tests.support.waiting import wait_for

_DDL = """CREATE TABLE items (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, amount INTEGER NOT NULL, price REAL NOT NULL, note TEXT)"""
_INSERT = "INSERT INTO items SELECT ?1, 'item ' || ?1, ?1 % 1000, ?1 / 100.0, iif(?1 % 3 = 0, NULL, 'a note of it')"
_STATEMENTS = {
    "I": _INSERT,
    "U": "UPDATE items SET amount = amount + 1, price = price * 1.01 WHERE id = ?1",
    "D": "DELETE FROM items WHERE id = ?1",
}
# The folder is looked at once a second by default, which would be most of what is measured.
_POLL = {"ROWFERRY_DIRECTORY_POLL_SECONDS": "0.05"}
_POLL_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Files:
    """Two database files with the same rows, `Ends` of a measurement."""

    source: Path
    target: Path

    @classmethod
    def fresh(cls, folder: Path) -> Files:
        folder.mkdir(parents=True)
        made = cls(folder / "source.db", folder / "target.db")
        for file in (made.source, made.target):
            with _opened(file) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(_DDL)
                connection.execute(MARK_DDL.replace("bigint", "INTEGER"))
                with connection:
                    connection.executemany(_INSERT, ((key,) for key in range(1, START_ROWS + 1)))
        return made

    def settle(self) -> None:
        for file in (self.source, self.target):
            with _opened(file) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextmanager
    def between_writes(self) -> Iterator[None]:
        """A file has one writer: a node that stands still in the middle of a write keeps out all others."""
        with _opened(self.source) as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            finally:
                connection.rollback()

    def mark(self, number: int) -> None:
        with _opened(self.source) as connection, connection:
            connection.execute(f"INSERT INTO {MARK} VALUES ({number})")

    def wait_for_mark(self, number: int, timeout_seconds: float) -> None:
        with _opened(self.target) as connection:
            query = f"SELECT count(*) FROM {MARK} WHERE id = {number}"

            def there() -> bool:
                return bool(connection.execute(query).fetchone() == (1,))

            wait_for(there, timeout_seconds, f"mark {number} in {self.target}", longest_pause_seconds=_POLL_SECONDS)

    def differences(self) -> list[str]:
        return [table for table in ("items", MARK) if _rows(self.source, table) != _rows(self.target, table)]


@dataclass(frozen=True, slots=True)
class FileItems:
    """`txs` transactions of `rows_each` rows by one program; WAL, `synchronous = NORMAL`."""

    name: str
    txs: int
    rows_each: int

    def trial(self, system: str, folder: Path) -> Trial:
        """`system` is `rowferry` or `bare`."""
        files = Files.fresh(folder)
        replicating = _rowferry(files, folder) if system == "rowferry" else _bare()
        load = Load(self.name, self.txs * self.rows_each)
        return Trial(system, load, files, replicating, partial(self._write, files.source))

    def _write(self, source: Path) -> None:
        with _opened(source) as connection:
            for statements in plan(self.name, self.txs, self.rows_each):
                with connection:
                    for op, keys in statements:
                        connection.executemany(_STATEMENTS[op], ((key,) for key in keys))


@contextmanager
def _rowferry(files: Files, folder: Path) -> Iterator[Workers]:
    exchange = folder / "exchange"
    exchange.mkdir()
    nodes = []
    try:
        for name, file in (("source", files.source), ("target", files.target)):
            options = ("--directory", str(exchange), "--tables", f"items,{MARK}")
            nodes.append(CliNode.init(name, folder / name, f"sqlite:///{file}", *options))
            nodes[-1].ok("migrate")
        producer, consumer = (node.start(**_POLL).process.pid for node in nodes)
        own = (producer, consumer)
        yield Workers(own, {"source node": (producer,), "target node": (consumer,)}, own)
        for node in nodes:
            code = node.runs[-1].stop()
            if code != 0:
                raise RuntimeError(f"{node.node_id} ended with {code}:\n{node.runs[-1].tail()}")
    finally:
        for node in nodes:
            node.close()


@contextmanager
def _bare() -> Iterator[Workers]:
    yield Workers((), {})


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=60)) as connection:
        connection.execute("PRAGMA synchronous = NORMAL")
        yield connection


def _rows(file: Path, table: str) -> list[tuple[object, ...]]:
    with _opened(file) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
