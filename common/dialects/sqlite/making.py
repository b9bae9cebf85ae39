"""Tables that come from a description, as SQLite makes them: docs/reference/snapshot-tables.md."""

import math
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa

from common.dialects.sqlite.catalog import SchemaCache, read_schema
from common.dialects.sqlite.connection import borrowed, transaction
from common.dialects.sqlite.describing import COLLATIONS, describe
from common.dialects.sqlite.errors import translate_driver, translating
from common.dialects.sqlite.names import fold, literal, quote, wire_name
from common.dialects.sqlite.types import logical_type
from common.errors import ContentionError, OutageError, PreflightError
from common.ports.dialect import Catalog, TableShape
from common.ports.table_making import ColumnPlan, Kind, Literal, ReferencePlan, TablePlan

_PLAIN = re.compile(r"(\w+(?: +\w+)*) *(\( *[+-]?\d+ *(, *[+-]?\d+ *)?\))?", re.ASCII)
_ENDS_A_TYPE = re.compile(
    r"\b(AS|CHECK|COLLATE|CONSTRAINT|DEFAULT|DEFERRABLE|GENERATED|NOT|NULL|ON|PRIMARY|REFERENCES|UNIQUE)\b", re.I
)
_STRICT_TYPES = frozenset({"INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"})
KEEPS = {
    "int": "BIGINT",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
    "text": "TEXT",
    "bytes": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
    "interval": "INTERVAL",
    "uuid": "UUID",
    # Numeric affinity would make the JSON text 1.50 another one, and digits beyond what a REAL keeps are refused.
    "json": "TEXT",
    "decimal": "TEXT",
}
_SIZED = re.compile(r"numeric\((\d{1,4}),(\d{1,4})\)", re.ASCII)
_REAL_DIGITS = 15
"""That many digits of any decimal come back from a REAL."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d{1,4})?", re.ASCII)
_SHOWN = 80
"""So much of a type is told in a message."""
_HEX = re.compile(r"([0-9a-f]{2})*")


class SqliteTableMaking:
    """Describes tables of one file, and makes others in it."""

    def __init__(self, engine: sa.Engine, schemas: SchemaCache) -> None:
        self._engine, self._schemas = engine, schemas

    def describe(self, shapes: Sequence[TableShape]) -> dict[str, TablePlan]:
        """Return plans of these tables, by name."""
        with translating(), borrowed(self._engine) as connection:
            return describe(connection, self._schemas.read(connection), shapes)

    def same_table(self, name: str) -> str:
        """Fold the case of ASCII letters."""
        return fold(name)

    def prepare(self, plans: Mapping[str, TablePlan]) -> "SqliteMaking":
        """Check the names: two that SQLite takes for one can't both be made."""
        for plan in plans.values():
            _bare(plan.name)
            counted = Counter(fold(column.name) for column in plan.columns)
            for name, times in counted.most_common(1):
                if times > 1:
                    raise PreflightError(f"table {plan.name}: SQLite takes two of its columns for one: {name!r}")
        return SqliteMaking()

    def run(self, statements: Sequence[tuple[str, str]], check: Callable[[Catalog], None]) -> None:
        """Run all of it, or nothing."""
        with translating(), borrowed(self._engine) as connection, transaction(connection):
            for table, sql in statements:
                _execute(connection, table, sql)
            check(read_schema(connection).catalog)


class SqliteMaking:
    """Writes CREATE TABLE; parents may come later, so there is nothing else."""

    def create(self, plan: TablePlan, references: Sequence[ReferencePlan]) -> str:
        """Return the statement."""
        lines = [_column(plan, column) for column in plan.columns]
        if not _key_in_column(plan):
            lines.append(f"PRIMARY KEY ({_listed(plan.pk)})")
        lines += [f"UNIQUE ({_listed(key.columns)})" for key in plan.unique_keys]
        lines += [_reference(one) for one in references]
        options = [word for word, on in (("WITHOUT ROWID", _without_rowid(plan)), ("STRICT", _strict(plan))) if on]
        return (
            f"CREATE TABLE {quote(_bare(plan.name))} ({', '.join(lines)}){' ' if options else ''}{', '.join(options)}"
        )

    def add_reference(self, plan: TablePlan, reference: ReferencePlan) -> str | None:  # noqa: ARG002 the port's words
        """Nothing: CREATE TABLE takes a parent that is not there yet."""
        return None

    def differs(self, plan: TablePlan, made: TableShape) -> str | None:
        """Tell the first difference."""
        for column, found in zip(plan.columns, made.columns, strict=True):
            if _is_own(plan):
                # SQLite writes its six standard types in capitals, older ones as they were given.
                wanted = (column.declared.upper(), column.logical, column.nullable)
                if (found.declared.upper(), found.logical, found.nullable) != wanted:
                    return f"{column.name} has become {found.declared[:_SHOWN]!r}, {found.logical}"
            elif found.logical != logical_type(_type_here(plan, column), strict=False):
                return f"{column.name} has become {found.logical}"
        return None


def _is_own(plan: TablePlan) -> bool:
    return plan.dialect == "sqlite"


def _bare(name: str) -> str:
    """Return the table that a name on the wire means. Raises PreflightError for `schema.name`."""
    bare = name.replace("..", ".")
    if wire_name(bare) != name:
        raise PreflightError(f"table {name} stands in a schema, and SQLite has none: it can't be made here")
    return bare


def _without_rowid(plan: TablePlan) -> bool:
    return _is_own(plan) and plan.without_rowid


def _strict(plan: TablePlan) -> bool:
    return _is_own(plan) and plan.strict


def _key_in_column(plan: TablePlan) -> bool:
    """Whether the key is declared beside its one column: of type INTEGER it is the rowid there, or just there not."""
    if len(plan.pk) != 1 or _without_rowid(plan):
        return False
    column = plan.column(plan.pk[0])
    return _counts(plan, column) or _type_here(plan, column).upper() == "INTEGER"


def _counts(plan: TablePlan, column: ColumnPlan) -> bool:
    return column.counts and plan.pk == (column.name,) and column.logical == "int"


def _type_here(plan: TablePlan, column: ColumnPlan) -> str:
    """Return the type that keeps every value of the source's column."""
    if _is_own(plan):
        return column.declared
    if _counts(plan, column):
        return "INTEGER"
    sized = _SIZED.fullmatch(column.base or column.declared) if column.logical == "decimal" else None
    if sized and int(sized[2]) <= int(sized[1]) <= _REAL_DIGITS:
        return f"DECIMAL({int(sized[1])}, {int(sized[2])})"
    # A name that is not in the list is a type which SQLite doesn't have: its text.
    return KEEPS.get(column.logical, "TEXT")


def _written_type(plan: TablePlan, column: ColumnPlan) -> str:
    declared = _type_here(plan, column)
    if _strict(plan) and declared.upper() not in _STRICT_TYPES:
        raise PreflightError(
            f"table {plan.name}, column {column.name}: no STRICT table has the type {declared[:_SHOWN]!r}"
        )
    plain = _PLAIN.fullmatch(declared)
    if not declared or (plain and not _ENDS_A_TYPE.search(declared)):
        return declared
    if any(letter in declared for letter in "'\"`[]\0"):
        where, shown = f"table {plan.name}, column {column.name}", declared[:_SHOWN]
        raise PreflightError(f"{where}: the type {shown!r} can't be carried; create the table first")
    # Whatever SQLite took as a name: as one it comes back the same, and its affinity with it.
    return quote(declared)


def _column(plan: TablePlan, column: ColumnPlan) -> str:
    words = [quote(column.name), _written_type(plan, column)]
    if _key_in_column(plan) and column.name == plan.pk[0]:
        words.append("PRIMARY KEY" if _counts(plan, column) else "PRIMARY KEY DESC")
        if _counts(plan, column) and (plan.autoincrement or not _is_own(plan)):
            words.append("AUTOINCREMENT")
    keyed = not _is_own(plan) and column.name in plan.pk and not _counts(plan, column)
    if keyed or not column.nullable:
        words.append("NOT NULL")
    if column.default is not None and (default := _default(plan, column, column.default)):
        words.append(f"DEFAULT {default}")
    if _is_own(plan) and column.collation:
        if column.collation not in COLLATIONS:
            raise PreflightError(f"table {plan.name}, column {column.name}: no collation {column.collation!r}")
        words.append(f"COLLATE {column.collation}")
    return " ".join(word for word in words if word)


def _default(plan: TablePlan, column: ColumnPlan, default: Literal) -> str | None:
    """Return the constant; None where it would mean something else here than at its source."""
    if "\0" in default.text:
        raise PreflightError(f"table {plan.name}, column {column.name}: its default has a NUL in it")
    match default.kind:
        case Kind.NULL:
            return "NULL"
        case Kind.BOOL if default.text in ("true", "false") and (_is_own(plan) or column.logical == "bool"):
            # TRUE is an SQL word only since 3.23; the number is what it means.
            return str(int(default.text == "true"))
        case Kind.NUMBER if _NUMBER.fullmatch(default.text):
            return _number(plan, column, default.text)
        case Kind.BYTES if _HEX.fullmatch(default.text) and (_is_own(plan) or column.logical == "bytes"):
            return f"x'{default.text}'"
        case Kind.TEXT if _is_own(plan) or column.logical == "text":
            return literal(default.text)
        case Kind.TEXT if column.logical in ("int", "decimal", "float") and _NUMBER.fullmatch(default.text):
            return _number(plan, column, default.text)
        case Kind.TEXT | Kind.BOOL | Kind.BYTES if not _is_own(plan):
            return None
        case _:
            raise PreflightError(f"table {plan.name}, column {column.name}: its default is no {default.kind}")


def _number(plan: TablePlan, column: ColumnPlan, text: str) -> str | None:
    if not _is_own(plan):
        if column.logical not in ("int", "decimal", "float"):
            return None
        if _type_here(plan, column) == "TEXT":
            # As a number it would lose the zeros at its end.
            return literal(text)
        if not math.isfinite(float(text)):
            return None
    return text


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(quote, names))


def _reference(key: ReferencePlan) -> str:
    parent = f"{quote(_bare(key.parent))} ({_listed(key.parent_columns)})"
    return f"FOREIGN KEY ({_listed(key.columns)}) REFERENCES {parent} {key.clauses}"


def _execute(connection: sqlite3.Connection, table: str, sql: str) -> None:
    try:
        connection.execute(sql)
    except sqlite3.Error as error:
        told = translate_driver(error)
        if isinstance(told, OutageError | ContentionError):
            raise told from error
        raise PreflightError(f"table {table} can't be made, and none was: {error}; create it first") from error
