"""Unique values and references of rows, and the standing rows that have the same. See `common.ports.standing`.

Rows that are asked about come as JSON and are read as the table would hold them; a token is a hash of values as their
types and collations compare them, while standing rows are found by comparison, through the table's own indexes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from common.dialects.postgresql.errors import translated_for
from common.dialects.postgresql.naming import ident
from common.dialects.postgresql.queries import column, escaped, recordset, same_key, target_rows
from common.dialects.postgresql.rows import ColumnSet, Rows
from common.dialects.postgresql.shapes import image_expression, key_expression, relation
from common.dialects.postgresql.types import PgForeignKey, pg_column
from common.dialects.postgresql.unique_keys import UniqueIndex, generated_columns, hash_of, unique_indexes
from common.ports.dialect import ColumnShape, ForeignKey, TableShape
from common.ports.standing import Claim, Pointer, Proposal, RowFacts, pointed_columns, pointed_rule, unique_rule
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class _Known:
    """One table with what a dialect-independent shape leaves out."""

    shape: TableShape
    indexes: tuple[UniqueIndex, ...]
    generated: Mapping[str, str]
    references: tuple[ForeignKey, ...]
    """To tables that take part."""
    pointed: tuple[tuple[str, ...], ...]


class PostgresStandingLook:
    """Looks at rows on one applying connection."""

    def __init__(self, raw: Raw, tables: Mapping[str, TableShape]) -> None:
        self._raw = raw
        self._tables = tables
        self._known: dict[str, _Known] = {}

    def rules(self, table: TableShape) -> str:
        """Return the unique keys and references of a table as text."""
        known = self._of(table)
        return repr((known.indexes, known.generated, known.references, known.pointed))

    def examine(self, table: TableShape, meta: TableMeta, rows: Sequence[Proposal]) -> list[RowFacts]:
        """Return what these rows would be once written."""
        known, reader = self._of(table), Rows(table, meta)
        with translated_for(table, self._raw.info.user):
            stood = self._stood(reader, rows)
            found: dict[str, RowFacts] = {}
            images = [(one.image, one.stood or stood.get(one.key)) for one in rows]
            for columns, given in reader.by_columns(images).items():
                source = _whole_rows(known, reader, columns)
                found |= self._facts(known, source, {"images": given})
        return [found[one.key] for one in rows]

    def inspect(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> dict[str, RowFacts]:
        """Return those of these rows that stand."""
        if not pks:
            return {}
        reader = Rows(table, meta)
        source = (
            f"(SELECT t.* FROM {recordset(reader.key_readings(), 'pks')}"
            f" JOIN {target_rows(table)} t ON {same_key(table, 't', 'r')})"
        )
        with translated_for(table, self._raw.info.user):
            return self._facts(self._of(table), source, {"pks": reader.keys(pks)})

    def rivals(self, table: TableShape, facts: Sequence[RowFacts]) -> list[bytes]:
        """Return the keys of the standing rows that have a unique value of one of these."""
        known = self._of(table)
        if table.late_keys and facts:
            self._keep_writers_off(table)
        found: list[bytes] = []
        for index in known.indexes:
            rule = unique_rule(table.name, index.name)
            asked = [one for one in facts if any(claim.rule == rule for claim in one.claims)]
            if asked:
                found += self._keys(table, _rivals_sql(known, index, _source(known)), _images(table, asked))
        return list(dict.fromkeys(found))

    def parents(self, table: TableShape, facts: Sequence[RowFacts]) -> dict[str, list[bytes]]:
        """Return the keys of the standing rows that these rows point to."""
        known = self._of(table)
        asked = [one for one in facts if one.points]
        found: dict[str, list[bytes]] = {}
        for reference in known.references if asked else ():
            parent = self._tables[reference.parent]
            pairs = zip(reference.parent_columns, reference.columns, _equals(reference), strict=True)
            match = " AND ".join(f"p.{column(up)} {escaped(same)} r.{column(own)}" for up, own, same in pairs)
            query = (
                f"SELECT DISTINCT {_key(parent, 'p')} FROM {_source(known)} r JOIN {target_rows(parent)} p ON {match}"
            )
            found.setdefault(parent.name, []).extend(self._keys(table, query, _images(table, asked)))
        return found

    def children(self, table: TableShape, facts: Sequence[RowFacts]) -> dict[str, list[bytes]]:
        """Return the keys of the standing rows that point to values of these."""
        known = self._of(table)
        asked = [one for one in facts if one.pointed]
        found: dict[str, list[bytes]] = {}
        for child in self._tables.values() if asked else ():
            for reference in self._of(child).references:
                if reference.parent != table.name:
                    continue
                pairs = zip(reference.parent_columns, reference.columns, _equals(reference), strict=True)
                match = " AND ".join(f"r.{column(up)} {escaped(same)} c.{column(own)}" for up, own, same in pairs)
                rows = f"{_source(known)} r JOIN {target_rows(child)} c ON {match}"
                query = f"SELECT DISTINCT {_key(child, 'c')} FROM {rows}"
                found.setdefault(child.name, []).extend(self._keys(table, query, _images(table, asked)))
        return found

    def _keep_writers_off(self, table: TableShape) -> None:
        """Until the commit: a key that is checked late shows nobody what another one has written meanwhile."""
        with translated_for(table, self._raw.info.user):
            self._raw.execute(f"LOCK TABLE {relation(table)} IN SHARE ROW EXCLUSIVE MODE".encode())

    def _of(self, table: TableShape) -> _Known:
        if table.name not in self._known:
            with translated_for(table, self._raw.info.user):
                self._known[table.name] = _Known(
                    table,
                    tuple(unique_indexes(self._raw, table)),
                    generated_columns(self._raw, table),
                    tuple(one for one in table.foreign_keys if one.parent in self._tables),
                    tuple(pointed_columns(self._tables, table)),
                )
        return self._known[table.name]

    def _stood(self, reader: Rows, rows: Sequence[Proposal]) -> dict[str, bytes]:
        """Return the rows as they stand, where the sender does not name all their columns."""
        table = reader.table
        if not any(reader.leaves_out(one.image) for one in rows):
            return {}
        source = recordset(reader.key_readings(), "pks")
        query = (
            f"SELECT {_key(table, 't')}, convert_to({escaped(image_expression(table, 't'))}, 'UTF8')"
            f" FROM {source} JOIN {target_rows(table)} t ON {same_key(table, 't', 'r')}"
        )
        return dict(self._raw.execute(query.encode(), {"pks": reader.keys([one.pk for one in rows])}).fetchall())

    def _facts(self, known: _Known, source: str, given: Mapping[str, Any]) -> dict[str, RowFacts]:
        row = ident(known.shape.bare)
        terms = [key_expression(known.shape, row), image_expression(known.shape, row)]
        for index in known.indexes:
            terms.append(f"CASE WHEN {index.holds} THEN {hash_of([part.hashed for part in index.parts])} END")
        for reference in known.references:
            terms += _pointer_terms(self._tables[reference.parent], reference, row)
        columns = {one.name: one for one in known.shape.columns}
        for names in known.pointed:
            terms.append(_token([columns[name] for name in names], [f"{row}.{ident(name)}" for name in names]))
        query = f"SELECT {escaped(', '.join(terms))} FROM {source} AS {escaped(row)}"
        rows = self._raw.execute(query.encode(), given).fetchall()
        return {found[0]: _row_facts(known, iter(found)) for found in rows}

    def _keys(self, table: TableShape, query: str, images: str) -> list[bytes]:
        with translated_for(table, self._raw.info.user):
            return [key.encode() for (key,) in self._raw.execute(query.encode(), {"images": images})]


def _row_facts(known: _Known, values: Iterator[Any]) -> RowFacts:
    key, image = next(values), next(values)
    claims = [
        Claim(unique_rule(known.shape.name, index.name), text)
        for index in known.indexes
        if (text := next(values)) is not None
    ]
    points = []
    for reference in known.references:
        text, pk = next(values), next(values)
        if text is not None:
            claim = Claim(pointed_rule(reference.parent, reference.parent_columns), text)
            points.append(Pointer(reference.parent, claim, pk))
    pointed = [
        Claim(pointed_rule(known.shape.name, names), text)
        for names in known.pointed
        if (text := next(values)) is not None
    ]
    return RowFacts(key, key, image, tuple(claims), tuple(points), tuple(pointed))


def _pointer_terms(parent: TableShape, reference: ForeignKey, row: str) -> list[str]:
    """The token of a reference, as its parent has it, and the parent's key where that is what is referred to."""
    columns = {one.name: one for one in parent.columns}
    meant = [columns[name] for name in reference.parent_columns]
    values = [f"{row}.{ident(own)}::{pg_column(one).base}" for own, one in zip(reference.columns, meant, strict=True)]
    filled = " AND ".join(f"{row}.{ident(own)} IS NOT NULL" for own in reference.columns)
    key = "NULL"
    if set(reference.parent_columns) == set(parent.pk):
        named = ", ".join(
            f"{value} AS {ident(name)}" for value, name in zip(values, reference.parent_columns, strict=True)
        )
        key = f"CASE WHEN {filled} THEN (SELECT {key_expression(parent, 'p')} FROM (SELECT {named}) p) END"
    return [_token(meant, values), key]


def _token(columns: Sequence[ColumnShape], values: Sequence[str]) -> str:
    """The token of values in columns that references name; NULL where one is NULL."""
    parts = [
        f"({value})::text"
        if pg_column(one).kind in ("bit", "varbit", "money", "") and not pg_column(one).is_enum
        else f"({value})"
        for one, value in zip(columns, values, strict=True)
    ]
    filled = " AND ".join(f"({value}) IS NOT NULL" for value in values)
    return f"CASE WHEN {filled} THEN {hash_of(parts)} END"


def _whole_rows(known: _Known, reader: Rows, columns: ColumnSet) -> str:
    """A FROM item without its alias: the rows of `images` with every column that the table has."""
    there = set(columns.names)
    rest = [
        f"NULL::{escaped(one.declared)} AS {column(one.name)}"
        for one in known.shape.columns
        if one.name not in there and one.name not in known.generated
    ]
    rows = f"(SELECT {', '.join(['r.*', *rest])} FROM {recordset(reader.column_readings(columns), 'images')})"
    if not known.generated:
        return rows
    computed = ", ".join(f"{escaped(sql)} AS {column(name)}" for name, sql in known.generated.items())
    return f"(SELECT rf_all.*, {computed} FROM {rows} AS rf_all)"


def _source(known: _Known) -> str:
    """The same for rows in this database's own form, which name every column."""
    reader = Rows(known.shape, known.shape.meta)
    names = tuple(one.name for one in known.shape.columns if one.name not in known.generated)
    return _whole_rows(known, reader, ColumnSet(names))


def _images(table: TableShape, facts: Sequence[RowFacts]) -> str:
    """Return rows as one JSON array, as `_source` reads them."""
    (array,) = Rows(table, table.meta).by_columns([(one.image.encode(), None) for one in facts]).values()
    return array


def _rivals_sql(known: _Known, index: UniqueIndex, source: str) -> str:
    parts = ", ".join(f"({part.sql}) AS rf_p{place}" for place, part in enumerate(index.parts))
    asked = f"SELECT {escaped(parts)} FROM {source} AS {column(known.shape.bare)} WHERE {escaped(index.holds)}"
    terms = []
    for place, part in enumerate(index.parts):
        mine = f"({part.sql})" + (f" COLLATE {part.collation}" if part.collation else "")
        same = f"{mine} {part.equals} r.rf_p{place}"
        if index.nulls_are_equal:
            same = f"({same} OR ({part.sql}) IS NULL AND r.rf_p{place} IS NULL)"
        terms.append(same)
    if index.where:
        terms.append(f"({index.where})")
    # Inside the LATERAL the bare names of an index's expressions mean the table's own columns.
    table = f"{target_rows(known.shape)} AS t WHERE {escaped(' AND '.join(terms))}"
    found = f"SELECT {_key(known.shape, 't')} AS key FROM {table}"
    return f"SELECT DISTINCT k.key FROM ({asked}) r CROSS JOIN LATERAL ({found}) k"


def _key(table: TableShape, row: str) -> str:
    return escaped(key_expression(table, row))


def _equals(reference: ForeignKey) -> tuple[str, ...]:
    return reference.equals if isinstance(reference, PgForeignKey) else ("=",) * len(reference.columns)
