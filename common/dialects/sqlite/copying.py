"""A touch log and the rows that it is about, copied into SQLite's temporary database within the look's snapshot.

Copying is all that happens while the snapshot is held: outside WAL the application's commits wait for its end."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.names import log_table, quote
from common.dialects.sqlite.shapes import TouchLog
from common.dialects.sqlite.values import Row
from common.errors import OutageError


class CopiedLog(NamedTuple):
    """One touch log, aside, with the rows that it is about."""

    log: TouchLog
    bounds: tuple[int, ...]
    """The last seq of each segment, in order: of the marks, then the log's own."""

    @property
    def touched(self) -> str:
        """The copy of the log."""
        return f"temp.rf_spool_touched_{self.log.shape_id}"

    @property
    def now(self) -> str:
        """The copy of the rows as they stood."""
        return f"temp.rf_spool_now_{self.log.shape_id}"

    @property
    def bound(self) -> str:
        """The bounds once more, for queries."""
        return f"temp.rf_spool_bound_{self.log.shape_id}"

    @property
    def columns(self) -> list[str]:
        """What both copies call the table's columns."""
        return [f"c{place}" for place in range(len(self.log.shape.columns))]

    @property
    def keys(self) -> list[str]:
        """Those of the key."""
        return [f"c{place}" for place in self.log.key_places]

    @property
    def has_null(self) -> str:
        """A condition: the key is that of a row which nobody could name."""
        return f"({' OR '.join(f'{key} IS NULL' for key in self.keys)})"

    def after(self, segment: int) -> int:
        """Return the seq after which a segment begins."""
        return self.bounds[segment - 1] if segment else 0

    def within(self, first: int, last: int) -> str:
        """Return a condition: touched by one of these segments."""
        return f"seq > {self.after(first)} AND seq <= {self.bounds[last]}"

    @property
    def key_of(self) -> Callable[[Row], Row]:
        """What returns the key of an entry of the log: made once, for many entries."""
        places = [3 + place for place in self.log.key_places]
        return lambda entry: tuple([entry[place] for place in places])

    def same_key(self, one: str, other: str) -> str:
        """Return a condition. Keys are one where bytes and class are one; `=` alone takes 1 for 1.0."""
        pairs = [(f"{one}.{key}", f"{other}.{key}") for key in self.keys]
        return " AND ".join(f"{a} = {b} AND typeof({a}) = typeof({b})" for a, b in pairs)


def copy_aside(
    connection: sqlite3.Connection, log: TouchLog, table: SqliteTable, mark_bounds: Sequence[int]
) -> CopiedLog:
    """Copy a touch log, and the rows that its keys have now, inside the look's snapshot."""
    (last,) = connection.execute(f"SELECT max(seq) FROM main.{log_table(log.shape_id)}").fetchone()
    copied = CopiedLog(log, (*mark_bounds, last))
    columns, keys = ", ".join(copied.columns), ", ".join(copied.keys)
    with in_temporary_folder():
        # Without types: a copy must not turn a value into one of another class.
        connection.execute(f"CREATE TABLE {copied.touched} (seq INTEGER PRIMARY KEY, kind, at, {columns})")
        connection.execute(f"CREATE TABLE {copied.now} ({columns}, UNIQUE ({keys}))")
        connection.execute(f"CREATE TABLE {copied.bound} (seq INTEGER PRIMARY KEY)")
        connection.execute(
            f"INSERT INTO {copied.touched} SELECT seq, kind, at, {columns} FROM main.{log_table(log.shape_id)}"
        )
        index = copied.touched.replace("temp.", "temp.i_")
        connection.execute(f"CREATE INDEX {index} ON {copied.touched.removeprefix('temp.')} ({keys}, seq)")
        wanted = [column.name for column in log.shape.columns]
        connection.execute(f"INSERT OR IGNORE INTO {copied.now} {current_rows(log, table, wanted)}")
        connection.executemany(
            f"INSERT OR IGNORE INTO {copied.bound} VALUES (?)", [(bound,) for bound in copied.bounds]
        )
    return copied


def current_rows(log: TouchLog, table: SqliteTable, wanted: Iterable[str]) -> str:
    """Return a query for columns of the rows that a log's keys have now.

    A collation of the table's may find a neighbour too: canonical keys tell."""
    touched = ", ".join(f"c{place}" for place in log.key_places)
    match = " AND ".join(
        f"now.{quote(name)} = touched.c{place}" for name, place in zip(table.shape.pk, log.key_places, strict=True)
    )
    return (
        f"SELECT {', '.join(f'now.{quote(name)}' for name in wanted)}"
        f" FROM (SELECT DISTINCT {touched} FROM main.{log_table(log.shape_id)}) AS touched"
        f" CROSS JOIN main.{quote(table.shape.bare)} AS now ON {match}"
    )


def clear(connection: sqlite3.Connection) -> None:
    """Take away all that stands aside on a connection."""
    named = "SELECT name FROM sqlite_temp_master WHERE type = 'table' AND name GLOB 'rf_spool_*'"
    for (name,) in connection.execute(named).fetchall():
        connection.execute(f"DROP TABLE temp.{name}")


@contextmanager
def in_temporary_folder() -> Iterator[None]:
    """Tell which folder it is that is full."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
        text = "SQLite's temporary folder has no room for a backlog that is too long to be held in memory"
        raise OutageError(f"{text}: free some space there, or name another folder in SQLITE_TMPDIR") from error
