"""One look of the sealer: everything it needs out of one read snapshot, fetched quickly and let go."""

import sqlite3
from dataclasses import dataclass

from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import fetched, transaction
from common.dialects.sqlite.names import log_table, quote
from common.dialects.sqlite.shapes import TouchLog
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
    columns: tuple[str, ...]
    """Those of the shape that the table still has; the current rows have these."""
    current: dict[str, Row]
    """By canonical key; a key that is missing here has no row."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was committed and not sealed at one moment."""

    turn: int
    """Counts the sealers' commits: what was seen holds until it moves."""
    last_lsn: int
    last_tx_id: str | None
    marks: tuple[int, ...]
    logs: tuple[LogLook, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to seal."""
        return not self.logs and not self.marks


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
            logs = [self._log(connection, log, marks, bounds) for log in self._schemas.touch_logs(connection)]
        return Look(turn, last_lsn, last_tx_id, marks, tuple(log for log in logs if log is not None))

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
        table = self._schemas.read(connection).tables.get(log.shape.table)
        readable = table is not None and len(table.shape.pk) == len(log.shape.pk)
        names = () if table is None else _shared_columns(log, table)
        current = _current(connection, log, table, names) if table is not None and readable else {}
        touched = tuple(split(rows, log.key_places, ours))
        return LogLook(log, rows[-1][0], tuple(ours), touched, readable, names, current)


def _shared_columns(log: TouchLog, table: SqliteTable) -> tuple[str, ...]:
    there = {column.name for column in table.shape.written}
    return tuple(column.name for column in log.shape.columns if column.name in there)


def _current(
    connection: sqlite3.Connection, log: TouchLog, table: SqliteTable, names: tuple[str, ...]
) -> dict[str, Row]:
    """Return the rows that the log's keys have now. A collation may find a neighbour: canonical keys tell."""
    touched = ", ".join(f"c{place}" for place in log.key_places)
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
