"""Rows of which another node's write left some columns as they stood here, since it does not know of them.

Such a row is like no other node's, and its version says the opposite. So it is sent again whole, on top of that
version, where such a column holds something else than its default: a node that gets the column
later has it from here."""

import sqlite3
from collections.abc import Sequence

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.passages import column_defaults
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import TouchLog, stored_shape
from common.dialects.sqlite.touches import LONG_AGO, MISSED
from common.dialects.sqlite.values import Row, placeholders
from common.wire.records import TableMeta


class MergedRows:
    """Notes such rows of one applying transaction, and touches them at its end.

    Where capture does not fit the table, its rows are compared when it does, and nothing has to be noted."""

    def __init__(self, connection: sqlite3.Connection, logs: Sequence[TouchLog]) -> None:
        self._connection = connection
        self._logs = logs
        self._found: list[tuple[TouchLog, Row]] = []

    def note(self, table: SqliteTable, table_id: int, meta: TableMeta, updated: Sequence[Row]) -> None:
        """Note those of the rows just updated, by key, that keep something in a column which `meta` does not have."""
        unnamed = [column.name for column in table.shape.written if column.name not in meta.columns]
        if not unnamed or not updated:
            return
        shape = stored_shape(table.shape)
        log = next((one for one in self._logs if one.current and (one.table_id, one.shape) == (table_id, shape)), None)
        if log is None:
            return
        defaults = column_defaults(self._connection, shape)
        usual = tuple(defaults[name] for name in unnamed)
        rows = TableRows(self._connection, table).find(updated, unnamed)
        self._found += [(log, key) for key, row in zip(updated, rows, strict=True) if row not in (None, usual)]

    def touch(self) -> None:
        """Have the noted rows sealed as this node's own. Only at the end: nobody must take them for unsealed before."""
        for log, key in self._found:
            columns = ", ".join(f"c{place}" for place in log.key_places)
            values = ", ".join(placeholders(key))
            into = f"INSERT INTO main.{log_table(log.shape_id)} (kind, at, {columns})"
            self._connection.execute(f"{into} VALUES ('{MISSED}', {LONG_AGO}, {values})", key)
