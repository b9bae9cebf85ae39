"""Tables that come from a description, as PostgreSQL makes them: docs/reference/snapshot-tables.md."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.catalog import read_catalog
from common.dialects.postgresql.connection import driver, pin_settings
from common.dialects.postgresql.describing import describe
from common.dialects.postgresql.errors import translate, translated
from common.dialects.postgresql.naming import ident, literal, parts_of, qualified, wire_name
from common.dialects.postgresql.type_names import TypeName, parse_type
from common.errors import ContentionError, OutageError, PreflightError
from common.ports.dialect import Catalog, TableShape
from common.ports.table_making import ColumnPlan, Kind, Literal, ReferencePlan, TablePlan

Raw = psycopg.Connection[tuple[Any, ...]]

KEEPS = {
    "int": "bigint",
    "float": "double precision",
    "bool": "boolean",
    "text": "text",
    "bytes": "bytea",
    "date": "date",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "interval": "interval",
    "uuid": "uuid",
    # jsonb would write the text anew.
    "json": "json",
    "decimal": "numeric",
}
_COUNTING = frozenset({"smallint", "integer", "bigint"})
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,4})?", re.ASCII)
_WHOLE = re.compile(r"-?\d{1,19}", re.ASCII)
_HEX = re.compile(r"([0-9a-f]{2})*")
_MAX_NAME_BYTES = 63
_SHOWN = 80
"""So much of a type is told in a message."""
_TYPE = """
SELECT t.typtype::text, coalesce(c.relkind::text, 'c'), c.relname FROM pg_catalog.pg_type t
LEFT JOIN pg_catalog.pg_class c ON c.oid = t.typrelid WHERE t.oid = pg_catalog.to_regtype(%s)
"""


class PgTableMaking:
    """Describes tables of one database, and makes others in it."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def describe(self, shapes: Sequence[TableShape]) -> dict[str, TablePlan]:
        """Return plans of these tables, by name."""
        with translated(), self._engine.begin() as connection:
            return describe(driver(connection), shapes)

    def same_table(self, name: str) -> str:
        """Two names are one if they are equal."""
        return name

    def prepare(self, plans: Mapping[str, TablePlan]) -> "PgMaking":
        """Look up schemas and types."""
        with translated(), self._engine.begin() as connection:
            raw = driver(connection)
            making = PgMaking(_default_schema(raw))
            for plan in plans.values():
                making.check_names(plan)
                _need_schema(raw, plan.name, making.place(plan.name)[0])
                _need_types(raw, plan)
        return making

    def run(self, statements: Sequence[tuple[str, str]], check: Callable[[Catalog], None]) -> None:
        """Run all of it, or nothing."""
        with translated(), self._engine.begin() as connection:
            raw = driver(connection)
            # Under which a default's text was written, and must be read.
            pin_settings(raw)
            for table, sql in statements:
                _execute(raw, table, sql)
            check(read_catalog(raw))


class PgMaking:
    """Writes the statements."""

    def __init__(self, default_schema: str) -> None:
        self._default_schema = default_schema

    def place(self, name: str) -> tuple[str, str]:
        """Return schema and table that a name on the wire means here. Raises PreflightError."""
        schema, bare = parts_of(name)
        place = schema or self._default_schema, bare
        if (here := wire_name(*place, self._default_schema)) != name:
            raise PreflightError(f"table {name}: by that name no table can stand here; this one would be {here!r}")
        return place

    def check_names(self, plan: TablePlan) -> None:
        """Raise PreflightError for a name that PostgreSQL would cut, or keeps for itself."""
        schema, bare = self.place(plan.name)
        if schema.startswith("pg_") or schema == "information_schema":
            raise PreflightError(f"table {plan.name}: the schema {schema} is PostgreSQL's own")
        for name in (bare, schema, *(column.name for column in plan.columns)):
            if len(name.encode()) > _MAX_NAME_BYTES:
                raise PreflightError(f"table {plan.name}: the name {name!r} is longer than PostgreSQL keeps")

    def create(self, plan: TablePlan, references: Sequence[ReferencePlan]) -> str:
        """Return the statement."""
        lines = [_column(plan, column) for column in plan.columns]
        lines.append(f"PRIMARY KEY ({_listed(plan.pk)})")
        for key in plan.unique_keys:
            nulls = "NULLS NOT DISTINCT " if _is_own(plan) and key.nulls_equal else ""
            lines.append(f"UNIQUE {nulls}({_listed(key.columns)})")
        lines += [self._reference(one) for one in references]
        return f"CREATE TABLE {qualified(*self.place(plan.name))} ({', '.join(lines)})"

    def add_reference(self, plan: TablePlan, reference: ReferencePlan) -> str | None:
        """Return what adds a foreign key whose parent comes later."""
        return f"ALTER TABLE {qualified(*self.place(plan.name))} ADD {self._reference(reference)}"

    def differs(self, plan: TablePlan, made: TableShape) -> str | None:
        """Tell the first difference."""
        for column, found in zip(plan.columns, made.columns, strict=True):
            if _is_own(plan):
                wanted = _type_here(plan, column).without_schema
                became = parse_type(found.declared)
                # The logical type of an extension's or a user's own type may have a schema before it, here or there.
                same = found.logical == column.logical or {found.logical[:3], column.logical[:3]} == {"pg:"}
                nullable = column.nullable and column.name not in plan.pk
                if became is None or became.without_schema != wanted or not same or found.nullable != nullable:
                    return f"{column.name} has become {found.declared}, {found.logical}"
            elif found.logical != ("text" if column.logical.startswith("pg:") else column.logical):
                return f"{column.name} has become {found.logical}"
        return None

    def _reference(self, key: ReferencePlan) -> str:
        parent = f"{qualified(*self.place(key.parent))} ({_listed(key.parent_columns)})"
        return f"FOREIGN KEY ({_listed(key.columns)}) REFERENCES {parent} {key.clauses}"


def _is_own(plan: TablePlan) -> bool:
    return plan.dialect == "postgresql"


def _default_schema(raw: Raw) -> str:
    row = raw.execute("SELECT pg_catalog.current_schema()").fetchone()
    if row is None or row[0] is None:
        raise PreflightError("no schema of this account's search_path is there: create one, or set search_path")
    return str(row[0])


def _need_schema(raw: Raw, table: str, schema: str) -> None:
    if raw.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = %s", (schema,)).fetchone() is None:
        raise PreflightError(f"table {table}: there is no schema {schema} here; create it first: CREATE SCHEMA")


def _need_types(raw: Raw, plan: TablePlan) -> None:
    for column in plan.columns if _is_own(plan) else ():
        kind = _type_here(plan, column)
        if kind.is_word:
            continue
        row = raw.execute(_TYPE, (kind.bare,)).fetchone()
        where = f"table {plan.name}, column {column.name}"
        if row is None:
            raise PreflightError(
                f"{where}: there is no type {kind.bare} here; create it first (CREATE TYPE, CREATE DOMAIN or CREATE "
                "EXTENSION, as on the source), then run this again"
            )
        # A column of a table's row type would keep that table from being altered.
        if row[0] == "p" or row[1] != "c":
            raise PreflightError(f"{where}: {kind.bare} is no type for a column")


def _type_here(plan: TablePlan, column: ColumnPlan) -> TypeName:
    """Return the type that keeps every value of the source's column."""
    # A name that is not in the list is a type which PostgreSQL doesn't know: its text.
    declared = column.declared if _is_own(plan) else KEEPS.get(column.logical, "text")
    kind = parse_type(declared)
    if kind is None:
        raise PreflightError(f"table {plan.name}, column {column.name}: {declared[:_SHOWN]!r} is no name of a type")
    return kind


def _column(plan: TablePlan, column: ColumnPlan) -> str:
    kind = _type_here(plan, column)
    words = [ident(column.name), kind.sql]
    if not column.nullable or column.name in plan.pk:
        words.append("NOT NULL")
    if column.counts and kind.sql in _COUNTING:
        # BY DEFAULT, so that rows of other nodes keep the keys that they have.
        words.append("GENERATED BY DEFAULT AS IDENTITY")
    elif column.default is not None and (default := _default(plan, column, column.default)):
        words.append(f"DEFAULT {default}")
    return " ".join(words)


def _default(plan: TablePlan, column: ColumnPlan, default: Literal) -> str | None:
    """Return the constant; None where it would mean something else here than at its source."""
    if "\0" in default.text:
        raise PreflightError(f"table {plan.name}, column {column.name}: its default has a NUL in it")
    match default.kind:
        case Kind.NULL:
            return "NULL"
        case Kind.BOOL if default.text in ("true", "false") and (_is_own(plan) or column.logical == "bool"):
            return default.text
        case Kind.NUMBER if _NUMBER.fullmatch(default.text):
            return default.text if _is_own(plan) else _number(column, default.text)
        case Kind.BYTES if _HEX.fullmatch(default.text) and (_is_own(plan) or column.logical == "bytes"):
            return literal(f"\\x{default.text}")
        case Kind.TEXT if _is_own(plan) or column.logical == "text":
            return literal(default.text)
        case Kind.TEXT if column.logical in ("int", "decimal", "float") and _NUMBER.fullmatch(default.text):
            return _number(column, default.text)
        case Kind.TEXT | Kind.BOOL | Kind.BYTES if not _is_own(plan):
            return None
        case _:
            raise PreflightError(f"table {plan.name}, column {column.name}: its default is no {default.kind}")


def _number(column: ColumnPlan, text: str) -> str | None:
    """Return a number of a database that checks nothing, where this column takes it."""
    match column.logical:
        case "bool":
            return {"0": "false", "1": "true"}.get(text)
        case "int":
            return text if _WHOLE.fullmatch(text) and -(2**63) <= int(text) < 2**63 else None
        case "float":
            return literal(text) if math.isfinite(float(text)) else None
        case "decimal":
            return literal(text)
        case _:
            return None


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(ident, names))


def _execute(raw: Raw, table: str, sql: str) -> None:
    try:
        # A binary result can be asked for of one statement alone.
        raw.execute(sql.encode(), binary=True)
    except psycopg.Error as error:
        told = translate(error)
        if isinstance(told, OutageError | ContentionError):
            raise told from error
        raise PreflightError(f"table {table} can't be made, and none was: {told}; create it first") from error
