"""JSON values of a batch to what SQLite will store, or PoisonError: never a silent change.

First the sender's logical type says what a value is, then this column's affinity is applied as SQLite would, and
where that would lose something the value is refused."""

import base64
import binascii
import re
from collections.abc import Callable
from decimal import Decimal

from common.dialects.sqlite.types import WIRE_STAMP, Affinity
from common.dialects.sqlite.values import RawText, Value
from common.wire.kinds import is_double

Reader = Callable[[object], Value]

_LEAST, _MOST = -(2**63), 2**63 - 1
_INT_DIGITS = 19
_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,9})?", re.ASCII)
_NO_NUMBERS = ("NaN", "Infinity", "-Infinity")
_NUMBER = re.compile(r"[ \t\n\v\f\r]*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?[ \t\n\v\f\r]*\Z", re.ASCII)
"""What SQLite takes for a number in a text."""
_FLOATS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_SPELLED = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


class UnfitError(ValueError):
    """A value that this column can't hold as it was sent. The message says why."""


def reader(logical: str, affinity: Affinity) -> Reader:
    """Return the function from a JSON value of the sender's logical type to the value a column will hold.

    It raises UnfitError."""
    if logical == "int" and affinity is Affinity.INTEGER:
        return _plain_int
    if logical == "text" and affinity is Affinity.TEXT:
        return _plain_text
    decode = _DECODERS.get(logical, _text)
    fit = _FITS[affinity]
    if logical == "decimal" and affinity.numeric:
        decode = _decimal_as_number
    elif logical == "json" and affinity.numeric:
        decode = _json_as_number

    def read(value: object) -> Value:
        if value is None:
            return None
        return fit(unescape(value) if isinstance(value, dict) else decode(value))

    return read


def unescape(value: dict[str, object]) -> Value:
    """Return what `values.escape` wrote. Raises UnfitError."""
    if len(value) != 1:
        raise UnfitError("an object that is no escaped value")
    (kind, inner), *_ = value.items()
    match kind:
        case "$int":
            return _int(inner)
        case "$float":
            return _float(inner)
        case "$bytes":
            return _bytes(inner)
        case "$text":
            return _any_text(_bytes(inner))
        case _:
            raise UnfitError(f"an object with the unknown key {kind!r}")


def _plain_int(value: object) -> Value:
    if isinstance(value, int) and value.__class__ is int and _LEAST <= value <= _MOST:
        return value
    return _FITS[Affinity.INTEGER](_value(value, _int))


def _plain_text(value: object) -> Value:
    return value if isinstance(value, str) else _fit_text(_value(value, _text))


def _value(value: object, decode: Reader) -> Value:
    if value is None:
        return None
    return unescape(value) if isinstance(value, dict) else decode(value)


def _any_text(raw: bytes) -> str | RawText:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return RawText(raw)


def _int(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnfitError("no integer")
    if not _LEAST <= value <= _MOST:
        raise UnfitError(f"{value} is outside SQLite's 64 bit integers")
    return value


def _float(value: object) -> float:
    if isinstance(value, str):
        value = _FLOATS.get(value, value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UnfitError("no number")
    if value != value:
        raise UnfitError("SQLite has no NaN: it would become NULL")
    # Written like an integer it may be the shortest digits of a float; an `int` for a REAL has to be all of them.
    return float(value) if is_double(value) else _exact_float(int(value))


def _exact_float(value: int) -> float:
    try:
        found = float(value)
    except OverflowError as error:
        raise UnfitError(f"{value} is too large for a REAL") from error
    if int(found) != value:
        raise UnfitError(f"{value} has more digits than a REAL keeps")
    return found


def _bool(value: object) -> int:
    if not isinstance(value, bool):
        raise UnfitError("no boolean")
    return int(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise UnfitError("no text")
    return value


def _bytes(value: object) -> bytes:
    try:
        return base64.b64decode(_text(value), validate=True)
    except binascii.Error as error:
        raise UnfitError(f"no base64: {error}") from error


def _stamp(value: object) -> str:
    text = _text(value)
    return text.replace("T", " ", 1) if WIRE_STAMP.match(text) else text


def _decimal_as_number(value: object) -> Value:
    text = _text(value)
    if text in _NO_NUMBERS:
        return _float(text)
    # Python's Decimal takes more than anybody means: `1_0`, digits of every script.
    if not _DECIMAL.fullmatch(text):
        raise UnfitError(f"{text[:60]!r} is no decimal")
    number = Decimal(text)
    if number.adjusted() < _INT_DIGITS and number == number.to_integral_value():
        whole = int(number)
        if _LEAST <= whole <= _MOST:
            return whole
    return _close_float(number, text)


def _close_float(number: Decimal, text: str) -> float:
    try:
        found = float(number)
    except OverflowError:
        found = float("inf")
    if found in (float("inf"), float("-inf")) or Decimal(repr(found)) != number:
        raise UnfitError(f"{text[:60]} has more digits than a REAL keeps; a TEXT column would keep them")
    return found


def _json_as_number(value: object) -> Value:
    text = _text(value)
    if not _NUMBER.match(text):
        return text
    number = _decimal_as_number(text.strip())
    shown = str(number) if isinstance(number, int) else repr(number)
    if shown != text:
        raise UnfitError(f"the JSON text {text[:60]!r} would become the number {shown}")
    return number


def _fit_text(value: Value) -> Value:
    if isinstance(value, float):
        # SQLite itself would write 15 digits.
        return _SPELLED.get(value) or repr(value)
    return str(value) if isinstance(value, int) else value


def _fit_numeric(value: Value) -> Value:
    """Return `value` as a NUMERIC or INTEGER column stores it."""
    if isinstance(value, float):
        # Not at the limits: SQLite leaves a REAL there that it can't be sure of.
        return int(value) if _LEAST < value < _MOST and value == int(value) else value
    return _no_number(value)


def _fit_real(value: Value) -> Value:
    if isinstance(value, float):
        return value + 0.0
    return _exact_float(value) if isinstance(value, int) else _no_number(value)


def _no_number(value: Value) -> Value:
    if isinstance(value, str) and _NUMBER.match(value):
        raise UnfitError(f"the text {value[:60]!r} would become a number in a column of this type")
    return value


def _fit_any(value: Value) -> Value:
    return value


_FITS: dict[Affinity, Callable[[Value], Value]] = {
    Affinity.TEXT: _fit_text,
    Affinity.INTEGER: _fit_numeric,
    Affinity.NUMERIC: _fit_numeric,
    Affinity.REAL: _fit_real,
    Affinity.NONE: _fit_any,
}
_DECODERS: dict[str, Reader] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "bytes": _bytes,
    "timestamp": _stamp,
    "timestamptz": _stamp,
}
