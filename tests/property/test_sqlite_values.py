"""Every value that SQLite keeps comes back bit for bit in a column of the same type, whatever the column's type is."""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from common.dialects.sqlite.catalog import SqliteTable, read_schema
from common.dialects.sqlite.decoding import ImageDecoder
from common.dialects.sqlite.rows import TableRows
from common.dialects.sqlite.shapes import ImageEncoder, stored_shape
from common.dialects.sqlite.values import RawText, Value, key_text, read_text

_TYPES = (
    *("INTEGER", "BIGINT", "REAL", "DOUBLE PRECISION", "NUMERIC", "DECIMAL(10, 2)", "BOOLEAN", "TEXT", "VARCHAR(3)"),
    *("BLOB", "", "DATE", "TIME", "DATETIME", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE", "INTERVAL"),
    *("UUID", "JSON", "STRING", "ANY", "POINT"),
)
_COLUMNS = [f"c{place}" for place in range(len(_TYPES))]
_SQL = f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(map(' '.join, zip(_COLUMNS, _TYPES, strict=True)))})"

_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        [
            *("", "\0", "a\0b", "5", " 5 ", "1e5", "-0", "0x10", "9223372036854775808", "0.1", "1e400", "1.50"),
            *("nan", "Infinity", "NULL", "true", '{"a":1}', "\ufeff"),
            *(
                "2026-02-28",
                "2026-02-30",
                "0000-01-01",
                "２０２６-02-28",
                "10:20:30",
                "24:00:00",
                "10:20",
                "P1DT2H",
                "P",
            ),
            *("2026-02-28 10:20:30.5", "2026-02-28T10:20:30.5", "2026-02-28 10:20:30+02:00", "2026-02-28 10:20:30Z"),
            *("0192f000-0000-7000-8000-000000000001", "0192F000-0000-7000-8000-000000000001"),
        ]
    ),
    st.datetimes().map(str),
    st.dates().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.integers().map(str),
    st.floats().map(repr),
)
_INTS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63)]))
_FLOATS = st.one_of(
    st.floats(allow_nan=False),
    st.sampled_from([-0.0, 2.0**63, -(2.0**63), 1e17, 2.0**53, 5e-324, 0.1 + 0.2, float("inf"), float("-inf")]),
)
_VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(), _INTS, _FLOATS, _TEXTS, st.binary(max_size=12), st.binary(max_size=12).map(RawText)
)


def exact(value: object) -> object:
    """Return something that is equal only where class and bits are."""
    if isinstance(value, float):
        return ("real", struct.pack(">d", value))
    return (type(value).__name__, value)


def connection_with_table(sql: str) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.text_factory = read_text
    connection.execute(sql)
    return connection


def store(connection: sqlite3.Connection, values: list[Value]) -> None:
    marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, RawText) else "?" for value in values)
    connection.execute(f"INSERT INTO t VALUES (1, {marks})", values)


def table_of(connection: sqlite3.Connection) -> SqliteTable:
    return read_schema(connection).tables["t"]


@given(st.lists(_VALUES, min_size=len(_TYPES), max_size=len(_TYPES)))
def test_values_of_any_class_in_columns_of_any_type(values: list[Value]) -> None:
    with closing(connection_with_table(_SQL)) as here, closing(connection_with_table(_SQL)) as there:
        store(here, values)
        table = table_of(here)
        row = here.execute("SELECT * FROM t").fetchone()
        image = ImageEncoder(stored_shape(table.shape)).image(row)
        json.loads(image)
        found = ImageDecoder(table, table.shape.meta).image(image)
        TableRows(there, table).insert(tuple(found), [tuple(found.values())])
        copy = there.execute("SELECT * FROM t").fetchone()
        for name, declared, old, new in zip(("id", *_COLUMNS), ("", *_TYPES), row, copy, strict=True):
            assert exact(new) == exact(old), f"{name} {declared}"
            # What a value decodes to is what is stored: a key's text can be told before it is written.
            assert key_text([found[name]]) == key_text([old]), f"{name} {declared}"


@given(_VALUES, _VALUES)
def test_keys_have_one_text_only_where_class_and_bytes_are_one(left: Value, right: Value) -> None:
    zeros = left == 0 == right and type(left) is type(right) is float
    assert (key_text([left]) == key_text([right])) == (exact(left) == exact(right) or zeros)
