"""Tables described so that another database can make them, and what a dialect does for that.

A description may come from a file that nobody checked: whatever stands in it is data. A dialect writes names and
literals by its own functions, and a type only after it was taken apart and put together anew."""

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from common.ports.dialect import Catalog, TableShape


class Action(StrEnum):
    """What becomes of a row whose parent is deleted, or gets another key."""

    NO_ACTION = "NO ACTION"
    RESTRICT = "RESTRICT"
    CASCADE = "CASCADE"
    SET_NULL = "SET NULL"
    SET_DEFAULT = "SET DEFAULT"


class Checked(StrEnum):
    """When a foreign key is checked."""

    AT_ONCE = "at-once"
    DEFERRABLE = "deferrable"
    AT_COMMIT = "at-commit"


_WHEN_CHECKED = {
    Checked.AT_ONCE: "",
    Checked.DEFERRABLE: " DEFERRABLE INITIALLY IMMEDIATE",
    Checked.AT_COMMIT: " DEFERRABLE INITIALLY DEFERRED",
}


class Kind(StrEnum):
    """What a literal is."""

    NULL = "null"
    BOOL = "bool"
    NUMBER = "number"
    TEXT = "text"
    BYTES = "bytes"


class Literal(msgspec.Struct, frozen=True, omit_defaults=True):
    """A default that is a constant: `true`, `-1.50`, any text; bytes in hexadecimal."""

    kind: Kind
    text: str = ""


class ColumnPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """One column."""

    name: str
    logical: str
    declared: str
    """The type as the source's database writes it."""
    base: str = ""
    """The type below its domains, where `declared` is one."""
    nullable: bool = True
    default: Literal | None = None
    generated: bool = False
    """Computed from other columns. How is not carried, so such a table is not made."""
    counts: bool = False
    """Its values come from the database: serial, identity, rowid."""
    collation: str = ""
    """SQLite's NOCASE or RTRIM, where the column is part of a key."""


class KeyPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """Columns whose values are there once."""

    columns: tuple[str, ...]
    nulls_equal: bool = False
    """PostgreSQL's NULLS NOT DISTINCT."""


class ReferencePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A foreign key. `parent` is a name on the wire."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: Action = Action.NO_ACTION
    on_update: Action = Action.NO_ACTION
    checked: Checked = Checked.AT_ONCE

    @property
    def clauses(self) -> str:
        """What stands behind REFERENCES, in the words of both dialects."""
        actions = f"ON DELETE {Action(self.on_delete).value} ON UPDATE {Action(self.on_update).value}"
        return actions + _WHEN_CHECKED[Checked(self.checked)]


class TablePlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """A table as its source's database has it. JSON-able both ways with `msgspec.json`."""

    name: str
    """On the wire."""
    dialect: str
    """The source's: `postgresql`, `sqlite`."""
    columns: tuple[ColumnPlan, ...]
    pk: tuple[str, ...]
    unique_keys: tuple[KeyPlan, ...] = ()
    foreign_keys: tuple[ReferencePlan, ...] = ()
    without_rowid: bool = False
    strict: bool = False
    autoincrement: bool = False
    left_out: tuple[str, ...] = ()
    """What the table has and this does not carry, in words: for people."""

    def column(self, name: str) -> ColumnPlan:
        """Return the column of that name. Raises KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


class TableMaking(Protocol):
    """How one database describes tables and makes them. No call changes anything but `run`.

    Raises PreflightError for what can't be made, OutageError, ContentionError."""

    def describe(self, shapes: Sequence[TableShape]) -> dict[str, TablePlan]:
        """Return plans of these tables, by name; references to other tables are left out."""
        ...

    def same_table(self, name: str) -> str:
        """Return the form under which this database compares names of tables."""
        ...

    def prepare(self, plans: Mapping[str, TablePlan]) -> "MakingHere":
        """Look up what the statements for `plans`, which have passed the dialect's common checks, need to know."""
        ...

    def run(self, statements: Sequence[tuple[str, str]], check: Callable[[Catalog], None]) -> None:
        """Run (table, SQL) pairs in one transaction, all or nothing; `check` is given what stands then, and its
        exception takes all of it back."""
        ...


class MakingHere(Protocol):
    """Writes the statements."""

    def create(self, plan: TablePlan, references: Sequence[ReferencePlan]) -> str:
        """Return the CREATE TABLE with these foreign keys."""
        ...

    def add_reference(self, plan: TablePlan, reference: ReferencePlan) -> str | None:
        """Return what adds a foreign key to a table that stands; None where CREATE TABLE may name a parent that comes
        later."""
        ...

    def differs(self, plan: TablePlan, made: TableShape) -> str | None:
        """Tell what of the columns in `made`, which has their names, is not as wanted: types, NULL."""
        ...
