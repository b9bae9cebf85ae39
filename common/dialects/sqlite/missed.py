"""Finds what was written while capture was off or did not fit: rows are compared with their digests, page by page.

What differs gets a touch of its own, so it is sealed like any other change. Nothing is locked while nothing differs."""

import sqlite3
from dataclasses import dataclass

import msgspec

from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import transaction
from common.dialects.sqlite.digests import digest
from common.dialects.sqlite.incoming import unescape
from common.dialects.sqlite.known import Captured, KnownDigests
from common.dialects.sqlite.names import log_table, quote
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import TouchLog, stored_shape
from common.dialects.sqlite.touches import MISSED
from common.dialects.sqlite.values import Row, Value, key_text, placeholders

_ROWS_A_PAGE = 500
_BYTES_A_PAGE = 4 * 1024 * 1024
_PAGES_A_STEP = 10
_RECORDS = "SELECT key FROM main.rf_row_version WHERE table_id = ? AND key > ? AND NOT deleted ORDER BY key LIMIT ?"
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


class Comparison:
    """Compares the tables of one database that wait for it. Where it stands is this object's own; another begins anew.

    `first_only`: only take the digests that are still missing."""

    def __init__(self, schemas: SchemaCache, *, first_only: bool = False) -> None:
        self._schemas = schemas
        self._first_only = first_only
        self._place: _Place | None = None
        self._digests = KnownDigests()

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
        if page.digests or page.missed or page.next.done:
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
        known, older = self._digests.of(
            connection, task.table_id, Captured(task.log.shape_id, task.log.shape), [key for key, _, _ in rows]
        )
        digests, missed = [], []
        for text, key, now in rows:
            if task.first:
                if not known.get(text):
                    digests.append((text, now))
            elif known.get(text) != now:
                missed.append(key)
            elif text in older:
                digests.append((text, now))
        if after is not None:
            next_place = _Place(place.table_id, place.schema_version, after)
        else:
            next_place = _Place(place.table_id, place.schema_version, gone_after="", done=task.first)
        return _Page(next_place, digests, missed)

    def _gone(self, connection: sqlite3.Connection, task: _Task, place: _Place, after: str) -> _Page:
        texts = [text for (text,) in connection.execute(_RECORDS, (task.table_id, after, _ROWS_A_PAGE)).fetchall()]
        keys = [_key(text) for text in texts]
        found = TableRows(connection, task.table).find(keys, ())
        missed = [key for key, row in zip(keys, found, strict=True) if row is None]
        last = texts[-1] if texts else after
        done = len(texts) < _ROWS_A_PAGE
        return _Page(_Place(place.table_id, place.schema_version, gone_after=last, done=done), [], missed)

    def _store(self, connection: sqlite3.Connection, task: _Task, page: _Page) -> None:
        connection.executemany(_REMEMBER, ((task.table_id, key, found) for key, found in page.digests))
        columns = ", ".join(f"c{place}" for place in task.log.key_places)
        into = f"INSERT INTO main.{log_table(task.log.shape_id)} (kind, at, {columns})"
        for key in page.missed:
            values = ", ".join(placeholders(key))
            connection.execute(f"{into} VALUES ('{MISSED}', julianday('now'), {values})", key)
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
