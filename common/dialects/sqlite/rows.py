"""Rows of one table by key: the plain statements that reading and writing them takes."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.names import quote
from common.dialects.sqlite.values import RawText, Row, Value, key_text, placeholders


class TableRows:
    """Statements on one table. A row counts as found only when its key is the same by bytes and class."""

    def __init__(self, connection: sqlite3.Connection, table: SqliteTable) -> None:
        self._connection = connection
        self._table = table
        self._name = f"main.{quote(table.shape.bare)}"
        self._key = table.shape.pk

    def find(self, key: Row, columns: Sequence[str]) -> Row | None:
        """Return those columns of the row with this key, None where there is none."""
        wanted = ", ".join(quote(name) for name in (*self._key, *columns))
        query = f"SELECT {wanted} FROM {self._name} WHERE {self._match(key)}"
        row: Row | None = self._connection.execute(query, key).fetchone()
        width = len(self._key)
        if row is None or key_text(row[:width]) != key_text(key):
            return None
        return row[width:]

    def delete(self, keys: Iterable[Row]) -> None:
        """Delete rows that were found."""
        for marks, some in _alike(keys):
            self._connection.executemany(f"DELETE FROM {self._name} WHERE {self._match(marks)}", some)

    def insert(self, columns: Sequence[str], rows: Iterable[Row]) -> None:
        """Insert rows that were not found. A rival in a unique key is an error, never overwritten."""
        names = ", ".join(quote(name) for name in columns)
        for marks, some in _alike(rows):
            values = ", ".join(placeholders(marks))
            self._connection.executemany(f"INSERT INTO {self._name} ({names}) VALUES ({values})", some)

    def update(self, columns: Sequence[str], rows: Iterable[tuple[Row, Row]]) -> None:
        """Set columns of rows that were found: values and key of each."""
        width = len(columns)
        if not width:
            return
        for marks, some in _alike(values + key for values, key in rows):
            assigned = ", ".join(
                f"{quote(name)} = {mark}" for name, mark in zip(columns, placeholders(marks[:width]), strict=True)
            )
            where = self._match(marks[width:])
            self._connection.executemany(f"UPDATE {self._name} SET {assigned} WHERE {where}", some)

    def _match(self, key: Row) -> str:
        return " AND ".join(f"{quote(name)} = {mark}" for name, mark in zip(self._key, placeholders(key), strict=True))


def _alike(rows: Iterable[Row]) -> Iterable[tuple[Row, list[Row]]]:
    """Group rows that take the same placeholders; the first of each group stands for it."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        shape = tuple([place for place, value in enumerate(row) if value.__class__ is RawText])
        groups.setdefault(shape, []).append(row)
    return [(some[0], some) for some in groups.values()]


def by_columns(images: Iterable[tuple[Row, Mapping[str, Value]]]) -> dict[tuple[str, ...], list[tuple[Row, Row]]]:
    """Group images by the columns they name: columns → key and values of each."""
    groups: dict[tuple[str, ...], list[tuple[Row, Row]]] = {}
    for key, image in images:
        groups.setdefault(tuple(image), []).append((key, tuple(image.values())))
    return groups
