"""One look of the sealer: everything it needs out of one read snapshot, fetched quickly and let go."""

import sqlite3
from dataclasses import dataclass

from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import fetched, transaction
from common.dialects.sqlite.names import log_table, quote
from common.dialects.sqlite.renamed import table_of
from common.dialects.sqlite.shapes import StoredShape, TouchLog, stored_shape
from common.dialects.sqlite.touches import TouchedTable, split
from common.dialects.sqlite.values import Row, key_text


@dataclass(frozen=True, slots=True)
class LogLook:
    """One touch log as it stood, and the rows that it is about as they stood then."""

    log: TouchLog
    last_seq: int
    bounds: tuple[int, ...]
    """The last seq of each mark, in the marks' order; empty for a log of an older shape."""
    touched: tuple[TouchedTable, ...]
    """One a bound, and one for what follows the last."""
    readable: bool
    """False: the table is gone, or its key is another one. What the rows became can't be told."""
    shape: StoredShape
    """What it is sealed under: the log's own shape as long as the table still has all of it, else the table's."""
    shape_id: int | None
    """The number of that shape; None where capture is not installed for it yet."""
    current: dict[str, Row]
    """By canonical key, in the columns of `shape`; a key that is missing here has no row."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was committed and not sealed at one moment."""

    turn: int
    """Counts the sealers' commits: what was seen holds until it moves."""
    last_lsn: int
    last_tx_id: str | None
    marks: tuple[int, ...]
    last_mark: int | None
    """Of the marks that keep nothing apart: a row whose table has another shape now is known as it is now, no other
    way."""
    logs: tuple[LogLook, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to seal."""
        return not self.logs and not self.marks and self.last_mark is None


class Looker:
    """Takes looks at one database."""

    def __init__(self, schemas: SchemaCache) -> None:
        self._schemas = schemas

    def look(self, connection: sqlite3.Connection, incarnation: str) -> Look:
        """Read in one snapshot. Raises sqlite3.Error."""
        with transaction(connection, "BEGIN"):
            turn = connection.execute("SELECT turn FROM rf_seal_turn").fetchone()[0]
            query = "SELECT last_lsn, last_tx_id FROM rf_seal WHERE incarnation = ?"
            last_lsn, last_tx_id = connection.execute(query, (incarnation,)).fetchone() or (0, None)
            marks = tuple(row[0] for row in connection.execute("SELECT id FROM rf_mark ORDER BY id").fetchall())
            bounds: dict[tuple[int, int], int] = {
                (mark, shape_id): seq
                for mark, shape_id, seq in connection.execute("SELECT mark, shape_id, seq FROM rf_mark_bound")
            }
            logs = self._logs(connection, marks, bounds)
            last_mark = None
            if marks and any(log.log.current and log.shape != log.log.shape for log in logs):
                last_mark = marks[-1]
                marks = ()
                logs = self._logs(connection, marks, bounds)
        return Look(turn, last_lsn, last_tx_id, marks, last_mark, tuple(logs))

    def _logs(
        self, connection: sqlite3.Connection, marks: tuple[int, ...], bounds: dict[tuple[int, int], int]
    ) -> list[LogLook]:
        logs = (self._log(connection, log, marks, bounds) for log in self._schemas.touch_logs(connection))
        return [log for log in logs if log is not None]

    def _log(
        self,
        connection: sqlite3.Connection,
        log: TouchLog,
        marks: tuple[int, ...],
        bounds: dict[tuple[int, int], int],
    ) -> LogLook | None:
        rows = fetched(connection, f"SELECT * FROM {log_table(log.shape_id)} ORDER BY seq")
        if not rows:
            return None
        ours: list[int] = []
        for mark in marks if log.current else ():
            ours.append(bounds.get((mark, log.shape_id), ours[-1] if ours else 0))
        table = table_of(connection, log, self._schemas.read(connection).tables)
        readable = table is not None and len(table.shape.pk) == len(log.shape.pk)
        shape = log.shape if table is None else _sealed_under(log.shape, stored_shape(table.shape))
        current = _current(connection, log, table, shape) if table is not None and readable else {}
        touched = tuple(split(rows, log.key_places, ours))
        known = [one for one in self._schemas.touch_logs(connection) if one.table_id == log.table_id]
        shape_id = next((one.shape_id for one in known if one.shape == shape), None)
        return LogLook(log, rows[-1][0], tuple(ours), touched, readable, shape, shape_id, current)


def _sealed_under(old: StoredShape, now: StoredShape) -> StoredShape:
    """A column that came does not keep others from taking the row; with one that went no row is whole any more."""
    there = {(column.name, column.logical) for column in now.columns}
    has_all = all((column.name, column.logical) in there for column in old.columns)
    return old if has_all and (old.table, old.pk) == (now.table, now.pk) else now


def _current(connection: sqlite3.Connection, log: TouchLog, table: SqliteTable, shape: StoredShape) -> dict[str, Row]:
    """Return the rows that the log's keys have now. A collation may find a neighbour: canonical keys tell."""
    touched = ", ".join(f"c{place}" for place in log.key_places)
    names = [column.name for column in shape.columns]
    wanted = ", ".join(f"now.{quote(name)}" for name in (*table.shape.pk, *names))
    match = " AND ".join(
        f"now.{quote(name)} = touched.c{place}" for name, place in zip(table.shape.pk, log.key_places, strict=True)
    )
    rows = fetched(
        connection,
        f"SELECT {wanted} FROM (SELECT DISTINCT {touched} FROM {log_table(log.shape_id)}) AS touched"
        f" CROSS JOIN main.{quote(table.shape.bare)} AS now ON {match}",
    )
    width = len(table.shape.pk)
    return {key_text(row[:width]): row[width:] for row in rows}
