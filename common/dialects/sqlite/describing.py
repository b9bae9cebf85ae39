"""SQLite tables described for another database."""

import re
import sqlite3
from collections.abc import Collection, Sequence

from common.dialects.sqlite.catalog import Schema, SqliteTable
from common.dialects.sqlite.indexes import TOKEN
from common.dialects.sqlite.names import fold, quote
from common.ports.dialect import ForeignKey, TableShape
from common.ports.table_making import Action, Checked, ColumnPlan, KeyPlan, Kind, Literal, ReferencePlan, TablePlan

COLLATIONS = ("NOCASE", "RTRIM")
_NUMBER = re.compile(r"([+-]?)\s*(?=\.?\d)(\d*)(?:\.(\d*))?([eE][+-]?\d+)?", re.ASCII)
_TEXT = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_BLOB = re.compile(r"[xX]'((?:[0-9a-fA-F]{2})*)'")


def describe(connection: sqlite3.Connection, schema: Schema, shapes: Sequence[TableShape]) -> dict[str, TablePlan]:
    """Return plans of these tables, by name."""
    names = {shape.name for shape in shapes}
    return {shape.name: _Table(connection, schema, schema.tables[shape.name]).plan(names) for shape in shapes}


class _Table:
    """One table, and what is left out of it."""

    def __init__(self, connection: sqlite3.Connection, schema: Schema, table: SqliteTable) -> None:
        self._connection, self._schema, self._table = connection, schema, table
        self._bare = table.shape.bare
        self._left_out: list[str] = []

    def plan(self, names: Collection[str]) -> TablePlan:
        shape = self._table.shape
        return TablePlan(
            name=shape.name,
            dialect="sqlite",
            columns=self._columns(),
            pk=shape.pk,
            unique_keys=tuple(self._unique_keys()),
            foreign_keys=tuple(self._references(names)),
            without_rowid=self._table.without_rowid,
            strict=self._is_strict(),
            autoincrement=self._table.autoincrement,
            left_out=(*self._left_out, *self._others()),
        )

    def _columns(self) -> tuple[ColumnPlan, ...]:
        collations = self._collations()
        query = f"PRAGMA main.table_xinfo({quote(self._bare)})"
        defaults = {row[1]: row[4] for row in self._connection.execute(query).fetchall()}
        columns = []
        for column in self._table.shape.columns:
            written = None if column.generated else defaults[column.name]
            default = None if written is None else literal_of(written)
            if written is not None and default is None:
                self._left_out.append(f"the default of {column.name}: {written}")
            plan = ColumnPlan(
                name=column.name,
                logical=column.logical,
                declared=column.declared,
                nullable=column.nullable,
                default=default,
                generated=column.generated,
                counts=column.name == self._table.rowid_alias,
                collation=collations.get(column.name, ""),
            )
            columns.append(plan)
        return tuple(columns)

    def _collations(self) -> dict[str, str]:
        """A column's own collation, as far as the primary key tells it, else another key."""
        found: dict[str, str] = {}
        for index in sorted(self._table.unique, key=lambda one: not one.is_key):
            for part in index.parts:
                if index.columns is not None and part.column is not None:
                    found.setdefault(part.column, part.collation.upper())
        return {name: collation for name, collation in found.items() if collation in COLLATIONS}

    def _unique_keys(self) -> list[KeyPlan]:
        own = self._collations()
        found: dict[tuple[str, ...], KeyPlan] = {}
        # SQLite lists the last one first, of references too; plans have the order of the table.
        for index in reversed(self._table.unique):
            if index.is_key:
                continue
            columns = index.columns
            odd = [one for one in index.parts if one.column and one.collation.upper() != own.get(one.column, "BINARY")]
            if columns is None:
                self._left_out.append(f"the unique index {index.name}: it has an expression or a condition")
            elif odd:
                self._left_out.append(f"the unique index {index.name}: its collation is not its column's")
            else:
                found[columns] = KeyPlan(columns)
        return list(found.values())

    def _references(self, names: Collection[str]) -> list[ReferencePlan]:
        rows = self._connection.execute(f"PRAGMA main.foreign_key_list({quote(self._bare)})").fetchall()
        # Which of several it stands beside SQLite does not tell; for the others it comes to the same once committed.
        checked = Checked.AT_COMMIT if "DEFERRABLE INITIALLY DEFERRED" in self._words() else Checked.AT_ONCE
        actions = {number: (update, delete) for number, _, _, _, _, update, delete, _ in rows}
        found = []
        for key, (update, delete) in zip(self._table.shape.foreign_keys, actions.values(), strict=True):
            if key.parent not in names:
                self._left_out.append(f"the reference of {', '.join(key.columns)} to {key.parent}")
            elif (parents := self._parent_columns(key)) is None:
                self._left_out.append(f"the reference of {', '.join(key.columns)} to {key.parent}: no key of it")
            else:
                plan = ReferencePlan(key.columns, key.parent, parents, Action(delete), Action(update), checked)
                found.append(plan)
        return found[::-1]

    def _parent_columns(self, key: ForeignKey) -> tuple[str, ...] | None:
        """The parent's columns as it spells them; None where they are no key of it, which SQLite finds late."""
        parent = self._schema.tables[key.parent].shape
        by_name = {fold(column.name): column.name for column in parent.columns}
        columns = tuple(by_name.get(fold(name), "") for name in key.parent_columns)
        keys = [set(one) for one in (parent.pk, *parent.unique_keys)]
        return columns if len(columns) == len(key.columns) and set(columns) in keys else None

    def _is_strict(self) -> bool:
        rows = self._connection.execute("PRAGMA table_list").fetchall()
        return any(row[0] == "main" and row[1] == self._bare and row[5] for row in rows)

    def _others(self) -> list[str]:
        found = []
        for _, name, unique, *_ in self._connection.execute(f"PRAGMA main.index_list({quote(self._bare)})").fetchall():
            if not unique:
                found.append(f"the index {name}")
        query = "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? ORDER BY name"
        triggers = [name for (name,) in self._connection.execute(query, (self._bare,)).fetchall()]
        found += [f"the trigger {name}" for name in triggers if not name.startswith("rf_")]
        return [*found, "its CHECK constraints"] if "CHECK" in self._words().split() else found

    def _words(self) -> str:
        """The table's own SQL in capitals, without names in quotes, texts and comments, one space between words."""
        query = "SELECT sql FROM main.sqlite_master WHERE type = 'table' AND name = ?"
        (sql,) = self._connection.execute(query, (self._bare,)).fetchone()
        words = [token for token in TOKEN.findall(sql) if token.isidentifier()]
        return " ".join(words).upper()


def literal_of(written: str) -> Literal | None:
    """Return a default that is a constant; None for an expression."""
    text = written.strip()
    word = text.upper()
    if word == "NULL":
        return Literal(Kind.NULL)
    if word in ("TRUE", "FALSE"):
        return Literal(Kind.BOOL, word.lower())
    if _TEXT.fullmatch(text):
        return Literal(Kind.TEXT, text[1:-1].replace(text[0] * 2, text[0]))
    if blob := _BLOB.fullmatch(text):
        return Literal(Kind.BYTES, blob[1].lower())
    if number := _NUMBER.fullmatch(text):
        sign, whole, fraction, exponent = number.groups()
        point = "" if fraction is None else f".{fraction or '0'}"
        return Literal(Kind.NUMBER, f"{sign.replace('+', '')}{whole or '0'}{point}{exponent or ''}")
    return None
