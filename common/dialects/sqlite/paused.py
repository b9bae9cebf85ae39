"""Paused tables: capture is off by command, batches are applied on, and `resume` seals what was written meanwhile.

Until the rows are compared then, what was written stands in the way of batches as a write that is not sealed does."""

import sqlite3
from collections.abc import Sequence

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.digests import digest, registered
from common.dialects.sqlite.known import Captured, KnownDigests
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import stored_shape
from common.dialects.sqlite.values import Row, key_text


def paused_names(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the tables that are paused, by their names on the wire."""
    return frozenset(name for (name,) in connection.execute("SELECT table_name FROM main.rf_paused").fetchall())


def note_paused(connection: sqlite3.Connection, name: str, at_us: int, by: str) -> None:
    """Note that a table is paused, inside the caller's transaction."""
    values = (name, at_us, by)
    connection.execute("INSERT INTO main.rf_paused (table_name, since_us, paused_by) VALUES (?, ?, ?)", values)


def note_resumed(connection: sqlite3.Connection, names: Sequence[str]) -> None:
    """Note that tables are no longer paused, and that their rows wait to be compared."""
    for name in names:
        if connection.execute("DELETE FROM main.rf_paused WHERE table_name = ?", (name,)).rowcount:
            again = "UPDATE main.rf_table SET compared = 'again' WHERE name = ? AND compared = 'done'"
            connection.execute(again, (name,))


def uncompared(connection: sqlite3.Connection) -> frozenset[int]:
    """Return the numbers of the tables whose rows wait to be compared with their digests."""
    query = "SELECT table_id FROM main.rf_table WHERE compared = 'again'"
    return frozenset(table_id for (table_id,) in connection.execute(query).fetchall())


def written_meanwhile(
    connection: sqlite3.Connection, table: SqliteTable, table_id: int, keys: Sequence[Row]
) -> list[Row]:
    """Return those keys whose rows are not as they were last sealed or applied. Needs the write lock."""
    shape = stored_shape(table.shape)
    shape_id = registered(connection, shape)
    if shape_id is None:
        return list(keys)
    texts = [key_text(key) for key in keys]
    known, _ = KnownDigests().of(connection, table_id, Captured(shape_id, shape), texts)
    rows = TableRows(connection, table).find(keys, [column.name for column in shape.columns])
    found: list[Row] = []
    for key, text, row in zip(keys, texts, rows, strict=True):
        now = None if row is None else digest(shape_id, row)
        if known.get(text) != now:
            found.append(key)
    return found
