"""One row's own changes: its touches that wait, and its lines in the sealed log."""

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec
import sqlalchemy as sa

from common.dialects.sqlite.catalog import SchemaCache, SqliteTable
from common.dialects.sqlite.connection import borrowed, transaction
from common.dialects.sqlite.decoding import ImageDecoder
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import ImageEncoder, stored_shape, touch_logs
from common.dialects.sqlite.touches import at_us
from common.dialects.sqlite.values import Row, key_text
from common.dialects.sqlite.versions import Record, read_versions
from common.errors import PoisonError, Reason
from common.ports.dialect import TableShape
from common.ports.row_history import Captured, RowLook, Sealed
from common.versions import NEVER
from common.wire.records import Change, TableMeta

_change = msgspec.json.Decoder(Change)
_ABSENT = Record(NEVER, NEVER, False)
_LINES = """
SELECT c.incarnation, c.lsn, c.tx_id, t.exported_at, c.line FROM main.rf_change_log c JOIN main.rf_tx t USING (tx_id)
WHERE c.table_name = ? AND instr(c.line, ?) ORDER BY c.tx_id, c.lsn
"""
_WHAT = {
    "I": "insert",
    "K": "insert",
    "U": "update",
    "M": "update",
    "D": "delete",
    "X": "displaced",
    "B": "found by comparing",
}
"""By the kind of a touch; a choice is none of these."""


class SqliteRowHistory:
    """See `common.ports.row_history.RowHistory`."""

    def __init__(self, engine: sa.Engine, schemas: SchemaCache) -> None:
        self._engine = engine
        self._schemas = schemas

    def look(self, table: TableShape, pk: bytes) -> RowLook:
        """Return what is known of the row with this key, all of one moment."""
        with borrowed(self._engine) as connection, transaction(connection, "BEGIN"):
            known = self._table(connection, table)
            key = ImageDecoder(known, table.meta).key(pk)
            text = key_text(key)
            ids = connection.execute("SELECT table_id FROM rf_table WHERE name = ?", (table.name,)).fetchone()
            records = read_versions(connection, ids[0], [text]) if ids else {}
            record = records.get(text, _ABSENT)
            return RowLook(
                key=text,
                image=_image(connection, known, key),
                version=record.version,
                base=record.base,
                deleted=record.deleted,
                known=text in records,
                captured=tuple(_captured(connection, ids[0], text)) if ids else (),
                sealed=tuple(_sealed(connection, known, key)),
            )

    def keys(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> list[str]:
        """Return the canonical texts of keys as a sender wrote them."""
        with borrowed(self._engine) as connection:
            decoder = ImageDecoder(self._table(connection, table), meta)
        return [key_text(decoder.key(pk)) for pk in pks]

    def _table(self, connection: sqlite3.Connection, table: TableShape) -> SqliteTable:
        known = self._schemas.read(connection).tables.get(table.name)
        if known is None:
            raise PoisonError(Reason.UNKNOWN_TABLE, f"{table.name} is no longer here", table=table.name)
        return known


def _image(connection: sqlite3.Connection, table: SqliteTable, key: Row) -> bytes | None:
    names = [column.name for column in table.shape.written]
    row = TableRows(connection, table).find([key], names)[0]
    return None if row is None else ImageEncoder(stored_shape(table.shape)).image(row)


def _captured(connection: sqlite3.Connection, table_id: int, key: str) -> Iterator[Captured]:
    for log in touch_logs(connection):
        if log.table_id != table_id:
            continue
        places = ", ".join(f"c{place}" for place in log.key_places)
        query = f"SELECT kind, at, {places} FROM {log_table(log.shape_id)} ORDER BY seq"
        for kind, at, *touched in connection.execute(query).fetchall():
            if key_text(tuple(touched)) == key:
                yield Captured(at_us(at), _WHAT.get(kind, "choice"))


def _sealed(connection: sqlite3.Connection, table: SqliteTable, key: Row) -> Iterator[Sealed]:
    pk = ImageEncoder(stored_shape(table.shape)).pk(key)
    found = connection.execute(_LINES, (table.shape.name, b'"pk":' + pk)).fetchall()
    for incarnation, lsn, tx_id, sealed_at, line in found:
        change = _change.decode(line)
        # An image may hold what looks like a key.
        if bytes(change.pk) == pk:
            after = change.image
            yield Sealed(
                incarnation,
                lsn,
                tx_id,
                sealed_at,
                change.captured_at or "",
                change.op,
                change.version,
                change.base,
                after,
                change.resolves,
            )
