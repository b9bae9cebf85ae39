"""A real SQLite file with an application on it that knows nothing of Rowferry, and what was sealed of its writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from common.dialects import open_database
from common.ports.dialect import Database, NodeFacts, RowWrite, TableShape
from common.schema.migrate import upgrade
from common.versions import NEVER, Version
from common.wire.records import Change, SealedTx

NODE = NodeFacts("here", "branch", "inc1")
_change = msgspec.json.Decoder(Change)


class SqliteApp:
    """One database file, captured, and the application's connection to it."""

    def __init__(self, path: Path, *schema: str, wal: bool = True, capture: bool = True) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        if wal:
            self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        for statement in schema:
            self.connection.execute(statement)
        self.database: Database = open_database(f"sqlite:///{path}")
        upgrade(self.database.engine)
        if capture:
            self.capture()

    def close(self) -> None:
        self.connection.close()
        self.database.close()

    def capture(self) -> list[str]:
        return self.database.capture().install(list(self.tables.values()))

    @property
    def tables(self) -> dict[str, TableShape]:
        return dict(self.database.catalog().tables)

    def run(self, *statements: str) -> None:
        """Run statements as one transaction."""
        self.connection.execute("BEGIN")
        try:
            for statement in statements:
                self.connection.execute(statement)
        except sqlite3.Error:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql).fetchall()

    def seal(self) -> list[SealedTx]:
        """Seal everything and return what came of it."""
        log, sealer = self.database.log(NODE), self.database.sealer(NODE)
        before = log.head().lsn
        while sealer.seal().more:
            pass
        return list(log.read(before, 2**40))

    def changes(self) -> list[Change]:
        return changes_of(self.seal())

    def put(self, table: str, pk: bytes, image: bytes | None, hlc: int = 1_000) -> None:
        """Write one row as a batch of another node does."""
        shape = self.tables[table]
        with self.database.apply_session() as session:
            (state,) = session.lock(shape, shape.meta, [pk])
            write = RowWrite(state.key, pk, image, Version(0, hlc, "there"), NEVER)
            session.write(shape, shape.meta, [write])


def changes_of(txs: Sequence[SealedTx]) -> list[Change]:
    return [_change.decode(line) for tx in txs for line in tx.lines()]


def brief(found: Sequence[Change]) -> list[tuple[str, str, Any, Any]]:
    """Return table, op and the decoded images of each change."""
    return [(one.table, one.op, msgspec.json.decode(one.before), msgspec.json.decode(one.after)) for one in found]


@contextmanager
def sqlite_app(path: Path, *schema: str, wal: bool = True, capture: bool = True) -> Iterator[SqliteApp]:
    app = SqliteApp(path, *schema, wal=wal, capture=capture)
    try:
        yield app
    finally:
        app.close()
