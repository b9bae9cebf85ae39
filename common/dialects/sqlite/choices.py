"""Rows that are sealed as this node's own writes, also where they stay as they are: choices between writes that met,
and first versions of rows from before the first sync."""

import json
import sqlite3
from collections.abc import Iterable, Sequence

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import TouchLog, stored_shape
from common.dialects.sqlite.touches import CHOSEN, CHOSEN_ABSENT, LONG_AGO, NOW, julian
from common.dialects.sqlite.values import Row, placeholders
from common.errors import ConfigError
from common.ports.rules import not_captured_refusal
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
            raise ConfigError(not_captured_refusal(table.shape.name))
        return log

    def touch(self) -> None:
        """Have them sealed. Only at the end: nobody must take them for unsealed before."""
        for log, key, before, resolves, from_us in self._found:
            if before is None:
                self._add(log, CHOSEN_ABSENT + resolves, log.key_places, key, f"max({NOW}, {julian(from_us)!r})")
            else:
                self._add(log, CHOSEN + resolves, range(len(before)), before, f"max({NOW}, {julian(from_us)!r})")
        for log, key, resolves in self._first:
            # For everybody else the row was not there: the whole of it is new.
            self._add(log, CHOSEN_ABSENT + resolves, log.key_places, key, LONG_AGO)

    def _add(self, log: TouchLog, kind: str, places: Iterable[int], row: Row, when: str) -> None:
        """Add an entry. `places`: of the values in `row` among the columns; `when`: an expression."""
        columns = ", ".join(f"c{place}" for place in places)
        values = ", ".join(placeholders(row))
        into = f"INSERT INTO main.{log_table(log.shape_id)} (kind, at, {columns})"
        self._connection.execute(f"{into} VALUES (?, {when}, {values})", (kind, *row))
