"""Declared foreign keys: the database does not check them while batches are applied, so Rowferry does."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg

from common.dialects.postgresql.naming import ident, qualified, relation_of, wire_name
from common.dialects.postgresql.newer import ENFORCED, OF_PERIODS
from common.dialects.postgresql.prepared import Answer, Prepared
from common.dialects.postgresql.queries import column, escaped, recordset, same_key, target_rows, text
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import key_expression, relation, rows_of
from common.dialects.postgresql.types import PgForeignKey, pg_column
from common.ports.dialect import BrokenReference, ForeignKey, TableShape

Raw = psycopg.Connection[tuple[Any, ...]]

_MOST = 5

_CHILDREN = f"""
SELECT f.conname, n.nspname, c.relname, current_schema(), c.relkind = 'p',
       array(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.n),
       array(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.n),
       array(SELECT CASE WHEN s.nspname = 'pg_catalog' THEN '='
                         ELSE format('OPERATOR(%%I.%%s)', s.nspname, o.oprname) END
             FROM unnest(f.conpfeqop) WITH ORDINALITY k(operator, n) JOIN pg_operator o ON o.oid = k.operator
             JOIN pg_namespace s ON s.oid = o.oprnamespace ORDER BY k.n)
FROM pg_constraint f JOIN pg_class c ON c.oid = f.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE f.contype = 'f' AND f.conparentid = 0 AND f.confrelid = %s::regclass AND {ENFORCED} AND NOT {OF_PERIODS}
ORDER BY f.conname
"""


@dataclass(frozen=True, slots=True)
class _Child:
    """A foreign key of another table that points here."""

    name: str
    relation: str
    """As a statement names it that means its rows."""
    wire: str
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]
    equals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A look for broken references that is under way."""

    table: str
    parent: str
    detail: str
    """What is wrong, up to the values where the answer has some."""
    found: Answer


def broken(checks: Iterable[Check]) -> list[BrokenReference]:
    """Return what the checks found, at most a few; not within a block of `together`."""
    found: list[BrokenReference] = []
    for check in checks:
        for key, *values in check.found:
            detail = check.detail + "".join(f"({value})" for value in values)
            found.append(BrokenReference(check.table, check.parent, key, detail))
    return found[:_MOST]


class References:
    """The checks of one applying transaction."""

    def __init__(self, prepared: Prepared) -> None:
        self._prepared = prepared
        self._asked: dict[str, Answer] = {}
        """By table: who points to it, where that was asked for."""
        self._children: dict[str, list[_Child]] = {}
        self._former: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        self._former_asked: list[tuple[tuple[str, tuple[str, ...]], Answer]] = []

    def ask(self, table: TableShape) -> None:
        """Ask who points to `table`, so that `before_write` need not. May be called within a block of `together`."""
        self._asked[table.name] = self._prepared.execute(_CHILDREN, (relation(table),))

    def is_pointed_to(self, table: TableShape) -> bool:
        """Tell whether a foreign key points to `table`. Not within a block of `together`."""
        return bool(self._children_of(table))

    def before_write(self, rows: Rows, pks: Sequence[bytes]) -> None:
        """Keep the values that others may point to and that are not the key: after the write they are gone. After
        `ask`, may be called within a block of `together`."""
        table = rows.table
        for columns in dict.fromkeys(child.parent_columns for child in self._children_of(table)):
            if set(columns) == set(table.pk):
                continue
            values = ", ".join(f"{text(name)}, t.{column(name)}::text" for name in columns)
            stood = f"{target_rows(table)} t ON {same_key(table, 't', 'r')}"
            query = (
                f"SELECT DISTINCT json_build_object({values})::text"
                f" FROM {recordset(rows.key_readings(), 'pks')} JOIN {stood}"
            )
            found = self._prepared.execute(query.encode(), {"pks": rows.keys(pks)})
            self._former_asked.append(((table.name, columns), found))

    def without_parent(self, rows: Rows, pks: Sequence[bytes]) -> list[Check]:
        """Look for those of these rows that point to nothing; lock what the others point to. May be called within a
        block of `together`."""
        checks: list[Check] = []
        if pks:
            keys = rows.keys(pks)
            for reference in rows.table.foreign_keys:
                (query,) = rows.once(("orphans", reference), partial(_orphans, rows, reference))
                found = self._prepared.execute(query, {"pks": keys})
                detail = f"foreign key {reference.name}: no row in {reference.parent}"
                detail += f" with ({', '.join(reference.parent_columns)}) = "
                checks.append(Check(rows.table.name, reference.parent, detail, found))
        return checks

    def left_behind(self, rows: Rows, deleted: Sequence[bytes]) -> list[Check]:
        """Look for rows of other tables that point to what is no longer there. Runs after the delete, on purpose:
        a child that committed while the delete waited for its lock is seen by this later statement alone. May be
        called within a block of `together`."""
        checks: list[Check] = []
        for key, asked in self._former_asked:
            self._former.setdefault(key, []).extend(value for (value,) in asked)
        self._former_asked.clear()
        for child in self._children_of(rows.table):
            if set(child.parent_columns) == set(rows.table.pk):
                if not deleted:
                    continue
                source, given = recordset(rows.key_readings(), "given"), rows.keys(deleted)
            else:
                former = self._former.get((rows.table.name, child.parent_columns), [])
                source, given = _former_source(rows.table, child.parent_columns), "[" + ",".join(former) + "]"
            found = self._prepared.execute(_children_left(rows.table, child, source).encode(), {"given": given})
            detail = f"foreign key {child.name} of {child.wire}: its parent was deleted or took another value"
            checks.append(Check(child.wire, rows.table.name, detail, found))
        return checks

    def _children_of(self, table: TableShape) -> list[_Child]:
        known = self._children.get(table.name)
        if known is None:
            if table.name not in self._asked:
                self.ask(table)
            found = self._asked.pop(table.name).fetchall()
            known = self._children[table.name] = list(map(_child, found))
        return known


def pointing_nowhere(raw: Raw, table: TableShape) -> list[tuple[str, str]]:
    """Return tables that declare references to `table`, each with the query that counts its rows without a parent."""
    children = map(_child, raw.execute(_CHILDREN.encode(), (relation(table),)).fetchall())
    return [(child.wire, _without_any(table, child)) for child in children]


def _child(row: tuple[Any, ...]) -> _Child:
    name, schema, bare, home, partitioned, own, parents, equals = row
    place = qualified(schema, bare) if partitioned else f"ONLY {qualified(schema, bare)}"
    return _Child(name, place, wire_name(schema, bare, home or ""), tuple(own), tuple(parents), tuple(equals))


def _without_any(table: TableShape, child: _Child) -> str:
    stands = " AND ".join(
        f"p.{ident(theirs)} {operator} c.{ident(own)}"
        for own, theirs, operator in zip(child.columns, child.parent_columns, child.equals, strict=True)
    )
    filled = " AND ".join(f"c.{ident(own)} IS NOT NULL" for own in child.columns)
    return (
        f"SELECT count(*) FROM {child.relation} c WHERE {filled}"
        f" AND NOT EXISTS (SELECT FROM {rows_of(table)} p WHERE {stands})"
    )


def _orphans(rows: Rows, reference: ForeignKey) -> list[str]:
    table = rows.table
    known = reference if isinstance(reference, PgForeignKey) else None
    equals = known.equals if known else ("=",) * len(reference.columns)
    parent = escaped(relation_of(reference.parent))
    if known and not known.parent_partitioned:
        parent = f"ONLY {parent}"
    matches = _same(reference.columns, reference.parent_columns, equals, "p", "c")
    filled = " AND ".join(f"c.{column(own)} IS NOT NULL" for own in reference.columns)
    key = escaped(key_expression(table, "c"))
    shown = ", ".join(f"c.{column(own)}::text" for own in reference.columns)
    return [
        f"SELECT {key}, concat_ws(', ', {shown}) FROM {recordset(rows.key_readings(), 'pks')}"
        f" JOIN {target_rows(table)} c ON {same_key(table, 'c', 'r')}"
        f" LEFT JOIN LATERAL (SELECT true AS stands FROM {parent} p"
        f" WHERE {matches} FOR KEY SHARE) p ON true"
        f" WHERE {filled} AND p.stands IS NULL LIMIT {_MOST}"
    ]


def _children_left(table: TableShape, child: _Child, source: str) -> str:
    points = _same(child.columns, child.parent_columns, child.equals, "r", "c")
    stands = _same(child.columns, child.parent_columns, child.equals, "p", "c")
    shown = ", ".join(f"{text(own)}, c.{column(own)}" for own in child.columns)
    return (
        f"SELECT json_build_object({shown})::text FROM {source} JOIN {escaped(child.relation)} c ON {points}"
        f" WHERE NOT EXISTS (SELECT FROM {target_rows(table)} p WHERE {stands}) LIMIT {_MOST}"
    )


def _same(columns: Sequence[str], parent_columns: Sequence[str], equals: Sequence[str], parent: str, child: str) -> str:
    return " AND ".join(
        f"{parent}.{column(theirs)} {escaped(operator)} {child}.{column(own)}"
        for own, theirs, operator in zip(columns, parent_columns, equals, strict=True)
    )


def _former_source(table: TableShape, columns: Sequence[str]) -> str:
    by_name = {one.name: pg_column(one) for one in table.columns}
    texts = ", ".join(f"{column(name)} text" for name in columns)
    values = ", ".join(f"f.{column(name)}::{by_name[name].base} AS {column(name)}" for name in columns)
    return f"(SELECT {values} FROM json_to_recordset(%(given)s::json) AS f({texts})) AS r"
