"""Rows that are sealed as this node's own writes, also where they stay as they are: choices between writes that met,
and first versions of rows from before the first sync."""

import json
import sqlite3
from collections.abc import Sequence

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import TouchLog, stored_shape
from common.dialects.sqlite.touches import CHOSEN, CHOSEN_ABSENT, LONG_AGO, NOW, julian
from common.dialects.sqlite.values import Row, placeholders
from common.errors import ConfigError
from common.versions import Version, counts_from_us


class Choices:
    """Notes the choices of one applying transaction, and touches their rows at its end."""

    def __init__(self, connection: sqlite3.Connection, logs: Sequence[TouchLog]) -> None:
        self._connection = connection
        self._logs = logs
        self._found: list[tuple[TouchLog, Row, Row | None, str, int]] = []
        self._first: list[tuple[TouchLog, Row, str]] = []

    def note(self, table: SqliteTable, table_id: int, key: Row, base: Version, resolves: Sequence[Version]) -> None:
        """Note a row that is about to be written as chosen, on top of `base`.

        Raises ConfigError where it would not be sealed."""
        log = self._log_of(table, table_id)
        names = [column.name for column in table.shape.written]
        before = TableRows(self._connection, table).find([key], names)[0]
        settles = json.dumps(resolves, separators=(",", ":"))
        self._found.append((log, key, before, settles, counts_from_us(base, resolves)))

    def note_first(self, table: SqliteTable, table_id: int, keys: Sequence[Row], resolves: Sequence[Version]) -> None:
        """Note rows that get their first version as they are. Raises ConfigError where they would not be sealed."""
        log = self._log_of(table, table_id)
        settles = json.dumps(resolves, separators=(",", ":"))
        self._first += [(log, key, settles) for key in keys]

    def _log_of(self, table: SqliteTable, table_id: int) -> TouchLog:
        shape = stored_shape(table.shape)
        log = next((one for one in self._logs if one.current and (one.table_id, one.shape) == (table_id, shape)), None)
        if log is None:
            name = table.shape.name
            raise ConfigError(f"{name} is not captured now: run `rowferry migrate`, or `rowferry resume {name}`")
        return log

    def touch(self) -> None:
        """Have them sealed. Only at the end: nobody must take them for unsealed before."""
        for log, key, before, resolves, from_us in self._found:
            kind = (CHOSEN_ABSENT if before is None else CHOSEN) + resolves
            places = log.key_places if before is None else tuple(range(len(before)))
            columns = ", ".join(f"c{place}" for place in places)
            values = ", ".join(placeholders(before or key))
            into = f"INSERT INTO main.{log_table(log.shape_id)} (kind, at, {columns})"
            self._connection.execute(
                f"{into} VALUES (?, max({NOW}, ?), {values})", (kind, julian(from_us), *(before or key))
            )
        for log, key, resolves in self._first:
            columns = ", ".join(f"c{place}" for place in log.key_places)
            into = f"INSERT INTO main.{log_table(log.shape_id)} (kind, at, {columns})"
            values = ", ".join(placeholders(key))
            # For everybody else the row was not there: the whole of it is new.
            self._connection.execute(f"{into} VALUES (?, {LONG_AGO}, {values})", (CHOSEN_ABSENT + resolves, *key))
