"""Copies of a SQLite file with SQLite's own online backup, and putting one back the same way."""

import errno
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from common.dialects.literal_sql import as_literal_sql
from common.dialects.sqlite.connection import BUSY_TIMEOUT_MS, transaction
from common.dialects.sqlite.errors import translating
from common.errors import ConfigError, OutageError
from common.ports.backup import Advance, Holds, Moment

_PAGES_A_STEP = 500
"""About two megabytes: outside WAL the application's commits wait for one step, not for all of them."""
_MOST_RESTARTS = 5
"""Each write of somebody else's between two steps makes SQLite begin anew; after these it is done in one go."""
_WAIT_SECONDS = 30.0
"""For whoever holds the file."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_BESIDE = ("-wal", "-shm", "-journal")
_MOMENT = """
SELECT n.node_id, n.incarnation, coalesce(s.last_lsn, 0), s.last_tx_id, (SELECT version_num FROM rf_alembic_version)
FROM rf_node n LEFT JOIN rf_seal s ON s.incarnation = n.incarnation WHERE n.is_self
"""


_NO_ROOM = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_IOERR_WRITE: errno.EIO}
"""What can only be the copy's fault: of what is copied nothing is written."""


@contextmanager
def _no_room(target: Path) -> Iterator[None]:
    """Let out as OSError what hinders the copy alone, so that nobody looks for it at the node's database."""
    try:
        yield
    except sqlite3.Error as error:
        number = _NO_ROOM.get(getattr(error, "sqlite_errorcode", None) or 0)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(target)) from error


class _RestartedTooOftenError(Exception):
    """Somebody writes all the time."""


class SqliteBackups:
    """Copies of one file."""

    file_name = "database.sqlite"

    def __init__(self, path: str) -> None:
        if path.startswith("file:"):
            raise ConfigError("node.database: to back up or restore, name the file by its path, not by a URI")
        # What is put in its place must not stand in the place of a link to it.
        self._path = Path(path).resolve()

    def holds(self) -> Holds:
        """See `Backups`."""
        if not self._path.exists() or self._path.stat().st_size == 0:
            return Holds.NOTHING
        with translating(), closing(self._open(self._path)) as connection:
            try:
                tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                    return Holds.UNREADABLE
                raise
        if "rf_node" in tables:
            return Holds.NODE
        return Holds.OTHER_TABLES if tables else Holds.NOTHING

    def node_id(self) -> str | None:
        """See `Backups`."""
        with translating(), closing(self._open(self._path)) as connection:
            row = connection.execute("SELECT node_id FROM rf_node WHERE is_self").fetchone()
        return None if row is None else str(row[0])

    def copy(self, target: Path, advance: Advance) -> Moment:
        """See `Backups`."""
        with translating(), closing(self._open(self._path)) as source, _no_room(target):
            try:
                with closing(self._open(target)) as copy:
                    # In WAL one long look keeps nobody waiting.
                    in_steps = source.execute("PRAGMA journal_mode").fetchone()[0] != "wal"
                    self._pages(source, copy, advance, _PAGES_A_STEP if in_steps else -1)
            except _RestartedTooOftenError:
                target.unlink()
                with closing(self._open(target)) as copy:
                    self._pages(source, copy, advance, -1)
            with closing(self._open(target)) as copy:
                found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise OutageError(f"{self._path} is damaged, and so its copy would be: {found}")
                return Moment(*copy.execute(_MOMENT).fetchone())

    def put_back(self, copy: Path, news: Sequence[sa.Executable], advance: Advance) -> None:
        """See `Backups`. What is to be said of it is written into a copy of the copy, which then takes the place of
        what is there page by page in one transaction of SQLite's, or as a file where there is no database to write to.
        """
        staged = self._path.with_name(f"{self._path.name}.restoring")
        self._remove(staged)
        try:
            with translating():
                shutil.copyfile(copy, staged)
                self._tell(staged, news)
                if self.holds() in (Holds.NOTHING, Holds.UNREADABLE):
                    self._replace(staged)
                else:
                    self._overwrite(staged, advance)
        finally:
            self._remove(staged)

    def _tell(self, staged: Path, news: Sequence[sa.Executable]) -> None:
        with closing(self._open(staged)) as connection:
            with transaction(connection):
                for statement in news:
                    connection.execute(as_literal_sql(statement, sqlite.dialect()))
                # Another database from now on, also where it is put into the same file. And what a sealer that runs
                # has prepared is of what was there before: it must look again.
                connection.execute("UPDATE rf_sqlite SET value = ? WHERE name = 'database_id'", (uuid.uuid4().hex,))
                connection.execute("UPDATE rf_seal_turn SET turn = turn + ?", (uuid.uuid4().int >> 80,))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _replace(self, staged: Path) -> None:
        for beside in _BESIDE:
            # Of a database that is gone: it must not be read into this one.
            Path(f"{self._path}{beside}").unlink(missing_ok=True)
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        staged.replace(self._path)
        if os.name == "posix":
            folder = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _overwrite(self, staged: Path, advance: Advance) -> None:
        with closing(self._open(staged)) as source, closing(self._open(self._path)) as target:
            try:
                self._pages(source, target, advance, -1)
            except sqlite3.DatabaseError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                    raise
                text = f"{self._path} has pages of another size than the backup, or can't be written"
                raise OutageError(f"{text}: move it away, with the files beside it, and run this again") from error

    def _pages(self, source: sqlite3.Connection, target: sqlite3.Connection, advance: Advance, pages: int) -> None:
        source.backup(target, pages=pages, progress=_watching(self._path, source, advance), sleep=0.05)

    def _open(self, path: Path) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)

    def _remove(self, staged: Path) -> None:
        for suffix in ("", *_BESIDE):
            Path(f"{staged}{suffix}").unlink(missing_ok=True)


def _watching(path: Path, source: sqlite3.Connection, advance: Advance) -> Callable[[int, int, int], None]:
    """Return what SQLite tells after each step."""
    page_bytes = int(source.execute("PRAGMA page_size").fetchone()[0])
    left, restarts, busy_since = -1, 0, 0.0

    def look(status: int, remaining: int, total: int) -> None:
        nonlocal left, restarts, busy_since
        if status in _BUSY:
            busy_since = busy_since or time.monotonic()
            if time.monotonic() - busy_since > _WAIT_SECONDS:
                raise OutageError(f"{path} is in use: stop the application and `rowferry run`, and run this again")
            return
        busy_since = 0.0
        done = (total if left < 0 else left) - remaining
        if done > 0:
            advance(done * page_bytes)
        elif left >= 0 and remaining > left:
            restarts += 1
            if restarts > _MOST_RESTARTS:
                raise _RestartedTooOftenError
        left = remaining

    return look
