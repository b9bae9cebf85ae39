"""Which logical type and which affinity a declared type has, and how stored values become JSON."""

import base64
import re
from collections.abc import Callable
from datetime import date
from enum import StrEnum

from common.dialects.sqlite.values import RawText, Value, escape, float_to_json

Encoder = Callable[[Value], object]


class Affinity(StrEnum):
    """What SQLite does to a value that is written to a column."""

    INTEGER = "integer"
    REAL = "real"
    NUMERIC = "numeric"
    TEXT = "text"
    NONE = "none"

    @property
    def numeric(self) -> bool:
        """Whether text that looks like a number becomes one."""
        return self in (Affinity.INTEGER, Affinity.REAL, Affinity.NUMERIC)


_BY_NAME = {
    **dict.fromkeys(("BOOL", "BOOLEAN"), "bool"),
    "DATE": "date",
    "TIME": "time",
    **dict.fromkeys(("DATETIME", "TIMESTAMP", "TIMESTAMP WITHOUT TIME ZONE"), "timestamp"),
    **dict.fromkeys(("TIMESTAMPTZ", "DATETIMETZ", "TIMESTAMP WITH TIME ZONE"), "timestamptz"),
    "INTERVAL": "interval",
    **dict.fromkeys(("UUID", "GUID"), "uuid"),
    **dict.fromkeys(("JSON", "JSONB"), "json"),
    **dict.fromkeys(("NUMERIC", "DECIMAL", "DEC", "NUMBER", "MONEY"), "decimal"),
}
_BY_AFFINITY = {
    Affinity.INTEGER: "int",
    Affinity.REAL: "float",
    Affinity.NUMERIC: "text",
    Affinity.TEXT: "text",
    Affinity.NONE: "bytes",
}


def affinity_of(declared: str, *, strict: bool) -> Affinity:
    """Return the affinity that SQLite gives a declared type (https://www.sqlite.org/datatype3.html, 3.1)."""
    name = declared.upper()
    if strict and name == "ANY":
        return Affinity.NONE
    if "INT" in name:
        return Affinity.INTEGER
    if any(word in name for word in ("CHAR", "CLOB", "TEXT")):
        return Affinity.TEXT
    if not name or "BLOB" in name:
        return Affinity.NONE
    return Affinity.REAL if any(word in name for word in ("REAL", "FLOA", "DOUB")) else Affinity.NUMERIC


def logical_type(declared: str, *, strict: bool) -> str:
    """Return the logical type. A name that says nothing (`STRING`, `ENUM`) counts as text."""
    name = " ".join(re.sub(r"\(.*?\)", " ", declared.upper()).split())
    return _BY_NAME.get(name) or _BY_AFFINITY[affinity_of(declared, strict=strict)]


_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?"
_TIME = re.compile(_CLOCK + r"\Z", re.ASCII)
_STAMP = re.compile(r"\d{4}-\d\d-\d\d " + _CLOCK + r"\Z", re.ASCII)
_STAMP_TZ = re.compile(r"\d{4}-\d\d-\d\d " + _CLOCK + r"(Z|[+-]\d\d(:[0-5]\d)?)\Z", re.ASCII)
_INTERVAL = re.compile(r"[+-]?P(?=.)([+-]?\d+(\.\d+)?[YMWD])*(T([+-]?\d+(\.\d+)?[HMS])+)?\Z", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
WIRE_STAMP = re.compile(r"\d{4,}-\d\d-\d\dT")


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text[:10])
    except ValueError:
        return False
    return True


def _int(value: Value) -> object:
    return value if value.__class__ is int else escape(value)


def _float(value: Value) -> object:
    return float_to_json(value) if isinstance(value, float) else escape(value)


def _decimal(value: Value) -> object:
    if value.__class__ is int:
        return str(value)
    # A finite REAL comes back from its shortest text to the same REAL, here and through `incoming`.
    if isinstance(value, float) and isinstance(float_to_json(value), float):
        return repr(value)
    return escape(value)


def _bool(value: Value) -> object:
    return value == 1 if value.__class__ is int and value in (0, 1) else escape(value)


def _text(value: Value) -> object:
    return value if isinstance(value, str) else escape(value)


def _bytes(value: Value) -> object:
    if isinstance(value, bytes) and not isinstance(value, RawText):
        return base64.b64encode(value).decode()
    return escape(value)


def _date(value: Value) -> object:
    return value if isinstance(value, str) and _DATE.match(value) and _is_day(value) else escape(value)


def _time(value: Value) -> object:
    return value if isinstance(value, str) and _TIME.match(value) else escape(value)


def _stamp(value: Value, pattern: re.Pattern[str]) -> object:
    if isinstance(value, str) and pattern.match(value) and _is_day(value):
        return value.replace(" ", "T", 1)
    return escape(value)


def _timestamp(value: Value) -> object:
    return _stamp(value, _STAMP)


def _timestamptz(value: Value) -> object:
    return _stamp(value, _STAMP_TZ)


def _interval(value: Value) -> object:
    return value if isinstance(value, str) and _INTERVAL.match(value) else escape(value)


def _uuid(value: Value) -> object:
    return value if isinstance(value, str) and _UUID.match(value) else escape(value)


def _json(value: Value) -> object:
    # The affinity of JSON columns turns the text `5` into the INTEGER 5, and back on the way in.
    return str(value) if value.__class__ is int else _text(value)


_ENCODERS: dict[str, Encoder] = {
    "int": _int,
    "float": _float,
    "decimal": _decimal,
    "bool": _bool,
    "text": _text,
    "bytes": _bytes,
    "date": _date,
    "time": _time,
    "timestamp": _timestamp,
    "timestamptz": _timestamptz,
    "interval": _interval,
    "uuid": _uuid,
    "json": _json,
}


def encoder(logical: str) -> Encoder:
    """Return the function from a stored value to its JSON value; what doesn't fit the type is escaped."""
    return _ENCODERS[logical]


_AS_THEY_ARE = {"int": int, "text": str, "json": str}


def travels_as_it_is(logical: str, found: type) -> bool:
    """Tell whether every value of this class is its own JSON value under the logical type."""
    return found is type(None) or _AS_THEY_ARE.get(logical) is found
