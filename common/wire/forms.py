"""Values in a form that two databases share, whatever their kind: what a digest is made of. Pure.

One row is spelled in more than one way: `1.50` and `1.5`, a time zone's offset or UTC, `true` and `1`. A column's form
says what counts of it. It follows from the logical types that both sides have for the column; what a form can't read
stays as it is written.
"""

import base64
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from math import isinf, isnan
from typing import TypeAlias

import msgspec

Plain: TypeAlias = "int | str | list[str] | None"
"""What is digested. A list: bytes and text that is not UTF-8, which are no text."""
Reader: TypeAlias = Callable[[object], Plain]


class Form(StrEnum):
    """What counts of a column's values."""

    NUMBER = "number"
    TEXT = "text"
    PADDED = "padded"
    """Text of which blanks at its end don't count: `char(n)` of PostgreSQL pads it."""
    BYTES = "bytes"
    TIME = "time"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    INTERVAL = "interval"
    UUID = "uuid"
    JSON = "json"


_FORMS = {
    **dict.fromkeys(("int", "decimal", "float", "bool"), Form.NUMBER),
    **{form.value: form for form in Form},
}
_WIDE = {
    frozenset({Form.TIMESTAMP, Form.TIMESTAMPTZ}): Form.TIMESTAMPTZ,
}
_INT64 = range(-(2**63), 2**63)
_sorted = msgspec.json.Encoder(order="sorted")


def form_of(logical: str) -> Form:
    """Return the form of a logical type; of a database's own type its text."""
    return _FORMS.get(logical, Form.TEXT)


def joint(one: Form, other: Form) -> Form:
    """Return the form in which columns of these two are compared: text gives way, since it may hold the other's."""
    if one is other or other is Form.TEXT:
        return one
    return other if one is Form.TEXT else _WIDE.get(frozenset({one, other}), Form.TEXT)


def reader(logical: str, form: Form) -> Reader:
    """Return what turns a value of a column, as the wire has it, into the form."""
    read = _READERS[form]
    if logical == "bytes":
        return lambda value: ["b", value] if isinstance(value, str) else read(_unwrapped(value))
    return lambda value: read(value) if value.__class__ is str or value.__class__ is int else read(_unwrapped(value))


def _unwrapped(value: object) -> object:
    """Return the value that an object of SQLite's names by its class; any other as it is."""
    if not isinstance(value, dict) or len(value) != 1:
        return value
    ((kind, inner),) = value.items()
    match kind, inner:
        case "$int" | "$float", _:
            return inner
        case "$bytes", str():
            return ["b", inner]
        case "$text", str():
            try:
                return base64.b64decode(inner, validate=True).decode()
            except ValueError:
                return ["t", inner]
        case _:
            return value


def _other(value: object) -> Plain:
    """Return what is no string in a form of strings."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(_number(value))
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return [*value]
    return ["?", _sorted.encode(value).decode()]


_INTEGER = re.compile(r"[+-]?\d{1,19}\Z", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,6})?\Z", re.ASCII)
_WRITTEN_OUT = 400
"""Digits beside the point; beyond them there is no float, and a number stays digits and exponent."""


def _number(value: object) -> Plain:
    if value.__class__ is int:
        return value if value in _INT64 else _decimal(str(value))
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, float):
        return str(value) if isnan(value) or isinf(value) else _decimal(repr(value))
    if isinstance(value, str):
        if _INTEGER.match(value):
            whole = int(value)
            return whole if whole in _INT64 else _decimal(value)
        if _NUMBER.match(value):
            return _decimal(value)
        return {"true": 1, "false": 0}.get(value, value)
    return _other(value)


def _decimal(text: str) -> Plain:
    """Return a number in the one way that it is written here."""
    sign, digits, exponent = Decimal(text).as_tuple()
    if not isinstance(exponent, int):
        return text
    written = "".join(map(str, digits)).lstrip("0")
    kept = written.rstrip("0")
    if not kept:
        return 0
    exponent += len(written) - len(kept)
    minus = "-" if sign else ""
    if exponent >= 0 and len(kept) + exponent <= len(str(_INT64.stop)):
        whole = int(f"{minus}{kept}{'0' * exponent}")
        if whole in _INT64:
            return whole
    if abs(exponent) > _WRITTEN_OUT:
        return f"{minus}{kept}e{exponent}"
    return f"{minus}{Decimal(f'{kept}e{exponent}'):f}"


def _text(value: object) -> Plain:
    return value if isinstance(value, str) else _other(value)


def _padded(value: object) -> Plain:
    return value.rstrip(" ") if isinstance(value, str) else _other(value)


_CLOCK = r"(\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?"
_TIME = re.compile(rf"{_CLOCK}\Z", re.ASCII)
_STAMP = re.compile(rf"(\d{{4}}-\d\d-\d\d)[T ]{_CLOCK}(Z|[+-]\d\d(?::?\d\d)?)?\Z", re.ASCII)


def _time(value: object) -> Plain:
    found = _TIME.match(value) if isinstance(value, str) else None
    return _other(value) if found is None else found[1] + _fraction(found[2])


def _timestamp(value: object) -> Plain:
    found = _STAMP.match(value) if isinstance(value, str) else None
    if found is None:
        return _other(value)
    return f"{found[1]}T{found[2]}{_fraction(found[3])}{found[4] or ''}"


def _timestamptz(value: object) -> Plain:
    found = _STAMP.match(value) if isinstance(value, str) else None
    if found is None:
        return _other(value)
    day, clock, fraction, zone = found[1], found[2], _fraction(found[3]), found[4]
    if zone not in (None, "Z", "+00", "+00:00", "+0000"):
        try:
            moved = datetime.fromisoformat(f"{day}T{clock}{zone}").astimezone(UTC)
        except (ValueError, OverflowError):
            return _other(value)
        day, clock = moved.date().isoformat(), moved.time().isoformat()
    return f"{day}T{clock}{fraction}+00:00"


def _fraction(digits: str | None) -> str:
    kept = (digits or "").rstrip("0")
    return f".{kept}" if kept else ""


_N = r"([+-]?\d{1,12})"
_INTERVAL = re.compile(
    rf"P(?:{_N}Y)?(?:{_N}M)?(?:{_N}W)?(?:{_N}D)?"
    rf"(?:T(?:{_N}H)?(?:{_N}M)?(?:([+-]?)(\d{{1,12}})(?:\.(\d{{1,6}}))?S)?)?\Z",
    re.ASCII,
)


def _interval(value: object) -> Plain:
    found = _INTERVAL.match(value) if isinstance(value, str) else None
    if found is None:
        return _other(value)
    years, months, weeks, days, hours, minutes = (int(one or 0) for one in found.groups()[:6])
    sign, seconds, fraction = found.groups()[6:]
    us = int(seconds or 0) * 1_000_000 + int((fraction or "").ljust(6, "0") or 0)
    us = (hours * 60 + minutes) * 60_000_000 + (-us if sign == "-" else us)
    # Months, days and time of day are kept apart, as databases do.
    return f"P{years * 12 + months}M{weeks * 7 + days}DT{us}"


_UUID = re.compile(r"\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?\Z")


def _uuid(value: object) -> Plain:
    found = _UUID.match(value.lower()) if isinstance(value, str) else None
    return _other(value) if found is None else "-".join(found.groups())


def _json(value: object) -> Plain:
    """A document counts by what it says: blanks and the order of keys don't, of a key given twice the last."""
    if not isinstance(value, str):
        return _other(value)
    try:
        found = json.loads(value, parse_int=_spelled, parse_float=_spelled, parse_constant=_refuse)
        return _sorted.encode(found).decode()
    except (ValueError, RecursionError):
        return value


class _Spelled(msgspec.Struct, frozen=True, array_like=True):
    """A number of a document, told from a string."""

    number: str


def _spelled(text: str) -> _Spelled:
    return _Spelled(str(_number(text)))


def _refuse(name: str) -> None:
    raise ValueError(name)


_READERS: dict[Form, Reader] = {
    Form.NUMBER: _number,
    Form.TEXT: _text,
    Form.PADDED: _padded,
    Form.BYTES: _text,
    Form.TIME: _time,
    Form.TIMESTAMP: _timestamp,
    Form.TIMESTAMPTZ: _timestamptz,
    Form.INTERVAL: _interval,
    Form.UUID: _uuid,
    Form.JSON: _json,
}
