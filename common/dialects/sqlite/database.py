"""A SQLite database as Rowferry's ports see it."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import sqlalchemy as sa

from common.dialects.sqlite.applying import SqliteApplySession
from common.dialects.sqlite.backing_up import SqliteBackups
from common.dialects.sqlite.capture import SqliteCapture
from common.dialects.sqlite.catalog import SchemaCache
from common.dialects.sqlite.commits import Commits
from common.dialects.sqlite.connection import borrowed, check_url, is_there, make_engine
from common.dialects.sqlite.errors import translate, translating
from common.dialects.sqlite.frozen import SqliteSnapshots
from common.dialects.sqlite.health import findings
from common.dialects.sqlite.log import SqliteLog
from common.dialects.sqlite.making import SqliteTableMaking
from common.dialects.sqlite.retention import SqliteRetention
from common.dialects.sqlite.row_history import SqliteRowHistory
from common.dialects.sqlite.sealing import LetterCount, SqliteSealer
from common.dialects.sqlite.standing_triggers import StandingTriggers
from common.dialects.sqlite.triggers_off import switch_triggers_off
from common.errors import ConfigError, OutageError
from common.ports.dialect import Catalog, DialectFeatures, NodeFacts
from common.ports.health import Finding
from common.ports.rules import NO_RULES, Rules


class SqliteDatabase:
    """One database file. Threads may share it: each call, each session has a connection of its own."""

    def __init__(self, url: sa.URL, *, create: bool = True) -> None:
        self._path = check_url(url)
        if not create and not is_there(self._path):
            raise ConfigError(
                f"node.database: {self._path} is not there; check the path, and that its disk is mounted. "
                "Only for a new node: `rowferry migrate` creates the file"
            )
        self._engine = make_engine(url, create=create)
        self._applying = make_engine(url, "BEGIN IMMEDIATE", self._prepare_applying, create=create)
        self._watching = make_engine(url, create=create, alone=True)
        self._schemas = SchemaCache()
        self._triggers = StandingTriggers()
        self._triggers_off: bool | None = None
        self._letters = LetterCount()

    @property
    def engine(self) -> sa.Engine:
        """Ordinary transactions (`BEGIN`), for the `rf_*` tables. Write before you read, or the upgrade may fail."""
        return self._engine

    @property
    def features(self) -> DialectFeatures:
        """What this Python and this SQLite can do."""
        if self._triggers_off is None:
            probe = sqlite3.connect(":memory:")
            try:
                self._triggers_off = switch_triggers_off(probe)
            finally:
                probe.close()
        return DialectFeatures("sqlite", self._triggers_off, locks_rows=False, splits_transactions=False)

    def catalog(self) -> Catalog:
        """Look at the tables."""
        with borrowed(self._engine) as connection:
            return self._schemas.read(connection).catalog

    def capture(self, rules: Rules = NO_RULES) -> SqliteCapture:
        """Return what installs triggers."""
        return SqliteCapture(self._engine, self._schemas, rules)

    def sealer(self, node: NodeFacts) -> SqliteSealer:
        """Return a sealer for this node."""
        return SqliteSealer(self._engine, self._schemas, node, letters=self._letters, commits=Commits(self._watching))

    @property
    def own_letters(self) -> int:
        """How many dead letters the sealers of this object have made."""
        return self._letters.total

    def hold_sealing(self, connection: sa.Connection) -> None:
        """Nothing to do: a file has one writer at a time."""

    def log(self, node: NodeFacts) -> SqliteLog:
        """Return the sealed log of this node's incarnation."""
        return SqliteLog(self._engine, node)

    def retention(self) -> SqliteRetention:
        """Return what takes old lines away."""
        return SqliteRetention()

    @contextmanager
    def apply_session(self) -> Iterator[SqliteApplySession]:
        """Begin one applying transaction: SQLite's write lock is taken at once."""
        with translating(), self._applying.connect() as connection, connection.begin():
            raw = cast(sqlite3.Connection, connection.connection.driver_connection)
            session = SqliteApplySession(connection, raw, self._schemas, self._triggers)
            yield session
            session.finish()

    def row_history(self, node: NodeFacts) -> SqliteRowHistory:  # noqa: ARG002 the lines name the node
        """Return what tells of single rows."""
        return SqliteRowHistory(self._engine, self._schemas)

    def backups(self) -> SqliteBackups:
        """Return what copies the file, and puts a copy back."""
        return SqliteBackups(self._path)

    def snapshots(self) -> SqliteSnapshots:
        """Return what looks at all of it as it was sealed at one moment."""
        return SqliteSnapshots(self._engine, self._path)

    def table_making(self) -> SqliteTableMaking:
        """Return what describes tables, and makes tables from descriptions."""
        return SqliteTableMaking(self._engine, self._schemas)

    def health(self) -> list[Finding]:
        """Look whether this file, library and Python can do what a node needs."""
        with borrowed(self._engine) as connection:
            return list(findings(connection, self._path, triggers_off=self.features.triggers_off))

    def server_identity(self) -> str:
        """Return the database's own random id and its file's number: a copied or restored file has another.

        The device is left out: network mounts get a new one at each boot."""
        with borrowed(self._engine) as connection:
            query = "SELECT value FROM rf_sqlite WHERE name = 'database_id'"
            database_id = connection.execute(query).fetchone()[0]
            path = connection.execute("PRAGMA database_list").fetchone()[2]
        try:
            return f"{database_id}/{os.stat(path).st_ino}"
        except OSError as error:
            raise OutageError(f"the database's file is gone: {error}; restore it, or check its mount") from error

    def translate(self, error: sa.exc.SQLAlchemyError) -> Exception:
        """Return the RowferryError that a driver's error calls for, by result code."""
        return translate(error)

    def close(self) -> None:
        """Close every connection; may be called again."""
        self._engine.dispose()
        self._applying.dispose()
        self._watching.dispose()

    def _prepare_applying(self, connection: sqlite3.Connection) -> None:
        # Cascades act even with triggers off, and nothing would log them: foreign keys are checked by us.
        connection.execute("PRAGMA foreign_keys = OFF")
        self._triggers_off = switch_triggers_off(connection)
