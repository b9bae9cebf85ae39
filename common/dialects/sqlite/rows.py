"""Rows of one table by key: the plain statements that reading and writing them takes."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, repeat

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.errors import translate_driver
from common.dialects.sqlite.names import quote
from common.dialects.sqlite.values import RawText, Row, Value, key_text, placeholders
from common.errors import NoValueError, PoisonError


class TableRows:
    """Statements on one table. A row counts as found only when its key is the same by bytes and class.

    `OR ABORT` takes the place of what the table says itself: with `ON CONFLICT REPLACE` or `IGNORE` in its definition
    rivals would be deleted, or rows left out, and nobody told."""

    def __init__(self, connection: sqlite3.Connection, table: SqliteTable) -> None:
        self._connection = connection
        self._table = table
        self._name = f"main.{quote(table.shape.bare)}"
        self._key = table.shape.pk

    def find(self, keys: Sequence[Row], columns: Sequence[str]) -> list[Row | None]:
        """Return those columns of the rows with these keys, None where there is none."""
        return self.select(keys, [quote(name) for name in columns])

    def select(self, keys: Sequence[Row], terms: Sequence[str]) -> list[Row | None]:
        """Return those SQL expressions over the rows with these keys, None where there is none."""
        checked = () if self._table.key_is_exact else self._key
        wanted = ", ".join((*map(quote, checked), *terms)) or "NULL"
        asking = f"SELECT {wanted} FROM {self._name} WHERE "
        execute = self._connection.execute
        found: list[Row | None] = [None] * len(keys)
        for place, (marks, key) in enumerate(zip(self._matches(keys), keys, strict=True)):
            row: Row | None = execute(asking + marks, key).fetchone()
            if row is not None and not (checked and key_text(row[: len(key)]) != key_text(key)):
                found[place] = row[len(checked) :][: len(terms)]
        return found

    def delete(self, keys: Sequence[Row]) -> None:
        """Delete rows that were found."""
        for marks, some in _alike(keys):
            self._connection.executemany(f"DELETE FROM {self._name} WHERE {self._match(marks)}", some)

    def insert(self, columns: Sequence[str], rows: Sequence[Row], *, displacing: bool = False) -> None:
        """Insert rows that were not found. A rival in a unique key is an error, never overwritten.

        `displacing`: whatever stands in the way goes; for trials that are taken back."""
        names = ", ".join(quote(name) for name in columns)
        verb = "REPLACE" if displacing else "ABORT"
        for marks, some in _alike(rows):
            values = ", ".join(placeholders(marks))
            self._connection.executemany(f"INSERT OR {verb} INTO {self._name} ({names}) VALUES ({values})", some)

    def update(self, columns: Sequence[str], rows: Iterable[tuple[Row, Row]]) -> None:
        """Set columns of rows that were found: values and key of each."""
        width = len(columns)
        if not width:
            return
        for marks, some in _alike([values + key for values, key in rows]):
            assigned = ", ".join(
                f"{quote(name)} = {mark}" for name, mark in zip(columns, placeholders(marks[:width]), strict=True)
            )
            where = self._match(marks[width:])
            self._connection.executemany(f"UPDATE OR ABORT {self._name} SET {assigned} WHERE {where}", some)

    def _matches(self, keys: Sequence[Row]) -> Iterable[str]:
        if keys and not _has_raw_text(keys):
            return repeat(self._match(keys[0]), len(keys))
        return map(self._match, keys)

    def _match(self, key: Row) -> str:
        return " AND ".join(f"{quote(name)} = {mark}" for name, mark in zip(self._key, placeholders(key), strict=True))


def _alike(rows: Sequence[Row]) -> Iterable[tuple[Row, Sequence[Row]]]:
    """Group rows that take the same placeholders; the first of each group stands for it."""
    if not rows:
        return []
    if not _has_raw_text(rows):
        return [(rows[0], rows)]
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        shape = tuple([place for place, value in enumerate(row) if value.__class__ is RawText])
        groups.setdefault(shape, []).append(row)
    return [(some[0], some) for some in groups.values()]


def _has_raw_text(rows: Iterable[Row]) -> bool:
    return RawText in set(map(type, chain.from_iterable(rows)))


def by_columns(images: Iterable[tuple[Row, Mapping[str, Value]]]) -> dict[tuple[str, ...], list[tuple[Row, Row]]]:
    """Group images by the columns they name: columns → key and values of each."""
    groups: dict[tuple[str, ...], list[tuple[Row, Row]]] = {}
    for key, image in images:
        groups.setdefault(tuple(image), []).append((key, tuple(image.values())))
    return groups


@contextmanager
def naming_the_table(table: SqliteTable) -> Iterator[None]:
    """Let what the table refuses out with its name. SQLite names table and column in one, with a dot between them,
    which may stand in either name, or names neither."""
    try:
        yield
    except sqlite3.Error as error:
        known = translate_driver(error)
        if not isinstance(known, PoisonError):
            raise
        name = table.shape.name
        if not isinstance(known, NoValueError) or known.column is None:
            raise PoisonError(known.reason, str(known), table=name) from error
        column = known.column.removeprefix(f"{table.shape.bare}.")
        raise NoValueError(str(error), table=name, column=column) from error
