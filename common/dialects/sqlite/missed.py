"""Finds what was written while capture was off or did not fit: rows are compared with their digests, page by page.

What differs gets a touch of its own, so it is sealed like any other change. Nothing is locked while nothing differs."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from common.clock import SystemClock
from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import transaction
from common.dialects.sqlite.digests import Passage, digest, shape_of
from common.dialects.sqlite.incoming import unescape
from common.dialects.sqlite.known import NOT_KNOWN
from common.dialects.sqlite.names import log_table, quote
from common.dialects.sqlite.passages import lost_names, passage_to
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import TouchLog, stored_shape
from common.dialects.sqlite.touches import LONG_AGO, MISSED, NOW
from common.dialects.sqlite.values import Row, Value, key_text, placeholders

_ROWS_A_PAGE = 500
_BYTES_A_PAGE = 4 * 1024 * 1024
_PAGES_A_STEP = 10
_json = msgspec.json.Encoder()
_DIGESTS = (
    "SELECT v.key, v.digest, v.deleted, v.node_id = ? AND v.hlc >= ?"
    " FROM json_each(?) AS asked CROSS JOIN main.rf_row_version AS v"
    " ON likelihood(v.table_id = ?, 0.000001) AND v.key = asked.value"
)
_RECORDS = (
    "SELECT key, deleted FROM main.rf_row_version WHERE table_id = ? AND key > ?"
    " AND (NOT deleted OR ? AND node_id = ? AND hlc >= ?)"
    " AND NOT EXISTS (SELECT 1 FROM main.rf_stepped_back AS s JOIN main.rf_table AS t ON t.name = s.table_name"
    " WHERE t.table_id = rf_row_version.table_id AND s.key = rf_row_version.key) ORDER BY key LIMIT ?"
)
"""A row that steps back has a record and no row, and nobody deleted it."""
_RECENT_US = 86_400_000_000
"""So long schemas of nodes may differ: what this node wrote under a name that another had dropped is sent again."""
_REMEMBER = (
    "INSERT INTO main.rf_row_version (table_id, key, main_epoch, hlc, node_id, base_epoch, base_hlc, base_node,"
    " deleted, digest) VALUES (?, ?, 0, 0, '', 0, 0, '', 0, ?)"
    " ON CONFLICT (table_id, key) DO UPDATE SET digest = excluded.digest"
)


@dataclass(frozen=True, slots=True)
class _Task:
    """One table to compare."""

    table_id: int
    table: SqliteTable
    log: TouchLog
    first: bool
    """No digests yet: they are taken from the rows as they stand. Else the rows are compared with them."""


@dataclass(frozen=True, slots=True)
class _Place:
    """How far one table is compared. A schema that changed meanwhile makes it worthless."""

    table_id: int
    schema_version: int
    after: Row | None = None
    """The last row seen, by what rows are ordered by."""
    gone_after: str | None = None
    """All rows are seen; the last record seen, of those that may have no row any more."""
    done: bool = False


@dataclass(frozen=True, slots=True)
class _Page:
    """What one look at some rows found."""

    next: _Place
    digests: list[tuple[str, bytes]]
    """To be remembered, by key."""
    missed: list[Row]
    """Keys of rows that somebody wrote unseen."""
    reshaped: list[Row]
    """Keys of rows that have nothing else than a migration gave them, or that were sent under a name that is gone."""


class Comparison:
    """Compares the tables of one database that wait for it. How far it is this object alone knows; another begins anew.

    `first_only`: only take the digests that are still missing. `node_id`: whose own writes may be sent again."""

    def __init__(self, schemas: SchemaCache, *, first_only: bool = False, node_id: str = "") -> None:
        self._schemas = schemas
        self._node_id = node_id
        self._first_only = first_only
        self._place: _Place | None = None
        self._passages: dict[tuple[int, int], Passage | None] = {}

    def step(self, connection: sqlite3.Connection) -> bool:
        """Compare some pages; True when there was something to compare. Raises sqlite3.Error."""
        for pages in range(_PAGES_A_STEP):
            if not self._page_done(connection):
                return pages > 0
        return True

    def _page_done(self, connection: sqlite3.Connection) -> bool:
        with transaction(connection, "BEGIN"):
            task = self._task(connection)
            if task is None:
                return False
            page = self._look(connection, task, self._place_in(connection, task))
        if page.digests or page.missed or page.reshaped or page.next.done:
            # Once more under the lock: meanwhile somebody may have written, or changed the table.
            with transaction(connection):
                task = self._task(connection)
                if task is None:
                    return False
                page = self._look(connection, task, self._place_in(connection, task))
                self._store(connection, task, page)
        self._place = None if page.next.done else page.next
        return True

    def _task(self, connection: sqlite3.Connection) -> _Task | None:
        pending = connection.execute(
            "SELECT table_id, compared FROM main.rf_table WHERE compared <> 'done' AND shape_id IS NOT NULL"
            " AND name NOT IN (SELECT table_name FROM main.rf_paused)"
        ).fetchall()
        if not pending:
            return None
        logs, tables = self._schemas.touch_logs(connection), self._schemas.read(connection).tables
        for table_id, compared in pending:
            mine = [log for log in logs if log.table_id == table_id]
            log = next((log for log in mine if log.current), None)
            table = None if log is None else tables.get(log.shape.table)
            if log is None or table is None or stored_shape(table.shape) != log.shape:
                continue
            first = compared == "first"
            if first or not (self._first_only or any(_has_touches(connection, one) for one in mine if one is not log)):
                return _Task(table_id, table, log, first)
        return None

    def _place_in(self, connection: sqlite3.Connection, task: _Task) -> _Place:
        version = int(connection.execute("PRAGMA main.schema_version").fetchone()[0])
        place = self._place
        if place is None or (place.table_id, place.schema_version) != (task.table_id, version):
            place = self._place = _Place(task.table_id, version)
        return place

    def _look(self, connection: sqlite3.Connection, task: _Task, place: _Place) -> _Page:
        if place.gone_after is not None:
            return self._gone(connection, task, place, place.gone_after)
        rows, after = _rows(connection, task, place.after)
        known, older, again = self._known(connection, task, [key for key, _, _ in rows])
        digests: list[tuple[str, bytes]] = []
        missed: list[Row] = []
        reshaped: list[Row] = []
        for text, key, now in rows:
            if task.first:
                if not known.get(text):
                    digests.append((text, now))
            elif (before := known.get(text)) != now:
                passage = older.get(text)
                only_reshaped = passage is not None and before is not None and passage.is_only_reshaped(before, now)
                (reshaped if only_reshaped else missed).append(key)
            elif text in again:
                reshaped.append(key)
            elif text in older:
                digests.append((text, now))
        if after is not None:
            next_place = _Place(place.table_id, place.schema_version, after)
        else:
            next_place = _Place(place.table_id, place.schema_version, gone_after="", done=task.first)
        return _Page(next_place, digests, missed, reshaped)

    def _known(
        self, connection: sqlite3.Connection, task: _Task, keys: Sequence[str]
    ) -> tuple[dict[str, bytes | None], dict[str, Passage | None], set[str]]:
        """Return the digests of these keys as the current shape has them, of a tombstone None; which of them are older;
        and which were sent by this node lately, under a name that is gone."""
        known: dict[str, bytes | None] = {}
        older: dict[str, Passage | None] = {}
        again: set[str] = set()
        given = (self._node_id, _recent_us(), _json.encode(keys).decode(), task.table_id)
        for key, stored, deleted, is_recent in connection.execute(_DIGESTS, given):
            if deleted:
                known[key] = None
            elif stored is None:
                known[key] = NOT_KNOWN
            elif shape_of(stored) == task.log.shape_id:
                known[key] = stored
            else:
                passage = older[key] = self._passage(connection, task, shape_of(stored))
                known[key] = NOT_KNOWN if passage is None else passage.translate(stored)
                if is_recent and passage is not None and passage.loses_names:
                    again.add(key)
        return known, older, again

    def _passage(self, connection: sqlite3.Connection, task: _Task, made_under: int) -> Passage | None:
        both = (made_under, task.log.shape_id)
        if both not in self._passages:
            self._passages[both] = passage_to(connection, made_under, task.log.shape_id, task.log.shape)
        return self._passages[both]

    def _gone(self, connection: sqlite3.Connection, task: _Task, place: _Place, after: str) -> _Page:
        given = (task.table_id, after, lost_names(connection, task.log), self._node_id, _recent_us(), _ROWS_A_PAGE)
        records = connection.execute(_RECORDS, given).fetchall()
        keys = [_key(text) for text, _ in records]
        found = TableRows(connection, task.table).find(keys, ())
        gone = [(key, deleted) for key, (_, deleted), row in zip(keys, records, found, strict=True) if row is None]
        missed = [key for key, deleted in gone if not deleted]
        again = [key for key, deleted in gone if deleted]
        last = records[-1][0] if records else after
        done = len(records) < _ROWS_A_PAGE
        return _Page(_Place(place.table_id, place.schema_version, gone_after=last, done=done), [], missed, again)

    def _store(self, connection: sqlite3.Connection, task: _Task, page: _Page) -> None:
        connection.executemany(_REMEMBER, ((task.table_id, key, now) for key, now in page.digests))
        columns = ", ".join(f"c{place}" for place in task.log.key_places)
        into = f"INSERT INTO main.{log_table(task.log.shape_id)} (kind, at, {columns})"
        found = [(key, NOW) for key in page.missed] + [(key, LONG_AGO) for key in page.reshaped]
        for key, when in found:
            values = ", ".join(placeholders(key))
            connection.execute(f"{into} VALUES ('{MISSED}', {when}, {values})", key)
        if page.next.done:
            connection.execute("UPDATE main.rf_table SET compared = 'done' WHERE table_id = ?", (task.table_id,))


def _rows(
    connection: sqlite3.Connection, task: _Task, after: Row | None
) -> tuple[list[tuple[str, Row, bytes]], Row | None]:
    """Return some rows (key as text, key, digest), and the place of the last one; None after the last of all."""
    table = task.table
    order = _order(table)
    names = [quote(column.name) for column in table.shape.written]
    wanted = ", ".join((*order, *map(quote, table.shape.pk), *names))
    past = "" if after is None else f" WHERE ({', '.join(order)}) > ({', '.join(placeholders(after))})"
    cursor = connection.execute(
        f"SELECT {wanted} FROM main.{quote(table.shape.bare)}{past} ORDER BY {', '.join(order)} LIMIT {_ROWS_A_PAGE}",
        after or (),
    )
    found: list[tuple[str, Row, bytes]] = []
    width, last, seen, size = len(table.shape.pk), after, 0, 0
    for row in cursor:
        last, seen = row[: len(order)], seen + 1
        key, values = row[len(order) : len(order) + width], row[len(order) + width :]
        if None not in key:
            found.append((key_text(key), key, digest(task.log.shape_id, values)))
        size += sum(len(value) for value in values if isinstance(value, (str, bytes)))
        if size > _BYTES_A_PAGE:
            cursor.close()
            return found, last
    return found, last if seen == _ROWS_A_PAGE else None


def _recent_us() -> int:
    return SystemClock().now_us() - _RECENT_US


def _order(table: SqliteTable) -> list[str]:
    """Return the columns that go through the table from end to end, each row once."""
    if table.rowid is not None:
        return [table.rowid]
    return [quote(name) for name in table.shape.pk]


def _has_touches(connection: sqlite3.Connection, log: TouchLog) -> bool:
    return connection.execute(f"SELECT 1 FROM main.{log_table(log.shape_id)} LIMIT 1").fetchone() is not None


def _key(text: str) -> Row:
    """Return the key that `key_text` wrote."""
    values: list[Value] = []
    for part in msgspec.json.decode(text, type=list[int | str | dict[str, object]]):
        values.append(unescape(part) if isinstance(part, dict) else part)
    return tuple(values)
