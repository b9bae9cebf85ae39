"""Triggers that refuse what a table's policy forbids to the application.

Updates and deletes have triggers of their own, cascades run them too. A row that `REPLACE` displaces has none while
`recursive_triggers` is off, and before the insert nobody knows whether it replaces, ignores or fails. So what would be
displaced is noted before the insert, by the new row's values, and a row that comes to stand all the same is refused.
"""

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.matching import Matching
from common.dialects.sqlite.names import literal, quote
from common.ports.rules import append_only_refusal, own_key_refusal

DISPLACING = "rf_displacing"
DISPLACING_DDL = (
    f"CREATE TABLE {DISPLACING} (table_id, place, value)",
    f"CREATE INDEX {DISPLACING}_row ON {DISPLACING} (table_id, place, value)",
)
"""No types and no constraints: an outer `OR IGNORE` or `OR REPLACE` must have nothing to act on."""


def forget_displacing(connection: sqlite3.Connection) -> None:
    """Throw away what was noted of inserts that came to nothing. Within the write lock: no insert is under way."""
    if has_table(connection, DISPLACING):
        connection.execute(f"DELETE FROM {DISPLACING}")


def has_table(connection: sqlite3.Connection, name: str) -> bool:
    """Tell whether the main database has a table of this name. Asks no catalog: that one is read from end to end."""
    return connection.execute(f"PRAGMA main.table_info({quote(name)})").fetchone() is not None


class Step(NamedTuple):
    """One trigger."""

    event: str
    when: str
    body: list[str]


class _Rival(NamedTuple):
    """One way in which a new row may displace others."""

    stands: str
    """Whether a row stands that has the new one's values."""
    values: str
    """The new row's values as one text: the same before and after the insert."""


def refuse(message: str) -> str:
    """Return the statement that ends the application's own with an error; what it did is taken back."""
    return f"SELECT RAISE(ABORT, {literal(message)})"


def append_only_steps(table_id: int, table: SqliteTable) -> dict[str, Step]:
    """Return the triggers of an append-only table, beside those of capture."""
    message = append_only_refusal(table.shape.name)
    rivals = list(enumerate(_rivals(table)))
    notes = []
    for place, rival in rivals:
        # Anew for each row: what an earlier one noted that was ignored then says nothing of this one.
        notes.append(f"DELETE FROM {DISPLACING} WHERE {_same(table_id, place, rival)}")
        notes.append(
            f"INSERT INTO {DISPLACING} (table_id, place, value) SELECT {table_id}, {place}, {rival.values}"
            f" WHERE EXISTS (SELECT 1 FROM {quote(table.shape.bare)} WHERE {rival.stands})"
        )
    noted = " OR ".join(
        f"EXISTS (SELECT 1 FROM {DISPLACING} WHERE {_same(table_id, place, rival)})" for place, rival in rivals
    )
    return {
        "update": Step("BEFORE UPDATE", "", [refuse(message)]),
        "delete": Step("BEFORE DELETE", "", [refuse(message)]),
        "insert": Step("BEFORE INSERT", "", notes),
        "inserted": Step("AFTER INSERT", f" WHEN {noted}", [refuse(message)]),
    }


def no_own_keys_step(table: SqliteTable) -> Step:
    """Return the trigger that refuses a row whose key is left to SQLite: before the insert it reads as -1."""
    message = own_key_refusal(table.shape.name)
    return Step("BEFORE INSERT", f" WHEN NEW.{quote(table.rowid_alias or '')} = -1", [refuse(message)])


def _same(table_id: int, place: int, rival: _Rival) -> str:
    return f"table_id = {table_id} AND place = {place} AND value = {rival.values}"


def _rivals(table: SqliteTable) -> Iterator[_Rival]:
    name, matching = quote(table.shape.bare), Matching(table)
    for index in table.unique:
        if index.is_key:
            continue
        stands = matching.by_index(index)
        if index.where is not None:
            stands += f" AND {matching.of_new(index.where)}"
        yield _Rival(stands, _text([matching.part_value(part) for part in index.parts]))
    yield _Rival(matching.by_key(), _text([matching.value(name) for name in table.shape.pk]))
    if table.rowid:
        yield _Rival(f"{name}.{table.rowid} = NEW.{table.rowid}", _text([f"NEW.{table.rowid}"]))


def _text(values: list[str]) -> str:
    # Two values with one text do no harm: each insert notes anew. A NULL displaces nothing.
    return " || '/' || ".join(f"hex({value})" for value in values)
