"""The SQL of capture: for each table a touch log and the triggers that write to it.

Before images are logged before anything happens to a row; after images are read when the log is sealed. That is why
the order in which SQLite runs triggers and cascades does not matter: see docs/reference/capture-sqlite.md.
"""

import re
from collections.abc import Iterable, Mapping

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.guards import Step, append_only_steps, no_own_keys_step
from common.dialects.sqlite.indexes import UniqueIndex
from common.dialects.sqlite.key_ranges import used_up_step
from common.dialects.sqlite.matching import Matching
from common.dialects.sqlite.names import literal, log_table, quote
from common.dialects.sqlite.shapes import LOG_COLUMNS
from common.dialects.sqlite.touches import NOW
from common.ports.rules import Rules

_OF_TABLE = re.compile(r"rf_(\d+)_")
_GUARD = re.compile(r"rf_(\d+)_guard_")


def log_ddl(shape_id: int, columns: int) -> str:
    """Return the touch log of a shape: no types and no constraints, so that values keep their class and an outer
    `OR IGNORE` has nothing to ignore."""
    names = ", ".join([*LOG_COLUMNS, *(f"c{place}" for place in range(columns))])
    return f"CREATE TABLE {log_table(shape_id)} ({names})"


def trigger_prefix(table_id: int) -> str:
    """Return what the names of a table's triggers begin with."""
    return f"rf_{table_id}_"


def table_of_trigger(name: str) -> int | None:
    """Return the number of the table that a trigger of ours is of."""
    of_table = _OF_TABLE.match(name)
    return None if of_table is None else int(of_table[1])


def table_triggers(table_id: int, shape_id: int, table: SqliteTable) -> dict[str, str]:
    """Return the triggers that capture a table, name to SQL."""
    return _named(table_id, table, _Triggers(shape_id, table).steps())


def guards_by_table(names: Iterable[str]) -> dict[int, list[str]]:
    """Return those of these triggers that are guards, by their table's number."""
    found: dict[int, list[str]] = {}
    for name in names:
        of_table = _GUARD.match(name)
        if of_table is not None:
            found.setdefault(int(of_table[1]), []).append(name)
    return found


def guard_triggers(table_id: int, table: SqliteTable, rules: Rules) -> dict[str, str]:
    """Return the triggers that refuse what `rules` forbid on a table, name to SQL."""
    name = table.shape.name
    steps = append_only_steps(table_id, table) if name in rules.append_only else {}
    if table.rowid_alias and name in rules.no_own_keys:
        steps["own_key"] = no_own_keys_step(table)
    if is_steered(table, rules) and rules.share:
        steps["used_up"] = used_up_step(table, rules.share)
    return _named(table_id, table, {f"guard_{name}": step for name, step in steps.items()})


def is_steered(table: SqliteTable, rules: Rules) -> bool:
    """Tell whether the keys that SQLite gives in a table are of this node's share."""
    return table.shape.name in rules.stride and table.rowid_alias is not None and table.autoincrement


def _named(table_id: int, table: SqliteTable, steps: Mapping[str, Step]) -> dict[str, str]:
    found = {}
    for step, (event, when, body) in steps.items():
        # SQLite quotes the trigger's name when an ALTER TABLE fails because of it: so the name says what to do.
        name = f"{trigger_prefix(table_id)}{step} (before ALTER TABLE run: rowferry pause {table.shape.name})"
        statements = "\n  ".join(f"{statement};" for statement in body)
        head = f"CREATE TRIGGER {quote(name)} {event} ON {quote(table.shape.bare)}{when}"
        found[name] = f"{head} BEGIN\n  {statements}\nEND"
    return found


MARK_TRIGGER = "rf_mark_bounds"


def mark_trigger(shape_ids: list[int]) -> str:
    """Return the trigger by which an application names its transaction: it notes where each touch log stands."""
    notes = [
        f"INSERT INTO rf_mark_bound (mark, shape_id, seq) SELECT NEW.id, {shape_id}, max(seq)"
        f" FROM {log_table(shape_id)} HAVING max(seq) IS NOT NULL;"
        for shape_id in sorted(shape_ids)
    ]
    body = "\n  ".join(notes or ["SELECT 1;"])
    return f"CREATE TRIGGER {MARK_TRIGGER} AFTER INSERT ON rf_mark BEGIN\n  {body}\nEND"


class _Triggers:
    """Writes the SQL of one table's triggers."""

    def __init__(self, shape_id: int, table: SqliteTable) -> None:
        self._log = log_table(shape_id)
        self._table = table
        self._name = quote(table.shape.bare)
        self._written = [column.name for column in table.shape.written]
        self._places = {name: place for place, name in enumerate(self._written)}
        self._key = table.shape.pk
        self._matching = Matching(table)

    def steps(self) -> dict[str, Step]:
        parts = {
            "before_insert": Step("BEFORE INSERT", "", self._before_insert()),
            "before_update": Step("BEFORE UPDATE", "", self._before_update()),
            "before_delete": Step("BEFORE DELETE", "", [self._log_old("'D'")]),
        }
        if self._key_comes_late():
            parts["after_insert"] = Step("AFTER INSERT", f" WHEN {self._not_logged_last()}", [self._log_key("I")])
        if self._table.key_may_be_null:
            unnamed = " OR ".join(f"NEW.{quote(name)} IS NULL" for name in self._key)
            parts["null_insert"] = Step("AFTER INSERT", f" WHEN {unnamed}", [self._log_row("'N'", "NEW")])
            parts["null_update"] = Step("AFTER UPDATE", f" WHEN {unnamed}", [self._log_row("'N'", "NEW")])
        return parts

    def _before_insert(self) -> list[str]:
        others = [index for index in self._table.unique if not index.is_key]
        body = [self._displaced(self._matching.by_index(index)) for index in others]
        if self._table.rowid:
            body.append(self._displaced(f"{self._name}.{self._table.rowid} = NEW.{self._table.rowid}"))
        if self._table.key_is_exact:
            return [*body, self._key_or_displaced()]
        return [*body, self._displaced(self._matching.by_key()), self._log_key("K", self._inserted_key())]

    def _before_update(self) -> list[str]:
        itself = " AND ".join(f"{self._name}.{quote(name)} IS OLD.{quote(name)}" for name in self._key)
        body = []
        for index in self._table.unique:
            if not index.is_key:
                match = f"{self._matching.by_index(index)} AND NOT ({itself})"
                body.append(self._displaced(f"{self._moves(index)}{match}"))
        if self._table.rowid:
            rowid = self._table.rowid
            match = f"{self._name}.{rowid} = NEW.{rowid} AND NOT ({itself})"
            body.append(self._displaced(f"OLD.{rowid} <> NEW.{rowid} AND {match}"))
        moved = self._key_moves()
        body.append(self._displaced(f"({moved}) AND {self._matching.by_key()} AND NOT ({itself})"))
        body.append(self._log_old(f"CASE WHEN {moved} THEN 'M' ELSE 'U' END"))
        body.append(self._log_key("K", self._new_key(), where=moved))
        return body

    def _key_moves(self) -> str:
        """Keys are compared by bytes and class, whatever the column's collation says."""
        terms = []
        for name in self._key:
            old, new = f"OLD.{quote(name)}", f"NEW.{quote(name)}"
            terms.append(f"{old} IS NOT {new} COLLATE BINARY")
            if not self._table.rowid_alias:
                terms.append(f"typeof({old}) <> typeof({new})")
        return " OR ".join(terms)

    def _moves(self, index: UniqueIndex) -> str:
        """Spares the lookup where an update leaves the index alone; an expression may depend on anything."""
        if index.columns is None:
            return ""
        terms = [
            f"OLD.{part.sql} IS NOT {self._matching.part_value(part)} COLLATE {quote(part.collation)}"
            for part in index.parts
            if part.column is not None
        ]
        return f"({' OR '.join(terms)}) AND "

    def _displaced(self, match: str) -> str:
        columns = ", ".join(f"{self._name}.{quote(name)}" for name in self._written)
        return f"{self._into(self._written)} SELECT 'X', {NOW}, {columns} FROM {self._name} WHERE {match}"

    def _key_or_displaced(self) -> str:
        """One lookup tells both: the row that has the key already, or that there was none."""
        keys = dict(zip(self._key, self._inserted_key(), strict=True))
        first = f"{self._name}.{quote(self._key[0])}"
        values = []
        for name in self._written:
            stored = f"{self._name}.{quote(name)}"
            values.append(f"coalesce({stored}, {keys[name]})" if name in keys else stored)
        return (
            f"{self._into(self._written)} SELECT CASE WHEN {first} IS NULL THEN 'K' ELSE 'X' END, {NOW},"
            f" {', '.join(values)} FROM (SELECT 1) LEFT JOIN {self._name} ON {self._matching.by_key()}"
        )

    def _inserted_key(self) -> list[str]:
        alias = self._table.rowid_alias
        if alias is None:
            return [self._matching.value(name) for name in self._key]
        # A rowid that SQLite is yet to choose reads as -1. A wrong guess does no harm: see `_not_logged_last`.
        new, largest = f"NEW.{quote(alias)}", f"(SELECT max({quote(alias)}) FROM {self._name})"
        return [f"CASE {new} WHEN -1 THEN coalesce({largest}, 0) + 1 ELSE {new} END"]

    def _new_key(self) -> list[str]:
        return [self._matching.value(name) for name in self._key]

    def _key_comes_late(self) -> bool:
        """Whether the key of an inserted row may differ from what could be read before."""
        return self._table.rowid_alias is not None or any(self._table.columns[name].default for name in self._key)

    def _not_logged_last(self) -> str:
        """The entry before this one says already, as it nearly always does, that the key was absent, or what it had."""
        same = " AND ".join(
            f"c{self._places[name]} IS NEW.{quote(name)} COLLATE BINARY"
            f" AND typeof(c{self._places[name]}) = typeof(NEW.{quote(name)})"
            for name in self._key
        )
        return (
            f"NOT EXISTS (SELECT 1 FROM {self._log} WHERE seq = (SELECT max(seq) FROM {self._log})"
            f" AND kind IN ('K', 'X') AND {same})"
        )

    def _log_old(self, kind: str) -> str:
        return self._log_row(kind, "OLD")

    def _log_row(self, kind: str, row: str) -> str:
        values = ", ".join(f"{row}.{quote(name)}" for name in self._written)
        return f"{self._into(self._written)} VALUES ({kind}, {NOW}, {values})"

    def _log_key(self, kind: str, values: list[str] | None = None, where: str | None = None) -> str:
        found = values or [f"NEW.{quote(name)}" for name in self._key]
        condition = f" WHERE {where}" if where else ""
        return f"{self._into(self._key)} SELECT {literal(kind)}, {NOW}, {', '.join(found)}{condition}"

    def _into(self, columns: list[str] | tuple[str, ...]) -> str:
        places = ", ".join(f"c{self._places[name]}" for name in columns)
        return f"INSERT INTO {self._log} (kind, at, {places})"
