"""Digests of rows as they were last sealed or applied: four bytes a column, under the number of the row's shape.

A number for each column, not one for the row: so they still tell when columns come, go or get another name."""

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from common.dialects.sqlite.catalog import SqliteTable
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import StoredShape, TouchLog, read_shape, stored_shape
from common.dialects.sqlite.values import Row, Value

UNKNOWN = 0
"""In the place of a column whose value is not known: equals nothing."""
_INTEGER, _REAL, _TEXT, _BLOB, _NULL = 1, 2, 3, 4, 5
"""What each class begins with, so that 1, 1.0, '1' and x'31' differ."""
_real = struct.Struct("<d")


def number_of(value: Value) -> int:
    """Return a value's four bytes: equal values of one class have equal ones."""
    if value is None:
        return _NULL
    if isinstance(value, str):
        return crc32(value.encode(), _TEXT) or 1
    if isinstance(value, int):
        return crc32(b"%d" % value, _INTEGER) or 1
    if isinstance(value, float):
        return crc32(_real.pack(value), _REAL) or 1
    return crc32(value, _BLOB if value.__class__ is bytes else _TEXT) or 1


def digest(shape_id: int, row: Row) -> bytes:
    """Return the digest of a row whose columns are the shape's."""
    return struct.pack(f"<{len(row) + 1}I", shape_id, *map(number_of, row))


def digest_of_some(shape_id: int, names: Sequence[str], values: Mapping[str, Value]) -> bytes:
    """Return the digest of a row of which not every column is known."""
    numbers = [number_of(values[name]) if name in values else UNKNOWN for name in names]
    return struct.pack(f"<{len(names) + 1}I", shape_id, *numbers)


def shape_of(stored: bytes) -> int:
    """Return the number of the shape that a digest was made under."""
    return int(struct.unpack_from("<I", stored)[0])


@dataclass(frozen=True, slots=True)
class Passage:
    """From digests of an older shape to what the same rows would have under the current one."""

    shape_id: int
    places: tuple[int | None, ...]
    """Where each column stood before; None: it is new."""
    fresh: tuple[int, ...]
    """What a new column has in a row that nobody has written since."""
    kept: tuple[int, ...]
    """Places of the columns that are what they were, of the same type."""
    loses_names: bool
    """The table or a column has lost its name: who renamed or dropped it before can't take what was sent under it."""

    def translate(self, stored: bytes) -> bytes:
        """Return the digest that the row has now, if nobody wrote to it."""
        old = struct.unpack_from(f"<{len(stored) // 4 - 1}I", stored, 4)
        numbers = [new if place is None else old[place] for place, new in zip(self.places, self.fresh, strict=True)]
        return struct.pack(f"<{len(numbers) + 1}I", self.shape_id, *numbers)

    def is_only_reshaped(self, translated: bytes, now: bytes) -> bool:
        """Tell whether two digests under the current shape differ in columns alone that are new or have another type.

        A migration gives these their values, on each node by itself."""
        before, after = memoryview(translated).cast("I"), memoryview(now).cast("I")
        return all(before[place + 1] == after[place + 1] != UNKNOWN for place in self.kept)


def came_from(old: StoredShape, new: StoredShape) -> tuple[int | None, ...]:
    """Return where each column of `new` stood in `old`. One that has another name at the same place was renamed."""
    before = {column.name: place for place, column in enumerate(old.columns)}
    now = {column.name for column in new.columns}
    found: list[int | None] = []
    for place, column in enumerate(new.columns):
        known = before.get(column.name)
        if known is None and place < len(old.columns):
            rival = old.columns[place]
            if rival.name not in now and rival.declared == column.declared:
                known = place
        found.append(known)
    return tuple(found)


def same_key(old: StoredShape, new: StoredShape) -> bool:
    """Tell whether a row's key is the same in both shapes."""
    names = [column.name for column in new.columns]
    places = came_from(old, new)
    before = [column.name for column in old.columns]
    return [places[names.index(name)] for name in new.pk] == [before.index(name) for name in old.pk]


class RowDigests:
    """Digests of rows that an applier has just written.

    `paused`: the table may have another shape than it was captured with. Else there are none then: the row may hold
    what went by."""

    def __init__(
        self, connection: sqlite3.Connection, table: SqliteTable, logs: Sequence[TouchLog], *, paused: bool = False
    ) -> None:
        self._connection = connection
        self._table = table
        shape = stored_shape(table.shape)
        self._names = [column.name for column in shape.columns]
        current = (one.shape_id for one in logs if one.current and one.shape == shape)
        self._shape_id = registered(connection, shape) if paused else next(current, None)

    def of(self, written: Sequence[tuple[Row, Mapping[str, Value] | None]]) -> list[bytes | None]:
        """Return a digest for each key and image; None for no row, or where capture has another shape."""
        found: list[bytes | None] = [None] * len(written)
        if self._shape_id is None:
            return found
        names, shape_id = self._names, self._shape_id
        partly: list[int] = []
        for place, (_, image) in enumerate(written):
            if image is None:
                continue
            if len(image) == len(names):
                found[place] = digest(shape_id, tuple([image[name] for name in names]))
            else:
                partly.append(place)
        if partly:
            rows = TableRows(self._connection, self._table).find([written[place][0] for place in partly], names)
            for place, row in zip(partly, rows, strict=True):
                found[place] = None if row is None else digest(shape_id, row)
        return found


def registered(connection: sqlite3.Connection, shape: StoredShape) -> int | None:
    """Return the number of the shape that a table has now, given if it has none.

    None where the table was captured by another key, or never: what is known then says nothing of its rows."""
    found = connection.execute(
        "SELECT s.shape_id, s.table_id, s.shape FROM main.rf_shape s JOIN main.rf_table t USING (table_id)"
        " WHERE t.name = ? ORDER BY s.shape_id DESC LIMIT 1",
        (shape.table,),
    ).fetchone()
    if found is None:
        return None
    shape_id, table_id, text = found
    if text == shape.text():
        return int(shape_id)
    if not same_key(read_shape(text), shape):
        return None
    values = (table_id, shape.text())
    return connection.execute("INSERT INTO main.rf_shape (table_id, shape) VALUES (?, ?)", values).lastrowid
