"""What tables there are, read from SQLite's own catalog; remembered until the schema changes."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from common.dialects.sqlite.indexes import TOKEN, UniqueIndex, unique_indexes
from common.dialects.sqlite.names import fold, quote, same_name, wire_name
from common.dialects.sqlite.shapes import LOG_COLUMNS, TouchLog, touch_logs
from common.dialects.sqlite.types import Affinity, affinity_of, logical_type
from common.ports.dialect import Catalog, ColumnShape, ForeignKey, TableShape

_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_COLLATIONS = ("BINARY", "NOCASE", "RTRIM")
"""SQLite's own. Under any other no row can be found by its key, except by the application that made it."""
_NO_STRIDE = (
    "SQLite gives its keys without AUTOINCREMENT, so where it goes on can't be set: make it anew with INTEGER PRIMARY "
    'KEY AUTOINCREMENT (rowferry pause, rebuild, rowferry resume), or set "shared" or "main-only"'
)
_HIDDEN, _VIRTUAL, _STORED = 1, 2, 3


@dataclass(frozen=True, slots=True)
class SqliteColumn:
    """A column with what the port's words leave out."""

    shape: ColumnShape
    affinity: Affinity
    default: str | None
    """SQL of its default where it is NOT NULL: `REPLACE` puts it in the place of a NULL."""


@dataclass(frozen=True, slots=True)
class SqliteTable:
    """A table with a primary key, with what triggers and writes have to know."""

    shape: TableShape
    columns: Mapping[str, SqliteColumn]
    without_rowid: bool
    rowid_alias: str | None
    """The INTEGER PRIMARY KEY, if it is one."""
    rowid: str | None
    """A name of the rowid that no column hides; None without rowid, or where the alias is it."""
    unique: tuple[UniqueIndex, ...]
    key_collations: tuple[str, ...]
    autoincrement: bool = False
    """SQLite never gives a key again: where it goes on is in `sqlite_sequence`."""

    @property
    def key_is_exact(self) -> bool:
        """Whether SQLite takes two keys for one only if bytes and class are one: no NOCASE, no 1 beside 1.0."""
        exact = all(self.columns[name].affinity is not Affinity.NONE for name in self.shape.pk)
        return exact and all(collation == "BINARY" for collation in self.key_collations)

    @property
    def rivalries(self) -> tuple[UniqueIndex, ...]:
        """The unique keys in which two rows can clash: the primary key too, where two names are one for SQLite."""
        return tuple(index for index in self.unique if not (index.is_key and self.key_is_exact))

    @property
    def key_may_be_null(self) -> bool:
        """SQLite allows NULL in a primary key that is neither the rowid nor declared NOT NULL."""
        if self.without_rowid or self.rowid_alias:
            return False
        return any(self.columns[name].shape.nullable for name in self.shape.pk)


@dataclass(frozen=True, slots=True)
class Reference:
    """A foreign key seen from its parent; tables that are not captured count too."""

    child: str
    child_pk: tuple[str, ...]
    columns: tuple[str, ...]
    parent_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """Everything at one value of `PRAGMA schema_version`."""

    tables: Mapping[str, SqliteTable]
    """By wire name."""
    catalog: Catalog
    references: Mapping[str, tuple[Reference, ...]]
    """By the parent's bare name, folded."""


class SchemaCache:
    """Reads the schema, and the touch logs, again only when the schema has changed.

    Not for use after DDL in the same transaction: were that rolled back, its schema version would come again."""

    def __init__(self) -> None:
        self._known: tuple[int, Schema] | None = None
        self._logs: tuple[int, list[TouchLog]] | None = None

    def read(self, connection: sqlite3.Connection) -> Schema:
        """Return the schema as `connection` sees it."""
        version = _schema_version(connection)
        known = self._known
        if known is None or known[0] != version:
            known = self._known = (version, read_schema(connection))
        return known[1]

    def touch_logs(self, connection: sqlite3.Connection) -> list[TouchLog]:
        """Return every touch log that stands, older shapes first: they come and go by DDL."""
        version = _schema_version(connection)
        known = self._logs
        if known is None or known[0] != version:
            known = self._logs = (version, touch_logs(connection))
        return known[1]


def _schema_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA main.schema_version").fetchone()[0])


def read_schema(connection: sqlite3.Connection) -> Schema:
    """Look at every table but `rf_*` and SQLite's own."""
    tables: dict[str, SqliteTable] = {}
    keyless: list[str] = []
    left_out: dict[str, str] = {}
    references: dict[str, list[Reference]] = {}
    written = _as_written(connection)
    most_columns = connection.getlimit(sqlite3.SQLITE_LIMIT_COLUMN) - len(LOG_COLUMNS)
    for schema, bare, kind, _, without_rowid, strict in _table_list(connection):
        name = wire_name(bare)
        why = _why_left_out(schema, kind)
        if why is not None:
            left_out.setdefault(name, why)
            continue
        table = _read_table(
            connection, bare, written.get(bare, ""), without_rowid=bool(without_rowid), strict=bool(strict)
        )
        for foreign in _foreign_keys(connection, bare):
            child_pk = table.shape.pk if table else ()
            reference = Reference(bare, child_pk, foreign.columns, foreign.parent_columns)
            references.setdefault(fold(foreign.parent), []).append(reference)
        if table is None:
            keyless.append(name)
        elif strange := [one for one in table.key_collations if one not in _COLLATIONS]:
            left_out[name] = f"table whose key has the collation {strange[0]}, which only its application knows"
        elif len(table.columns) > most_columns:
            left_out[name] = f"table of more than {most_columns} columns, more than its touch log can have"
        else:
            tables[name] = table
    shapes = {name: table.shape for name, table in tables.items()}
    catalog = Catalog(shapes, tuple(sorted(keyless)), left_out)
    return Schema(tables, catalog, {parent: tuple(found) for parent, found in references.items()})


def _table_list(connection: sqlite3.Connection) -> list[tuple[str, str, str, int, int, int]]:
    rows: list[tuple[str, str, str, int, int, int]] = connection.execute("PRAGMA table_list").fetchall()
    ours = [row for row in rows if row[0] in ("main", "temp") and not fold(row[1]).startswith(("sqlite_", "rf_"))]
    return sorted(ours, key=lambda row: (row[0], row[1]))


def _why_left_out(schema: str, kind: str) -> str | None:
    if schema == "temp":
        return "temporary table"
    return {"view": "view", "virtual": "virtual table", "shadow": "shadow table of a virtual table"}.get(kind)


def _as_written(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the statement that made each table. SQLite keeps no index of them: all at once, not one by one."""
    rows = connection.execute("SELECT name, sql FROM main.sqlite_master WHERE type = 'table'").fetchall()
    return {name: sql or "" for name, sql in rows}


def _read_table(
    connection: sqlite3.Connection, bare: str, written: str, *, without_rowid: bool, strict: bool
) -> SqliteTable | None:
    columns: dict[str, SqliteColumn] = {}
    key: dict[int, str] = {}
    for _, name, declared, notnull, default, pk, hidden in _table_xinfo(connection, bare):
        column = ColumnShape(
            name, logical_type(declared, strict=strict), declared, not notnull, hidden in (_VIRTUAL, _STORED)
        )
        kept = default if notnull else None
        columns[name] = SqliteColumn(column, affinity_of(declared, strict=strict), kept)
        if pk:
            key[pk] = name
    if not key:
        return None
    pk_names = tuple(key[place] for place in sorted(key))
    unique = tuple(unique_indexes(connection, bare))
    # SQLite takes no column for one of that name, unless it is quoted.
    autoincrement = any(token.upper() == "AUTOINCREMENT" for token in TOKEN.findall(written))
    alias = _rowid_alias(pk_names, columns, unique, without_rowid=without_rowid)
    shape = TableShape(
        wire_name(bare),
        None,
        bare,
        tuple(column.shape for column in columns.values()),
        pk_names,
        tuple(_foreign_keys(connection, bare)),
        tuple(index.columns for index in unique if index.columns and not index.is_key),
        numbers_itself=alias is not None,
        no_stride=None if autoincrement else _NO_STRIDE,
    )
    rowid = None if without_rowid or alias else _free_rowid_name(columns)
    collations = _key_collations(pk_names, unique)
    return SqliteTable(shape, columns, without_rowid, alias, rowid, unique, collations, autoincrement)


def _table_xinfo(connection: sqlite3.Connection, bare: str) -> list[tuple[int, str, str, int, str | None, int, int]]:
    rows: list[tuple[int, str, str, int, str | None, int, int]] = connection.execute(
        f"PRAGMA main.table_xinfo({quote(bare)})"
    ).fetchall()
    return [row for row in rows if row[6] != _HIDDEN]


def _rowid_alias(
    pk: tuple[str, ...],
    columns: Mapping[str, SqliteColumn],
    unique: tuple[UniqueIndex, ...],
    *,
    without_rowid: bool,
) -> str | None:
    # `INTEGER PRIMARY KEY DESC` is no alias, by an old fault that SQLite keeps: it has an index of its own.
    if without_rowid or len(pk) != 1 or any(index.is_key for index in unique):
        return None
    return pk[0] if columns[pk[0]].shape.declared.upper() == "INTEGER" else None


def _free_rowid_name(columns: Mapping[str, SqliteColumn]) -> str | None:
    taken = {fold(name) for name in columns}
    return next((name for name in _ROWID_NAMES if name not in taken), None)


def _key_collations(pk: tuple[str, ...], unique: tuple[UniqueIndex, ...]) -> tuple[str, ...]:
    for index in unique:
        if index.is_key:
            by_name = {part.column: part.collation.upper() for part in index.parts}
            return tuple(by_name.get(name, "BINARY") for name in pk)
    return ("BINARY",) * len(pk)


def _foreign_keys(connection: sqlite3.Connection, bare: str) -> list[ForeignKey]:
    grouped: dict[int, list[tuple[int, str, str, str | None]]] = {}
    for number, place, written, column, target, *_ in connection.execute(
        f"PRAGMA main.foreign_key_list({quote(bare)})"
    ).fetchall():
        grouped.setdefault(number, []).append((place, _spelled(connection, written), column, target))
    found = []
    for parts in grouped.values():
        parts.sort()
        parent = parts[0][1]
        targets = tuple(target for *_, target in parts if target is not None)
        if len(targets) < len(parts):
            targets = _pk_of(connection, parent)
        found.append(ForeignKey(tuple(part[2] for part in parts), wire_name(parent), targets))
    return found


def _spelled(connection: sqlite3.Connection, written: str) -> str:
    """Return a table's name as it was created; a reference may write it in other letters."""
    rows = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall()
    return next((name for (name,) in rows if same_name(name, written)), written)


def _pk_of(connection: sqlite3.Connection, bare: str) -> tuple[str, ...]:
    keyed = sorted((row[5], row[1]) for row in _table_xinfo(connection, bare) if row[5])
    return tuple(name for _, name in keyed)
