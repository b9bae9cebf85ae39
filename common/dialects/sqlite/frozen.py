"""The database as it was sealed at one moment: one read transaction, less what is committed and not sealed."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import cast

import msgspec
import sqlalchemy as sa

from common.dialects.sqlite.backing_up import SqliteBackups
from common.dialects.sqlite.backlog import Backlog
from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import make_engine
from common.dialects.sqlite.copies import folder_beside
from common.dialects.sqlite.errors import translating
from common.dialects.sqlite.incoming import unescape
from common.dialects.sqlite.looking import Looker
from common.dialects.sqlite.looks import Look
from common.dialects.sqlite.names import quote
from common.dialects.sqlite.shapes import ImageEncoder, stored_shape
from common.dialects.sqlite.values import Row, Value, key_text
from common.dialects.sqlite.versions import Record, read_versions
from common.errors import ContentionError
from common.ports.dialect import ApplySession, NodeFacts, TableShape
from common.ports.snapshot import FrozenLook, FrozenRow
from common.versions import NEVER, Version

_ROWS_AT_A_TIME = 500
_ABSENT = Record(NEVER, NEVER, False)
_VERSION = "v.main_epoch, v.hlc, v.node_id, v.base_epoch, v.base_hlc, v.base_node"
_GONE = f"""
SELECT v.key, 1, {_VERSION} FROM main.rf_row_version AS v WHERE v.table_id = ?1 AND v.deleted
UNION ALL
SELECT v.key, 0, {_VERSION} FROM main.rf_stepped_back AS s
JOIN main.rf_row_version AS v ON v.table_id = ?1 AND v.key = s.key WHERE s.table_name = ?2 AND NOT v.deleted
"""


class SqliteSnapshots:
    """See `common.ports.snapshot.Snapshots`."""

    def __init__(self, engine: sa.Engine, path: str) -> None:
        self._engine = engine
        self._path = path

    @contextmanager
    def look(self, node: NodeFacts, tables: Sequence[TableShape]) -> Iterator[FrozenLook]:  # noqa: ARG002 nothing to hold
        """Look at the database as it is now; outside WAL, where a long look keeps writers waiting, at a copy of it."""
        with translating(), ExitStack() as stack:
            engine = self._engine if self._is_in_wal() else stack.enter_context(self._copied())
            connection = stack.enter_context(engine.connect())
            stack.enter_context(connection.begin())
            yield SqliteFrozenLook(connection, node)

    def hold(self, session: ApplySession, tables: Sequence[TableShape]) -> None:
        """Nothing to do: a file has one writer at a time."""

    def empty(self, session: ApplySession, tables: Sequence[TableShape]) -> None:
        """Take away all rows of these tables, and all versions."""
        raw = cast(sqlite3.Connection, session.connection.connection.driver_connection)
        with translating():
            for table in tables:
                # A row that nobody can name is nobody else's.
                named = " AND ".join(f"{quote(name)} IS NOT NULL" for name in table.pk)
                raw.execute(f"DELETE FROM main.{quote(table.bare)} WHERE {named}")
            raw.execute("DELETE FROM main.rf_row_version")

    def dangling(self, session: ApplySession, tables: Sequence[TableShape]) -> dict[str, int]:
        """Count by table the rows of all other tables that point to none."""
        raw = cast(sqlite3.Connection, session.connection.connection.driver_connection)
        own = {table.bare.lower() for table in tables}
        with translating():
            found = raw.execute("PRAGMA main.foreign_key_check").fetchall()
        return Counter(child for child, _, parent, _ in found if parent.lower() in own and child.lower() not in own)

    def count_on(self, session: ApplySession, tables: Sequence[TableShape]) -> list[str]:  # noqa: ARG002
        """Nothing to do: a rowid goes on above the largest, and a share of keys is looked at with each insert."""
        return []

    def _is_in_wal(self) -> bool:
        with self._engine.connect() as connection:
            return connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"

    @contextmanager
    def _copied(self) -> Iterator[sa.Engine]:
        with folder_beside(Path(self._path)) as folder:
            copy = folder / "copy.sqlite"
            SqliteBackups(self._path).copy(copy, lambda _: None)
            engine = make_engine(sa.URL.create("sqlite", database=str(copy)), create=False)
            try:
                yield engine
            finally:
                engine.dispose()


class SqliteFrozenLook:
    """See `common.ports.snapshot.FrozenLook`."""

    def __init__(self, connection: sa.Connection, node: NodeFacts) -> None:
        self._connection = connection
        self._raw = cast(sqlite3.Connection, connection.connection.driver_connection)
        schemas = SchemaCache()
        self._schema = schemas.read(self._raw)
        self._before = _before(Looker(schemas).look_within(self._raw, node.incarnation))

    @property
    def connection(self) -> sa.Connection:
        """The same moment."""
        return self._connection

    def pk_of(self, table: TableShape, key: str) -> bytes:
        """Return the key as the wire has it."""
        return ImageEncoder(stored_shape(table)).pk(_values(key))

    def rows(self, table: TableShape) -> Iterator[FrozenRow]:
        """Yield the table's rows as they were sealed last, and what is known of those that are gone."""
        known = self._schema.tables.get(table.name)
        found = self._raw.execute("SELECT table_id FROM main.rf_table WHERE name = ?", (table.name,)).fetchone()
        if known is None or found is None or stored_shape(known.shape) != stored_shape(table):
            raise ContentionError(f"{table.name} was altered a moment ago, or is not captured yet")
        with translating():
            encoder, table_id = ImageEncoder(stored_shape(table)), int(found[0])
            before = dict(self._before.get(table_id, {}))
            for page in self._pages(known):
                records = read_versions(self._raw, table_id, [key for key, _, _ in page])
                for key, pk, row in page:
                    row = before.pop(key)[1] if key in before else row
                    if row is not None:
                        yield _frozen(key, encoder.pk(pk), encoder.image(row), records.get(key, _ABSENT))
            restored = {key: (pk, row) for key, (pk, row) in before.items() if row is not None}
            records = read_versions(self._raw, table_id, list(restored))
            for key, (pk, row) in restored.items():
                yield _frozen(key, encoder.pk(pk), encoder.image(row), records.get(key, _ABSENT))
            for key, deleted, *version in self._raw.execute(_GONE, (table_id, table.name)):
                record = Record(Version(*version[:3]), Version(*version[3:]), bool(deleted))
                yield _frozen(key, encoder.pk(_values(key)), None, record)

    def _pages(self, table: SqliteTable) -> Iterator[list[tuple[str, Row, Row | None]]]:
        """Yield the rows that have a name: key, values of the key, and of all columns."""
        names = [*table.shape.pk, *(column.name for column in table.shape.written)]
        width = len(table.shape.pk)
        some = f"SELECT {', '.join(map(quote, names))} FROM main.{quote(table.shape.bare)}"
        cursor = self._raw.execute(some)
        while rows := cursor.fetchmany(_ROWS_AT_A_TIME):
            yield [(key_text(row[:width]), row[:width], row[width:]) for row in rows if None not in row[:width]]


def _before(look: Look | Backlog) -> dict[int, dict[str, tuple[Row, Row | None]]]:
    """Return by table, of each row with unsealed touches, its key and what it was before the first of them."""
    if isinstance(look, Backlog):
        look.drop()
        raise ContentionError("more was written than is held at once")
    found: dict[int, dict[str, tuple[Row, Row | None]]] = {}
    for one in look.logs:
        if not one.log.current or one.shape != one.log.shape:
            raise ContentionError(f"{one.log.shape.table} was altered a moment ago")
        rows = found.setdefault(one.log.table_id, {})
        for touched in one.touched:
            for key, touch in touched.touches.items():
                if touch.missed:
                    raise ContentionError(f"rows of {one.log.shape.table} are still being compared")
                rows.setdefault(key, (touch.key, touch.before))
    return found


def _values(key: str) -> Row:
    """Return the values that a canonical key stands for."""
    parts = msgspec.json.decode(key)
    return tuple([unescape(part) if isinstance(part, dict) else cast(Value, part) for part in parts])


def _frozen(key: str, pk: bytes, image: bytes | None, record: Record) -> FrozenRow:
    return FrozenRow(key, pk, image, record.version, record.base, record.deleted and image is None)
