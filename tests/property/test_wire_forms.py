"""Values of two databases in the form that they share."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire.forms import Form, form_of, joint, reader


def read(logical: str, value: object, form: Form | None = None) -> Any:
    return reader(logical, form or form_of(logical))(value)


@pytest.mark.parametrize(
    ("form", "one", "other"),
    [
        (Form.NUMBER, ("decimal", "1.50"), ("float", 1.5)),
        (Form.NUMBER, ("decimal", "5.00"), ("int", 5)),
        (Form.NUMBER, ("decimal", "-0.00"), ("float", -0.0)),
        (Form.NUMBER, ("bool", True), ("int", 1)),
        (Form.NUMBER, ("text", "007.10"), ("decimal", "7.1")),
        (Form.NUMBER, ("float", 1e300), ("decimal", "1" + 300 * "0")),
        (Form.NUMBER, ("float", 5e-324), ("text", "5e-324")),
        (Form.NUMBER, ("int", {"$float": 2.5}), ("decimal", "2.5")),
        (Form.NUMBER, ("float", "NaN"), ("decimal", "NaN")),
        (Form.NUMBER, ("decimal", "9223372036854775808"), ("text", "+9223372036854775808.0")),
        (Form.TEXT, ("text", "5"), ("bytes", {"$int": 5})),
        (Form.TEXT, ("text", "é"), ("date", {"$text": "w6k="})),
        (Form.PADDED, ("text", "ab   "), ("text", "ab")),
        (Form.BYTES, ("bytes", "AAE="), ("text", {"$bytes": "AAE="})),
        (Form.TIME, ("time", "12:00:00.500"), ("time", "12:00:00.5")),
        (Form.TIMESTAMP, ("timestamp", "2026-11-23T09:00:00.100"), ("text", "2026-11-23 09:00:00.1")),
        (Form.TIMESTAMPTZ, ("timestamptz", "2026-11-23T09:00:00+02:00"), ("text", "2026-11-23 07:00:00Z")),
        (Form.TIMESTAMPTZ, ("timestamptz", "2026-01-01T00:30:00.5+01"), ("timestamp", "2025-12-31T23:30:00.500")),
        (Form.INTERVAL, ("interval", "P1Y2W"), ("text", "P12M14D")),
        (Form.INTERVAL, ("interval", "PT90M"), ("interval", "PT1H30M")),
        (Form.INTERVAL, ("interval", "PT-1.5S"), ("interval", "PT-1.500000S")),
        (
            Form.UUID,
            ("uuid", {"$text": "QTBFRUJDOTktOUMwQi00RUY4LUJCNkQtNkJCOUJEMzgwQTEx"}),
            ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ),
        (Form.JSON, ("json", '{"b":1.0, "a":[1e2]}'), ("text", '{"a": [100], "b": 1}')),
        (Form.JSON, ("json", '{"a":1,"a":2}'), ("json", '{"a":2}')),
    ],
)
def test_two_spellings_of_one_value_are_one(form: Form, one: tuple[str, Any], other: tuple[str, Any]) -> None:
    assert read(*one, form) == read(*other, form)


@pytest.mark.parametrize(
    ("logical", "one", "other"),
    [
        ("text", "1.50", "1.5"),
        ("text", "", None),
        ("text", "a ", "a"),
        ("decimal", "1.5", "1.51"),
        ("decimal", "1e999999", "1e999998"),
        ("decimal", "12345678901234567890.1", "12345678901234567890.2"),
        ("int", 2**53, 2**53 + 1),
        ("bytes", "AAE=", {"$text": "AAE="}),
        ("bytes", "AAE=", None),
        ("text", {"$text": "/w=="}, {"$text": "/g=="}),
        ("text", {"$text": "/w=="}, "/w=="),
        ("json", '{"a":"1"}', '{"a":1}'),
        ("json", "[1, 2]", "[2, 1]"),
        ("json", "null", None),
        ("interval", "P1M", "P30D"),
        ("interval", "P1D", "PT24H"),
        ("timestamptz", "2026-11-23T09:00:00+00:00", "2026-11-23T09:00:00.000001+00:00"),
        ("timestamp", "infinity", "-infinity"),
        ("pg:int4range", "[1,5)", "[1,6)"),
        ("bool", True, False),
        ("bool", False, None),
    ],
)
def test_two_values_are_two(logical: str, one: object, other: object) -> None:
    assert read(logical, one) != read(logical, other)


def test_text_gives_way_to_what_it_may_hold() -> None:
    for form in Form:
        assert joint(form, form) is form
        assert joint(form, Form.TEXT) is joint(Form.TEXT, form) is form
    assert joint(Form.TIMESTAMP, Form.TIMESTAMPTZ) is Form.TIMESTAMPTZ
    assert joint(Form.JSON, Form.UUID) is Form.TEXT


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.sampled_from(["int", "decimal", "text", "bytes", "json", "uuid", "interval", "timestamptz", "pg:x"]),
    st.sampled_from(Form),
    _ANY,
)
def test_whatever_comes_has_a_form(logical: str, form: Form, value: Any) -> None:
    """A peer's bytes may hold anything that JSON does: no value ends the comparison."""
    found = read(logical, value, form)
    assert json.dumps(found) is not None
    assert read(logical, value, form) == found


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6), st.integers(0, 8))
def test_zeros_at_the_end_of_a_decimal_say_nothing(value: Decimal, zeros: int) -> None:
    text = format(value, "f")
    more = text + ("" if "." in text else ".") + "0" * zeros
    assert read("decimal", text) == read("decimal", more)


@given(st.decimals(allow_nan=False, allow_infinity=False), st.decimals(allow_nan=False, allow_infinity=False))
def test_decimals_are_one_just_where_they_are_equal(one: Decimal, other: Decimal) -> None:
    if abs(one.adjusted()) < 900 and abs(other.adjusted()) < 900:
        assert (read("decimal", str(one)) == read("decimal", str(other))) is (one == other)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_and_its_digits_are_one(value: float) -> None:
    assert read("float", value) == read("decimal", repr(value))
