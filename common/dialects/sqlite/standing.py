"""Unique values and references of rows, and the standing rows that have the same. See `common.ports.standing`.

What a row would be once written SQLite alone knows: affinities, generated columns, expressions. So a row that is asked
about is written, read and taken back, with whatever stood in its way."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from common.dialects.sqlite.catalog import Schema, SqliteTable
from common.dialects.sqlite.decoding import ImageDecoder, spell_decimals_as_in_the_key
from common.dialects.sqlite.errors import translating
from common.dialects.sqlite.indexes import IndexPart, UniqueIndex
from common.dialects.sqlite.names import fold, quote
from common.dialects.sqlite.rows import TableRows, naming_the_table
from common.dialects.sqlite.shapes import ImageEncoder, stored_shape
from common.dialects.sqlite.tokens import token, under, values_of
from common.dialects.sqlite.types import Affinity
from common.dialects.sqlite.values import Row, Value, key_text, placeholders
from common.ports.dialect import ForeignKey, TableShape
from common.ports.standing import Claim, Pointer, Proposal, RowFacts, pointed_columns, pointed_rule, unique_rule
from common.wire.records import TableMeta


@dataclass(frozen=True, slots=True)
class _Parent:
    """One reference as its child needs it, or the columns that references name, as the parent does."""

    rule: str
    table: SqliteTable
    columns: tuple[str, ...]
    affinities: tuple[Affinity, ...]
    collations: tuple[str, ...]


class _Reader:
    """Reads the facts of one table's rows."""

    def __init__(self, raw: sqlite3.Connection, table: SqliteTable, look: "SqliteStandingLook") -> None:
        self._rows = TableRows(raw, table)
        self._table = table
        self._encoder = ImageEncoder(stored_shape(table.shape))
        self._written = [column.name for column in table.shape.written]
        self._indexes = table.rivalries
        self._references = look.references_of(table)
        self._pointed = look.pointed_of(table)
        self._terms = [quote(name) for name in self._written]
        for index in self._indexes:
            self._terms.append(f"({index.where})" if index.where else "1")
            self._terms += [part.sql for part in index.parts]
        for foreign, _ in self._references:
            self._terms += [quote(name) for name in foreign.columns]
        for parent in self._pointed:
            self._terms += [quote(name) for name in parent.columns]

    def read(self, keys: Sequence[Row]) -> list[RowFacts | None]:
        """Return the facts of the rows that stand."""
        found = self._rows.select(keys, self._terms)
        return [None if row is None else self._facts(key, row) for key, row in zip(keys, found, strict=True)]

    def _facts(self, key: Row, row: Row) -> RowFacts:
        width = len(self._written)
        values = iter(row[width:])
        claims = tuple(self._claims(values))
        points = tuple(self._points(values))
        pointed = tuple(
            Claim(parent.rule, text)
            for parent in self._pointed
            if (text := token([next(values) for _ in parent.columns], parent.collations)) is not None
        )
        pk, image = self._encoder.pk(key).decode(), self._encoder.image(row[:width]).decode()
        return RowFacts(key_text(key), pk, image, claims, points, pointed)

    def _claims(self, values: Iterator[Value]) -> Iterator[Claim]:
        for index in self._indexes:
            holds = next(values)
            text = token([next(values) for _ in index.parts], [part.collation for part in index.parts])
            if holds and text is not None:
                yield Claim(unique_rule(self._table.shape.name, index.name), text)

    def _points(self, values: Iterator[Value]) -> Iterator[Pointer]:
        for foreign, parent in self._references:
            own = [next(values) for _ in foreign.columns]
            seen = [under(affinity, value) for affinity, value in zip(parent.affinities, own, strict=True)]
            text = token(seen, parent.collations)
            if text is None:
                continue
            pk = None
            if {fold(name) for name in parent.columns} == {fold(name) for name in parent.table.shape.pk}:
                by_name = {fold(name): value for name, value in zip(parent.columns, seen, strict=True)}
                key = tuple([by_name[fold(name)] for name in parent.table.shape.pk])
                pk = ImageEncoder(stored_shape(parent.table.shape)).pk(key).decode()
            yield Pointer(foreign.parent, Claim(parent.rule, text), pk)


class SqliteStandingLook:
    """Looks at rows on one applying connection."""

    def __init__(self, raw: sqlite3.Connection, schema: Schema, tables: Mapping[str, TableShape]) -> None:
        self._raw = raw
        self._tables = {name: schema.tables[name] for name in tables if name in schema.tables}
        self._shapes = {name: table.shape for name, table in self._tables.items()}
        self._readers: dict[str, _Reader] = {}

    def rules(self, table: TableShape) -> str:
        """Return the unique keys and references of a table as text."""
        known = self._tables[table.name]
        return repr((known.rivalries, self.references_of(known), self.pointed_of(known)))

    def examine(self, table: TableShape, meta: TableMeta, rows: Sequence[Proposal]) -> list[RowFacts]:
        """Return what these rows would be once written."""
        known = self._tables[table.name]
        decoder, own = ImageDecoder(known, meta), ImageDecoder(known, known.shape.meta)
        kept = [column.name for column in known.shape.written if not column.generated]
        facts: list[RowFacts] = []
        with translating(), naming_the_table(known), self._taken_back():
            target = TableRows(self._raw, known)
            keys = [decoder.key(one.pk) for one in rows]
            wanted: list[tuple[Row, dict[str, Value] | None]] = [
                (key, decoder.image(one.image)) for key, one in zip(keys, rows, strict=True)
            ]
            spell_decimals_as_in_the_key(meta, table.pk, wanted)
            standing = target.find(keys, kept)
            for one, (key, image), row in zip(rows, wanted, standing, strict=True):
                old = dict(zip(kept, row, strict=True)) if row else own.image(one.stood) if one.stood else {}
                values = {**old, **dict(zip(known.shape.pk, key, strict=True)), **(image or {})}
                generated = {column.name for column in known.shape.columns if column.generated}
                values = {name: value for name, value in values.items() if name not in generated}
                target.insert(tuple(values), [tuple(values.values())], displacing=True)
                (found,) = self._reader(known).read([key])
                if found is None:
                    raise LookupError(f"a row of {table.name} that was just written is not there")
                facts.append(found)
        return facts

    def inspect(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> dict[str, RowFacts]:
        """Return those of these rows that stand."""
        known = self._tables[table.name]
        decoder = ImageDecoder(known, meta)
        with translating():
            found = self._reader(known).read([decoder.key(pk) for pk in pks])
        return {facts.key: facts for facts in found if facts is not None}

    def rivals(self, table: TableShape, facts: Sequence[RowFacts]) -> list[bytes]:
        """Return the keys of the standing rows that have a unique value of one of these."""
        known = self._tables[table.name]
        indexes = {unique_rule(table.name, index.name): index for index in known.rivalries}
        asked = dict.fromkeys(claim for one in facts for claim in one.claims)
        with translating():
            probes = [(indexes[one.rule], values_of(one.token)) for one in asked]
            return self._found(known, [(_has_values(index, values), values) for index, values in probes])

    def parents(self, table: TableShape, facts: Sequence[RowFacts]) -> dict[str, list[bytes]]:
        """Return the keys of the standing rows that these rows point to."""
        by_rule = {parent.rule: parent for _, parent in self.references_of(self._tables[table.name])}
        found: dict[str, list[bytes]] = {}
        with translating():
            for claim in dict.fromkeys(pointer.claim for one in facts for pointer in one.points):
                parent = by_rule[claim.rule]
                values = values_of(claim.token)
                where = _all([quote(name) for name in parent.columns], values)
                found.setdefault(parent.table.shape.name, []).extend(self._found(parent.table, [(where, values)]))
        return found

    def children(self, table: TableShape, facts: Sequence[RowFacts]) -> dict[str, list[bytes]]:
        """Return the keys of the standing rows that point to values of these."""
        found: dict[str, list[bytes]] = {}
        asked = list(dict.fromkeys(claim for one in facts for claim in one.pointed))
        with translating():
            for child in self._tables.values() if asked else ():
                for foreign, parent in self.references_of(child):
                    if parent.table.shape.name != table.name:
                        continue
                    for claim in asked:
                        if claim.rule == parent.rule:
                            found.setdefault(child.shape.name, []).extend(self._pointing(child, foreign, parent, claim))
        return found

    def references_of(self, table: SqliteTable) -> list[tuple[ForeignKey, _Parent]]:
        """Return the references of a table to tables that take part."""
        found = []
        for foreign in table.shape.foreign_keys:
            parent = self._tables.get(foreign.parent)
            if parent is not None and len(foreign.columns) == len(foreign.parent_columns):
                sides = self._parent(parent, foreign.parent_columns)
                found += [(foreign, sides)] if sides else []
        return found

    def pointed_of(self, table: SqliteTable) -> list[_Parent]:
        """Return the lists of a table's columns that references of others name."""
        sides = [self._parent(table, columns) for columns in pointed_columns(self._shapes, table.shape)]
        return [one for one in sides if one is not None]

    def _parent(self, table: SqliteTable, columns: tuple[str, ...]) -> _Parent | None:
        by_name = {fold(name): column for name, column in table.columns.items()}
        if any(fold(name) not in by_name for name in columns):
            return None
        affinities = tuple(by_name[fold(name)].affinity for name in columns)
        rule = pointed_rule(table.shape.name, columns)
        return _Parent(rule, table, columns, affinities, _collations(table, columns))

    def _reader(self, table: SqliteTable) -> _Reader:
        name = table.shape.name
        if name not in self._readers:
            self._readers[name] = _Reader(self._raw, table, self)
        return self._readers[name]

    def _found(self, table: SqliteTable, asked: Sequence[tuple[str, Row]]) -> list[bytes]:
        """Return the keys of the rows for which one of these conditions holds, each with its values."""
        names = ", ".join(quote(name) for name in table.shape.pk)
        encoder = ImageEncoder(stored_shape(table.shape))
        found: list[bytes] = []
        for condition, values in asked:
            query = f"SELECT {names} FROM main.{quote(table.shape.bare)} WHERE {condition}"
            found += [encoder.pk(key) for key in self._raw.execute(query, values) if None not in key]
        return found

    def _pointing(self, child: SqliteTable, foreign: ForeignKey, parent: _Parent, claim: Claim) -> list[bytes]:
        """The values stand in a row of the parent's own columns, so that they compare as the parent's do."""
        values = values_of(claim.token)
        names = ", ".join(f"child.{quote(name)}" for name in child.shape.pk)
        own = ", ".join(f"{quote(name)} AS k{place}" for place, name in enumerate(parent.columns))
        marks = ", ".join(placeholders(values))
        points = " AND ".join(f"asked.k{place} = child.{quote(name)}" for place, name in enumerate(foreign.columns))
        query = (
            f"SELECT {names} FROM (SELECT {own} FROM main.{quote(parent.table.shape.bare)} WHERE 0"
            f" UNION ALL SELECT {marks}) AS asked CROSS JOIN main.{quote(child.shape.bare)} AS child WHERE {points}"
        )
        encoder = ImageEncoder(stored_shape(child.shape))
        return [encoder.pk(key) for key in self._raw.execute(query, values) if None not in key]

    @contextmanager
    def _taken_back(self) -> Iterator[None]:
        self._raw.execute("SAVEPOINT rf_examine")
        try:
            yield
        finally:
            # A full disk ends the whole transaction by itself.
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK TO rf_examine")
                self._raw.execute("RELEASE rf_examine")


def _has_values(index: UniqueIndex, values: Row) -> str:
    same = _all([_term(part) for part in index.parts], values)
    return f"{same} AND ({index.where})" if index.where else same


def _term(part: IndexPart) -> str:
    plain = part.column is None and part.collation.upper() == "BINARY"
    return part.sql if plain else f"{part.sql} COLLATE {quote(part.collation)}"


def _all(terms: Sequence[str], values: Row) -> str:
    return " AND ".join(f"{term} = {mark}" for term, mark in zip(terms, placeholders(values), strict=True))


def _collations(table: SqliteTable, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Return the collations of columns that references name; a unique key stands on them."""
    wanted = {fold(name) for name in columns}
    found = dict(zip(map(fold, table.shape.pk), table.key_collations, strict=True))
    for index in table.unique:
        if index.columns is not None and {fold(name) for name in index.columns} == wanted:
            found.update({fold(part.column): part.collation for part in index.parts if part.column is not None})
    return tuple(found.get(fold(name), "BINARY") for name in columns)
