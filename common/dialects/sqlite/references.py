"""Declared foreign keys, checked before the commit: the applying connection has SQLite's own checks off, because
cascades would then act unlogged."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from common.dialects.sqlite.catalog import Reference, Schema, SqliteTable
from common.dialects.sqlite.names import fold, quote, wire_name
from common.dialects.sqlite.values import Row, key_text, placeholders
from common.ports.dialect import BrokenReference, ForeignKey


@dataclass(frozen=True, slots=True)
class GoneKey:
    """Values that rows may point to and that a write has taken away."""

    key: str
    """Canonical key of the row that had them."""
    reference: Reference
    values: Row


class ReferenceCheck:
    """Looks for rows that point to nothing, on one connection."""

    def __init__(self, connection: sqlite3.Connection, schema: Schema) -> None:
        self._connection = connection
        self._schema = schema

    def references_to(self, table: SqliteTable) -> tuple[Reference, ...]:
        """Return who points to `table`."""
        return self._schema.references.get(fold(table.shape.bare), ())

    def orphans(self, table: SqliteTable, keys: Iterable[Row]) -> Iterator[BrokenReference]:
        """Yield references of written rows, by key, to parents that are not there."""
        checks = [(key, self._missing_parent(table, key)) for key in table.shape.foreign_keys]
        if not checks:
            return
        where = [quote(name) for name in table.shape.pk]
        for key in keys:
            match = " AND ".join(f"child.{name} = {mark}" for name, mark in zip(where, placeholders(key), strict=True))
            for foreign, missing in checks:
                found = self._connection.execute(f"{missing} AND {match}", key).fetchone()
                if found is not None:
                    detail = f"({', '.join(foreign.columns)}) = {key_text(found)}"
                    yield BrokenReference(table.shape.name, foreign.parent, key_text(key), detail)

    def _missing_parent(self, table: SqliteTable, foreign: ForeignKey) -> str:
        """A unary plus takes the child's affinity away: SQLite compares under the parent's."""
        columns = [f"child.{quote(name)}" for name in foreign.columns]
        given = " AND ".join(f"{column} IS NOT NULL" for column in columns)
        query = f"SELECT {', '.join(columns)} FROM main.{quote(table.shape.bare)} AS child WHERE {given}"
        parent = self._bare(foreign.parent)
        if parent is None or len(foreign.parent_columns) != len(columns):
            return query
        match = " AND ".join(
            f"parent.{quote(name)} = +{column}" for name, column in zip(foreign.parent_columns, columns, strict=True)
        )
        return f"{query} AND NOT EXISTS (SELECT 1 FROM main.{quote(parent)} AS parent WHERE {match})"

    def _bare(self, wire_name: str) -> str | None:
        if wire_name in self._schema.tables:
            return self._schema.tables[wire_name].shape.bare
        return wire_name.replace("..", ".") if wire_name in self._schema.catalog.keyless else None

    def abandoned(self, table: SqliteTable, gone: Sequence[GoneKey]) -> Iterator[BrokenReference]:
        """Yield rows that still point to what was taken away and has not come back."""
        for one in gone:
            if None in one.values:
                continue
            reference = one.reference
            found = self._connection.execute(_left_behind(table, one), (*one.values, *one.values)).fetchone()
            if found is not None:
                detail = f"({', '.join(reference.columns)}) = {key_text(one.values)}"
                yield BrokenReference(wire_name(reference.child), table.shape.name, key_text(found), detail)


def _left_behind(table: SqliteTable, gone: GoneKey) -> str:
    """The gone values stand in a row of the parent's own columns, so that they compare under its collations."""
    reference, marks = gone.reference, placeholders(gone.values)
    parent = f"main.{quote(table.shape.bare)}"
    children = ", ".join(f"child.{quote(name)}" for name in reference.child_pk) or "1"
    own = ", ".join(f"{quote(name)} AS k{place}" for place, name in enumerate(reference.parent_columns))
    points = " AND ".join(f"gone.k{place} = child.{quote(name)}" for place, name in enumerate(reference.columns))
    return (
        f"SELECT {children} FROM (SELECT {own} FROM {parent} WHERE 0 UNION ALL SELECT {', '.join(marks)}) AS gone"
        f" CROSS JOIN main.{quote(reference.child)} AS child WHERE {points}"
        f" AND NOT EXISTS (SELECT 1 FROM {parent} WHERE {_all(reference.parent_columns, marks)}) LIMIT 1"
    )


def _all(columns: Sequence[str], marks: Sequence[str]) -> str:
    return " AND ".join(f"{quote(name)} = {mark}" for name, mark in zip(columns, marks, strict=True))
