"""Shapes as they were when capture was installed: a touch is always sealed under the shape it was written with."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from common.dialects.sqlite.types import Encoder, encoder, travels_as_it_is
from common.dialects.sqlite.values import Row, Value, is_float_zero, without_sign_of_zero
from common.ports.dialect import TableShape
from common.wire.records import TableMeta

_json = msgspec.json.Encoder()
LOG_COLUMNS = ("seq INTEGER PRIMARY KEY", "kind", "at")
"""A touch log's own, before those of the table."""
_LOG_TABLES = "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name GLOB 'rf_log_*'"


class StoredColumn(msgspec.Struct, frozen=True):
    """One column that travels."""

    name: str
    logical: str
    declared: str


class StoredShape(msgspec.Struct, frozen=True):
    """What stands in `rf_shape`: columns in the order of the touch log's `c0`, `c1`, …"""

    table: str
    bare: str
    pk: tuple[str, ...]
    columns: tuple[StoredColumn, ...]

    def text(self) -> str:
        """Return the shape as it is stored; equal shapes have equal texts."""
        return _json.encode(self).decode()

    @property
    def meta(self) -> TableMeta:
        """The table as a batch header describes it."""
        return TableMeta(pk=self.pk, columns={one.name: one.logical for one in self.columns})


def stored_shape(shape: TableShape) -> StoredShape:
    """Return what is remembered of a table."""
    columns = tuple(StoredColumn(one.name, one.logical, one.declared) for one in shape.written)
    return StoredShape(shape.name, shape.bare, shape.pk, columns)


@dataclass(frozen=True, slots=True)
class TouchLog:
    """One touch log with its shape; a table has more than one while touches of an older shape are not sealed."""

    shape_id: int
    table_id: int
    shape: StoredShape
    current: bool

    @property
    def key_places(self) -> tuple[int, ...]:
        """Where the key's columns stand among the columns."""
        names = [column.name for column in self.shape.columns]
        return tuple(names.index(name) for name in self.shape.pk)


class _ObjectEncoder:
    """Rows of certain columns to JSON objects. Which values need a look depends on the classes in a row alone, and few
    combinations of these occur: so the look is taken once a combination."""

    def __init__(self, columns: Sequence[StoredColumn]) -> None:
        self._names = tuple(column.name for column in columns)
        self._columns = [(column.logical, encoder(column.logical)) for column in columns]
        self._plans: dict[tuple[type, ...], list[tuple[int, Encoder]]] = {}

    def encode(self, row: Row) -> bytes:
        classes = tuple(map(type, row))
        plan = self._plans.get(classes)
        if plan is None:
            plan = self._plans[classes] = [
                (place, encode)
                for place, ((logical, encode), found) in enumerate(zip(self._columns, classes, strict=True))
                if not travels_as_it_is(logical, found)
            ]
        if not plan:
            return _json.encode(dict(zip(self._names, row, strict=True)))
        values: list[object] = list(row)
        for place, encode in plan:
            values[place] = encode(row[place])
        return _json.encode(dict(zip(self._names, values, strict=True)))


class ImageEncoder:
    """Rows of one shape to JSON objects."""

    def __init__(self, shape: StoredShape) -> None:
        by_name = {column.name: column for column in shape.columns}
        self._row = _ObjectEncoder(shape.columns)
        self._key = _ObjectEncoder([by_name[name] for name in shape.pk])
        self._columns = [(one.name, encoder(one.logical)) for one in shape.columns]

    def image(self, row: Row) -> bytes:
        """Return the row as the wire has it."""
        return self._row.encode(row)

    def pk(self, key: Row) -> bytes:
        """Return a key, its values in the order of the primary key, as the wire has it."""
        if any(map(is_float_zero, key)):
            key = tuple([without_sign_of_zero(value) for value in key])
        return self._key.encode(key)

    def some(self, values: Mapping[str, Value]) -> bytes:
        """Return the columns of this shape that `values` has: of a row that was written under another shape."""
        return _json.encode({name: encode(values[name]) for name, encode in self._columns if name in values})


def touch_logs(connection: sqlite3.Connection) -> list[TouchLog]:
    """Return every touch log that stands, older shapes first."""
    rows = connection.execute(
        "SELECT s.shape_id, s.table_id, s.shape, coalesce(t.shape_id = s.shape_id, 0)"
        " FROM main.rf_shape s JOIN main.rf_table t USING (table_id) ORDER BY s.shape_id"
    ).fetchall()
    # The schema has no index by name: to ask it for each log takes time by the square of their number.
    standing = {name for (name,) in connection.execute(_LOG_TABLES).fetchall()}
    return [
        TouchLog(shape_id, table_id, read_shape(shape), bool(current))
        for shape_id, table_id, shape, current in rows
        if f"rf_log_{shape_id}" in standing
    ]


def last_shapes(connection: sqlite3.Connection) -> dict[int, StoredShape]:
    """Return the shape that each table was last captured with, by the table's number."""
    rows = connection.execute("SELECT table_id, shape FROM main.rf_shape ORDER BY shape_id").fetchall()
    return {table_id: read_shape(shape) for table_id, shape in rows}


def read_shape(text: str) -> StoredShape:
    """Return the shape that was stored as `text`."""
    return msgspec.json.decode(text, type=StoredShape)
