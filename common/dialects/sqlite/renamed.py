"""Tables that were renamed while captured: SQLite takes their triggers along, and these tell which they are."""

import sqlite3
from collections.abc import Mapping

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.key_ranges import share_goes_along
from common.dialects.sqlite.names import fold, literal, wire_name
from common.dialects.sqlite.shapes import TouchLog
from common.dialects.sqlite.triggers import table_of_trigger
from common.ports.standing import KEPT_BY_NAME

_TRIGGERS = "SELECT name, tbl_name FROM main.sqlite_master WHERE type = 'trigger' AND name GLOB 'rf_[0-9]*'"


def renamed_tables(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the number under which each table is known that has another name now, by the new name on the wire.

    Left out is a new name that is known as another table's, and an old one that a table has again: an owner who
    rebuilds a table puts the old one aside so."""
    tables = connection.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall()
    there = {fold(wire_name(bare)) for (bare,) in tables}
    names: dict[int, str] = dict(connection.execute("SELECT table_id, name FROM main.rf_table").fetchall())
    known = set(names.values())
    found = {}
    for trigger, bare in connection.execute(_TRIGGERS).fetchall():
        table_id, now = table_of_trigger(trigger), wire_name(bare)
        if table_id in names and now not in known and fold(names[table_id]) not in there:
            found[now] = table_id
    return found


def table_of(connection: sqlite3.Connection, log: TouchLog, tables: Mapping[str, SqliteTable]) -> SqliteTable | None:
    """Return the table whose rows a touch log is about, also under another name; None where it is gone."""
    found = tables.get(log.shape.table)
    if found is not None:
        return found
    (name,) = connection.execute("SELECT name FROM main.rf_table WHERE table_id = ?", (log.table_id,)).fetchone()
    if name in tables:
        return tables[name]
    renamed = renamed_tables(connection)
    return next((tables[now] for now, table_id in renamed.items() if table_id == log.table_id and now in tables), None)


def table_id_of(connection: sqlite3.Connection, name: str) -> int:
    """Return the number under which versions of a table's rows are kept, a new one where it has none."""
    query = "SELECT table_id FROM main.rf_table WHERE name = ?"
    found = connection.execute(query, (name,)).fetchone()
    if found is None:
        renamed = renamed_tables(connection).get(name)
        if renamed is not None:
            for statement in taken_along_sql(connection, renamed, name):
                connection.execute(statement)
            return renamed
        connection.execute("INSERT INTO main.rf_table (name) VALUES (?)", (name,))
        found = connection.execute(query, (name,)).fetchone()
    return int(found[0])


def taken_along_sql(connection: sqlite3.Connection, table_id: int, name: str) -> list[str]:
    """Return the statements that give a known table its new name."""
    query = "SELECT name FROM main.rf_table WHERE table_id = ?"
    (old,) = connection.execute(query, (table_id,)).fetchone()
    # What a row that stepped back claims by its keys is looked at anew, since keys of this table are new to who asks.
    renames = f"SET table_name = {literal(name)} WHERE table_name = {literal(old)}"
    return [
        f"UPDATE main.rf_table SET name = {literal(name)} WHERE table_id = {table_id}",
        *(f"UPDATE main.{kept} {renames}" for kept in KEPT_BY_NAME),
        *share_goes_along(connection, old, name),
    ]
