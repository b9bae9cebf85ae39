"""Which JSON a value of a type may be: at one look, one by one, and as somebody who reads the page would say."""

from __future__ import annotations

import base64
import binascii
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.wire.kinds import fits
from common.wire.records import TableMeta
from common.wire.row_form import row_form
from common.wire.unreadable import UNREADABLE

TYPES = (
    *("int", "decimal", "float", "bool", "text", "bytes", "date", "time", "timestamp", "timestamptz", "interval"),
    *("uuid", "json", "pg:int4range", "never heard of"),
)
_WORDS = ("NaN", "Infinity", "-Infinity")
strings = st.one_of(
    st.text(),
    st.sampled_from(
        [*_WORDS, "nan", "inf", "7", "1.5", "true", "t", "null", "AP8", "A P8=", "AP8=\n", "AP8==", "===="]
    ),
    st.binary(max_size=9).map(lambda raw: base64.b64encode(raw).decode()),
)
finite = st.floats(allow_nan=False, allow_infinity=False)
numbers = st.one_of(st.integers(), st.integers(-(2**63), 2**64), finite)
scalars = st.one_of(st.none(), st.booleans(), numbers, strings)
wrapped = st.dictionaries(
    st.sampled_from(["$int", "$float", "$text", "$bytes", "$other"]), scalars, min_size=1, max_size=2
)
values = st.one_of(
    scalars, wrapped, st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)


def is_base64(value: Any) -> bool:
    try:
        return isinstance(value, str) and base64.b64decode(value, validate=True) is not None
    except (binascii.Error, ValueError):
        return False


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_float(value: Any) -> bool:
    if isinstance(value, int) and is_number(value):
        return is_double(value)
    return is_number(value) or value in _WORDS


def is_double(value: int) -> bool:
    """All the digits of one, or as few as tell it from its neighbours."""
    try:
        nearest = float(value)
    except OverflowError:
        return False
    return int(nearest) == value or Decimal(repr(nearest)) == value


def is_of(logical: str, value: Any) -> bool:
    """docs/DB_SYNC_POLICY.md in Python."""
    if value is None:
        return True
    if isinstance(value, dict):
        kinds = {"$int": "int", "$float": "float", "$text": "bytes", "$bytes": "bytes"}
        (kind, inner), *more = value.items() if value else [("", None)]
        return not more and kind in kinds and not isinstance(inner, dict | None) and is_of(kinds[kind], inner)
    match logical:
        case "int":
            return isinstance(value, int) and not isinstance(value, bool)
        case "float":
            return is_float(value)
        case "bool":
            return isinstance(value, bool)
        case "bytes":
            return is_base64(value)
        case _:
            return isinstance(value, str)


@given(st.sampled_from(TYPES), values)
def test_a_value_is_of_its_type_or_not(logical: str, value: Any) -> None:
    assert fits(logical, json.dumps(value).encode()) == is_of(logical, value)


@given(st.dictionaries(st.text(min_size=1), st.sampled_from(TYPES), min_size=1), st.data())
def test_whole_images_are_told_as_their_values_are(columns: dict[str, str], data: st.DataObject) -> None:
    image = {name: data.draw(values) for name in columns}
    form = row_form(TableMeta(pk=("key",), columns=columns | {"key": "int"}))
    if form is None:
        assert any(json.dumps(name, ensure_ascii=False)[1:-1] != name for name in columns)
        return
    try:
        at_once = form.holds(b'{"key":7}', json.dumps(image | {"key": 7}).encode())
    except UNREADABLE:
        at_once = False
    assert at_once == all(fits(columns[name], json.dumps(image[name]).encode()) for name in columns if name != "key")


def spellings(value: float) -> list[str]:
    """Ways to write a number that languages have, none with more digits than its shortest form, or with all."""
    shortest = repr(value)
    number = Decimal(shortest)
    found = [shortest, f"{number:f}", f"{number:e}", f"{number:E}", f"{Decimal(value):f}"]
    # JavaScript writes a whole number below 1e21 without a point or exponent.
    return [*found, f"{number.to_integral_value():f}"] if value.is_integer() else found


def holds(logical: str, written: str) -> bool:
    form = row_form(TableMeta(pk=("key",), columns={"key": "int", "it": logical}))
    assert form is not None
    try:
        return form.holds(b'{"key":7}', b'{"key":7,"it":%s}' % written.encode())
    except UNREADABLE:
        return False


@given(finite)
def test_a_float_may_be_written_as_any_language_does(value: float) -> None:
    for written in spellings(value):
        for json_text in (written, f'{{"$float":{written}}}'):
            assert fits("float", json_text.encode()), json_text
            assert holds("float", json_text), json_text


NO_DOUBLES = ["1152921504606846977", "-9007199254740993", "1" + 400 * "0", "1e400", "1e-400", "2e-324", "-0.1E-0324"]
NO_DOUBLES += ["0." + 400 * "0" + "1", "0." + 300 * "0" + "1e-50"]


@pytest.mark.parametrize("written", NO_DOUBLES, ids=lambda one: one[:20])
@pytest.mark.parametrize("around", ["%s", '{"$float":%s}', ' {"$float" : %s } '])
def test_a_number_that_a_float_would_change_is_none(around: str, written: str) -> None:
    assert not fits("float", (around % written).encode())
    assert not holds("float", around % written)


@pytest.mark.parametrize(
    "written", ["0e-400", "-0.0E-999", "0." + 400 * "0", "3e-324", "1e-320", "0." + 300 * "0" + "1"]
)
def test_a_number_that_only_looks_so_is_a_float(written: str) -> None:
    assert fits("float", written.encode())
    assert holds("float", written)


@pytest.mark.parametrize("text", ["1e-400", "a:1e-400", "0e-4123"])
def test_text_may_hold_what_is_no_float(text: str) -> None:
    assert fits("text", json.dumps(text).encode())
