"""Keys of this node's share (`tables.keys = "stride"`), for tables with AUTOINCREMENT.

SQLite gives a new row the key after the largest one that stands or stood, whoever gave that. So what is steered is
where it goes on from: `sqlite_sequence` is set to just before a chunk of this node that lies above all keys that stand.
It is done in the transaction in which others' rows come, and when a chunk is half used.
"""

import sqlite3
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.guards import Step, has_table, refuse
from common.dialects.sqlite.names import bare_name, literal, quote, wire_name
from common.ports.key_share import KeyShare
from common.ports.rules import used_up_refusal

KEY_RANGE = "rf_key_range"
KEY_RANGE_DDL = (
    f"CREATE TABLE {KEY_RANGE} (name TEXT NOT NULL PRIMARY KEY, bare TEXT NOT NULL, rowid_name TEXT NOT NULL,"
    " number INTEGER NOT NULL, nodes INTEGER NOT NULL, bits INTEGER NOT NULL, before INTEGER) WITHOUT ROWID"
)
"""The tables whose keys are of this node's share. `before`: where SQLite's own counting was; it is put back."""


class KeyRange(NamedTuple):
    """One such table."""

    name: str
    """By which the rules name it, on the wire: of a table that was renamed since, its name before."""
    bare: str
    rowid_name: str
    share: KeyShare
    before: int | None


def read_ranges(connection: sqlite3.Connection) -> dict[str, KeyRange]:
    """Return what is steered, by the tables' names on the wire."""
    if not has_table(connection, KEY_RANGE):
        return {}
    rows = connection.execute(f"SELECT name, bare, rowid_name, number, nodes, bits, before FROM main.{KEY_RANGE}")
    return {
        name: KeyRange(name, bare, rowid, KeyShare(number, nodes, bits), before)
        for name, bare, rowid, number, nodes, bits, before in rows.fetchall()
    }


def going_along(
    ranges: Collection[KeyRange], stride: Collection[str], tables: Collection[str], renamed: Mapping[str, str]
) -> dict[str, str]:
    """Return which tables keep their share under a new name, while the rules still know the old one alone.

    Of each its name and the one that the rules have; `renamed`: names now, by those before, of what was just found."""
    found = {}
    for one in ranges:
        before = wire_name(one.bare)
        now = renamed.get(before, before)
        if one.name in stride and one.name not in tables and now in tables and now not in stride:
            found[now] = one.name
    return found


def share_goes_along(connection: sqlite3.Connection, old: str, now: str) -> list[str]:
    """Return the statements after which a table's share is known to be of its new name; both as on the wire."""
    if not has_table(connection, KEY_RANGE):
        return []
    return [f"UPDATE main.{KEY_RANGE} SET bare = {literal(bare_name(now))} WHERE bare = {literal(bare_name(old))}"]


def steering(
    connection: sqlite3.Connection, table: SqliteTable, share: KeyShare, known_as: str | None = None
) -> Iterator[str]:
    """Yield the statements after which the table's next key is of `share`; none where all stands.

    `known_as`: what the rules call it, where that is not its name."""
    name, bare = known_as or table.shape.name, table.shape.bare
    known = read_ranges(connection).get(name)
    wanted = KeyRange(name, bare, _rowid_name(table), share, known.before if known else _counted(connection, bare))
    if known != wanted:
        before = "NULL" if wanted.before is None else wanted.before
        values = f"{literal(name)}, {literal(bare)}, {literal(wanted.rowid_name)}"
        yield f"DELETE FROM {KEY_RANGE} WHERE name = {literal(name)}"
        yield (f"INSERT INTO {KEY_RANGE} VALUES ({values}, {share.number}, {share.nodes}, {share.bits}, {before})")
    following = _largest(connection, wanted) + 1
    if not share.in_chunk(following):
        yield from _go_on(connection, wanted)


def putting_back(connection: sqlite3.Connection, keep: Collection[str]) -> Iterator[str]:
    """Yield the statements after which tables that are not in `keep` are counted by SQLite alone again."""
    for one in read_ranges(connection).values():
        if one.name in keep:
            continue
        if has_table(connection, one.bare) and wire_name(one.bare) not in keep:
            largest = max(one.before or 0, _largest_row(connection, one))
            yield f"UPDATE sqlite_sequence SET seq = {largest} WHERE name = {literal(one.bare)}"
        yield f"DELETE FROM {KEY_RANGE} WHERE name = {literal(one.name)}"


def go_on_where_needed(connection: sqlite3.Connection, names: Collection[str]) -> None:
    """Within a write transaction that gave these tables rows: have their next keys be of this node's share again.

    Also where more than half of a chunk is used, so that what comes next finds room."""
    if not names:
        return
    for one in read_ranges(connection).values():
        if wire_name(one.bare) not in names or not has_table(connection, one.bare):
            continue
        following = _largest(connection, one) + 1
        if not one.share.in_chunk(following) or one.share.room(following) * 2 < one.share.chunk:
            for statement in _go_on(connection, one):
                connection.execute(statement)


def used_up_step(table: SqliteTable, share: KeyShare) -> Step:
    """Return the trigger that refuses a row whose key SQLite would take from another node's share."""
    name, column = quote(table.shape.bare), quote(table.rowid_alias or "")
    counted = f"SELECT seq FROM sqlite_sequence WHERE name = {literal(table.shape.bare)}"
    largest = f"max(coalesce((SELECT max({column}) FROM {name}), 0), coalesce(({counted}), 0))"
    # Not counted from one key further: that may be one too many for an integer.
    at = f"({largest} - {share.lower_end - 1})"
    own = (
        f"{largest} >= {share.lower_end - 1} AND {largest} < {share.last}"
        f" AND {at} / {share.chunk} % {share.nodes} = {share.number - 1}"
    )
    when = f" WHEN NEW.{column} = -1 AND NOT ({own})"
    return Step("BEFORE INSERT", when, [refuse(used_up_refusal(table.shape.name))])


def _go_on(connection: sqlite3.Connection, one: KeyRange) -> Iterator[str]:
    start = one.share.next_chunk(_largest(connection, one))
    if start is None:
        # Used up for good: the guard says so to whoever inserts.
        return
    if _counted(connection, one.bare) is None:
        yield f"INSERT INTO sqlite_sequence (name, seq) VALUES ({literal(one.bare)}, {start - 1})"
    else:
        yield f"UPDATE sqlite_sequence SET seq = {start - 1} WHERE name = {literal(one.bare)}"


def _largest(connection: sqlite3.Connection, one: KeyRange) -> int:
    return max(_counted(connection, one.bare) or 0, _largest_row(connection, one))


def _largest_row(connection: sqlite3.Connection, one: KeyRange) -> int:
    query = f"SELECT max({one.rowid_name}) FROM main.{quote(one.bare)}"
    return max(connection.execute(query).fetchone()[0] or 0, 0)


def _counted(connection: sqlite3.Connection, bare: str) -> int | None:
    row = connection.execute("SELECT seq FROM main.sqlite_sequence WHERE name = ?", (bare,)).fetchone()
    return None if row is None else int(row[0])


def _rowid_name(table: SqliteTable) -> str:
    """A name of the rowid that stays whatever the key's column is called."""
    taken = {name.lower() for name in table.columns}
    free = (name for name in ("rowid", "_rowid_", "oid") if name not in taken)
    return next(free, quote(table.rowid_alias or ""))
