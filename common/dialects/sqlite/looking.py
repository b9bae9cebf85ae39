"""One look of the sealer: everything it needs out of one read snapshot, fetched quickly and let go.

What is too much to be held is copied aside instead (`backlog`)."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from common.dialects.sqlite.backlog import Backlog
from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import fetched, transaction
from common.dialects.sqlite.copying import clear, copy_aside, current_rows
from common.dialects.sqlite.looks import LogLook, Look
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.renamed import table_of
from common.dialects.sqlite.shapes import StoredShape, TouchLog, stored_shape
from common.dialects.sqlite.touches import TouchedTable, split
from common.dialects.sqlite.values import Row, key_text

MOST_HELD = 50_000
"""So many touches are in memory at once, with the rows that they are about: about a kilobyte each."""
_LOGS_A_QUERY = 200
"""SQLite takes 2,000 columns, and Python keeps 128 statements of a connection."""
_json = msgspec.json.Encoder()
_NOT_KNOWN = (
    "SELECT v.key FROM json_each(?) AS asked CROSS JOIN main.rf_row_version AS v ON v.table_id = ?"
    " AND v.key = asked.value AND v.digest IS NULL AND NOT v.deleted AND v.node_id <> ''"
)


class Looker:
    """Takes looks at one database."""

    def __init__(self, schemas: SchemaCache) -> None:
        self._schemas = schemas

    def look(self, connection: sqlite3.Connection, incarnation: str) -> Look | Backlog:
        """Read in one snapshot. Raises sqlite3.Error."""
        with transaction(connection, "BEGIN"):
            return self.look_within(connection, incarnation)

    def look_within(self, connection: sqlite3.Connection, incarnation: str) -> Look | Backlog:
        """The same in the caller's transaction."""
        turn = connection.execute("SELECT turn FROM rf_seal_turn").fetchone()[0]
        query = "SELECT last_lsn, last_tx_id FROM rf_seal WHERE incarnation = ?"
        last_lsn, last_tx_id = connection.execute(query, (incarnation,)).fetchone() or (0, None)
        marks = tuple(row[0] for row in connection.execute("SELECT id FROM rf_mark ORDER BY id").fetchall())
        bounds: dict[tuple[int, int], int] = {
            (mark, shape_id): seq
            for mark, shape_id, seq in connection.execute("SELECT mark, shape_id, seq FROM rf_mark_bound")
        }
        touched = _touched(connection, self._schemas.touch_logs(connection))
        long = self._long(connection, touched)
        if long:
            moment = Look(turn, last_lsn, last_tx_id, (), None, ())
            clear(connection)
            copied = [copy_aside(connection, log, table, self._ours(log, marks, bounds)) for log, table in long]
            return Backlog(connection, moment, marks, copied, MOST_HELD)
        logs = [self._log(connection, log, marks, bounds) for log in touched]
        last_mark = None
        if marks and any(log.log.current and log.shape != log.log.shape for log in logs):
            last_mark = marks[-1]
            marks = ()
            logs = [self._log(connection, log, marks, bounds) for log in touched]
        return Look(turn, last_lsn, last_tx_id, marks, last_mark, tuple(logs))

    def _long(
        self, connection: sqlite3.Connection, touched: Mapping[TouchLog, int]
    ) -> list[tuple[TouchLog, SqliteTable]]:
        """Return the touch logs with their tables if they are too long together, and each fits its table as it stands.

        A table that has another shape by now is rare beside a backlog: it is then held whole."""
        if sum(touched.values()) <= MOST_HELD:
            return []
        found: list[tuple[TouchLog, SqliteTable]] = []
        for log in touched:
            table = table_of(connection, log, self._schemas.read(connection).tables)
            if table is None or not log.current or stored_shape(table.shape) != log.shape:
                return []
            found.append((log, table))
        return found

    def _ours(self, log: TouchLog, marks: tuple[int, ...], bounds: dict[tuple[int, int], int]) -> tuple[int, ...]:
        """Return the last seq of each mark in this log."""
        ours: list[int] = []
        for mark in marks if log.current else ():
            ours.append(bounds.get((mark, log.shape_id), ours[-1] if ours else 0))
        return tuple(ours)

    def _log(
        self,
        connection: sqlite3.Connection,
        log: TouchLog,
        marks: tuple[int, ...],
        bounds: dict[tuple[int, int], int],
    ) -> LogLook:
        rows = fetched(connection, f"SELECT * FROM {log_table(log.shape_id)} ORDER BY seq")
        ours = self._ours(log, marks, bounds)
        table = table_of(connection, log, self._schemas.read(connection).tables)
        readable = table is not None and len(table.shape.pk) == len(log.shape.pk)
        shape = log.shape if table is None else _sealed_under(log.shape, stored_shape(table.shape))
        current = _current(connection, log, table, shape) if table is not None and readable else {}
        touched = tuple(split(rows, log.key_places, ours))
        known = [one for one in self._schemas.touch_logs(connection) if one.table_id == log.table_id]
        shape_id = next((one.shape_id for one in known if one.shape == shape), None)
        has_more = table is not None and stored_shape(table.shape) != shape
        not_known = _not_known(connection, log, touched) if has_more else frozenset()
        return LogLook(log, 0, rows[-1][0], ours, touched, readable, shape, shape_id, current, not_known)


def _not_known(connection: sqlite3.Connection, log: TouchLog, touched: Iterable[TouchedTable]) -> frozenset[str]:
    """Return the keys of which there is a version and no digest."""
    keys = sorted({key for one in touched for key in one.touches})
    given = (_json.encode(keys).decode(), log.table_id)
    return frozenset(key for (key,) in connection.execute(_NOT_KNOWN, given).fetchall())


def _touched(connection: sqlite3.Connection, logs: Sequence[TouchLog]) -> dict[TouchLog, int]:
    """Return the logs that have touches, and about how many each has, never fewer: by its two ends, which cost nothing
    to find. All are asked at once: of hundreds of tables a few are written between two looks."""
    found: dict[TouchLog, int] = {}
    for start in range(0, len(logs), _LOGS_A_QUERY):
        some = logs[start : start + _LOGS_A_QUERY]
        names = [log_table(log.shape_id) for log in some]
        # In one aggregate together they would be a scan of the whole log.
        ends = ", ".join(f"(SELECT min(seq) FROM {name}), (SELECT max(seq) FROM {name})" for name in names)
        row = connection.execute(f"SELECT {ends}").fetchone()
        for log, first, last in zip(some, row[::2], row[1::2], strict=True):
            if first is not None:
                found[log] = last - first + 1
    return found


def _sealed_under(old: StoredShape, now: StoredShape) -> StoredShape:
    """A column that came does not keep others from taking the row; with one that went no row is whole any more."""
    there = {(column.name, column.logical) for column in now.columns}
    has_all = all((column.name, column.logical) in there for column in old.columns)
    return old if has_all and (old.table, old.pk) == (now.table, now.pk) else now


def _current(connection: sqlite3.Connection, log: TouchLog, table: SqliteTable, shape: StoredShape) -> dict[str, Row]:
    """Return the rows that the log's keys have now. A collation may find a neighbour: canonical keys tell."""
    rows = fetched(connection, current_rows(log, table, (*table.shape.pk, *(one.name for one in shape.columns))))
    width = len(table.shape.pk)
    return {key_text(row[:width]): row[width:] for row in rows}
