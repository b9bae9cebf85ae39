"""Declared types, and what may cross between kinds of columns; what may not is refused, never changed."""

from __future__ import annotations

from typing import Any

import pytest

from common.dialects.sqlite.incoming import UnfitError, reader
from common.dialects.sqlite.types import Affinity, affinity_of, encoder, logical_type
from common.dialects.sqlite.values import RawText, Value


@pytest.mark.parametrize(
    ("declared", "logical", "affinity"),
    [
        ("INTEGER", "int", Affinity.INTEGER),
        ("unsigned big int", "int", Affinity.INTEGER),
        ("VARCHAR(20)", "text", Affinity.TEXT),
        ("CLOB", "text", Affinity.TEXT),
        ("", "bytes", Affinity.NONE),
        ("BLOB", "bytes", Affinity.NONE),
        ("double precision", "float", Affinity.REAL),
        ("NUMERIC(10, 2)", "decimal", Affinity.NUMERIC),
        ("bool", "bool", Affinity.NUMERIC),
        ("DATE", "date", Affinity.NUMERIC),
        ("datetime", "timestamp", Affinity.NUMERIC),
        ("TIMESTAMP(6) WITH TIME ZONE", "timestamptz", Affinity.NUMERIC),
        ("uuid", "uuid", Affinity.NUMERIC),
        ("JSONB", "json", Affinity.NUMERIC),
        ("INTERVAL", "interval", Affinity.INTEGER),
        ("STRING", "text", Affinity.NUMERIC),
    ],
)
def test_declared_types(declared: str, logical: str, affinity: Affinity) -> None:
    assert (logical_type(declared, strict=False), affinity_of(declared, strict=False)) == (logical, affinity)


def test_any_is_free_only_in_a_strict_table() -> None:
    assert affinity_of("ANY", strict=True) is Affinity.NONE
    assert affinity_of("ANY", strict=False) is Affinity.NUMERIC


@pytest.mark.parametrize(
    ("logical", "value", "wire"),
    [
        ("int", 2**63 - 1, 2**63 - 1),
        ("int", "x", {"$text": "eA=="}),
        ("int", 1.5, {"$float": 1.5}),
        ("float", float("-inf"), "-Infinity"),
        ("float", 7, {"$int": 7}),
        ("decimal", 10**18, "1000000000000000000"),
        ("decimal", 0.1, "0.1"),
        ("decimal", float("inf"), {"$float": "Infinity"}),
        ("bool", 1, True),
        ("bool", 2, {"$int": 2}),
        ("text", "a\0b", "a\0b"),
        ("text", RawText(b"\xff"), {"$text": "/w=="}),
        ("bytes", b"\x00", "AA=="),
        ("bytes", "a", {"$text": "YQ=="}),
        ("timestamp", "2026-02-28 10:20:30.5", "2026-02-28T10:20:30.5"),
        ("timestamp", "2026-02-28T10:20:30", {"$text": "MjAyNi0wMi0yOFQxMDoyMDozMA=="}),
        ("timestamp", "2026-02-30 10:20:30", {"$text": "MjAyNi0wMi0zMCAxMDoyMDozMA=="}),
        ("timestamptz", "2026-02-28 10:20:30+02:00", "2026-02-28T10:20:30+02:00"),
        ("uuid", "0192f000-0000-7000-8000-000000000001", "0192f000-0000-7000-8000-000000000001"),
        ("json", 5, "5"),
        ("json", None, None),
        ("json", "null", "null"),
    ],
)
def test_what_travels(logical: str, value: Value, wire: object) -> None:
    assert encoder(logical)(value) == wire


@pytest.mark.parametrize(
    ("logical", "affinity", "wire", "stored"),
    [
        ("int", Affinity.TEXT, 5, "5"),
        ("int", Affinity.REAL, 5, 5.0),
        ("float", Affinity.INTEGER, 5.0, 5),
        ("float", Affinity.TEXT, 0.1, "0.1"),
        ("float", Affinity.REAL, 5, 5.0),
        ("float", Affinity.REAL, 1152921504606847000, 2.0**60),
        ("float", Affinity.REAL, 2**60, 2.0**60),
        ("bool", Affinity.INTEGER, True, 1),
        ("decimal", Affinity.NUMERIC, "12.50", 12.5),
        ("decimal", Affinity.NUMERIC, "100.00", 100),
        ("decimal", Affinity.TEXT, "12.50", "12.50"),
        ("decimal", Affinity.TEXT, "NaN", "NaN"),
        ("decimal", Affinity.NUMERIC, "Infinity", float("inf")),
        ("timestamp", Affinity.NUMERIC, "2026-02-28T10:20:30.5", "2026-02-28 10:20:30.5"),
        ("timestamp", Affinity.NUMERIC, "infinity", "infinity"),
        ("json", Affinity.NUMERIC, "[1, 2]", "[1, 2]"),
        ("json", Affinity.NUMERIC, "17", 17),
        ("pg:int4range", Affinity.TEXT, "[1,5)", "[1,5)"),
        ("float", Affinity.TEXT, "-Infinity", "-Infinity"),
        ("float", Affinity.TEXT, 1e300, "1e+300"),
        ("text", Affinity.TEXT, {"$float": 0.1 + 0.2}, "0.30000000000000004"),
        ("text", Affinity.NONE, {"$float": 0.1 + 0.2}, 0.1 + 0.2),
        ("text", Affinity.NUMERIC, "five", "five"),
        ("int", Affinity.INTEGER, {"$text": "/w=="}, RawText(b"\xff")),
    ],
)
def test_what_other_kinds_of_columns_take(logical: str, affinity: Affinity, wire: Any, stored: Value) -> None:
    found = reader(logical, affinity)(wire)
    assert (type(found), found) == (type(stored), stored)


@pytest.mark.parametrize(
    ("logical", "affinity", "wire"),
    [
        ("int", Affinity.INTEGER, 2**63),
        ("int", Affinity.INTEGER, True),
        ("int", Affinity.INTEGER, "5"),
        ("int", Affinity.REAL, 2**53 + 1),
        ("int", Affinity.REAL, 1152921504606847000),
        ("float", Affinity.REAL, "NaN"),
        ("float", Affinity.REAL, 2**60 + 1),
        ("float", Affinity.REAL, 10**400),
        ("decimal", Affinity.NUMERIC, "12345678901234567890.12"),
        ("decimal", Affinity.NUMERIC, "0.1000000000000000055"),
        ("decimal", Affinity.NUMERIC, "1e999999999"),
        ("decimal", Affinity.NUMERIC, "NaN"),
        ("decimal", Affinity.NUMERIC, "ten"),
        ("decimal", Affinity.NUMERIC, "1_0"),
        ("decimal", Affinity.NUMERIC, "١"),
        ("decimal", Affinity.NUMERIC, " 1.5"),
        ("decimal", Affinity.NUMERIC, "sNaN"),
        ("text", Affinity.INTEGER, "5"),
        ("text", Affinity.REAL, " 5e1 "),
        ("text", Affinity.TEXT, 5),
        ("pg:numeric[]", Affinity.NUMERIC, "5"),
        ("json", Affinity.NUMERIC, "1.50"),
        ("bytes", Affinity.NONE, "not base64"),
        ("bool", Affinity.INTEGER, 1),
        ("text", Affinity.TEXT, {"$what": 1}),
        ("text", Affinity.TEXT, {"$int": 1, "$text": ""}),
        ("text", Affinity.TEXT, [1]),
    ],
)
def test_what_would_change_silently_is_refused(logical: str, affinity: Affinity, wire: Any) -> None:
    with pytest.raises(UnfitError):
        reader(logical, affinity)(wire)
