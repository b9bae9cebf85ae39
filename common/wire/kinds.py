"""Which JSON a value may be, by the logical type that the header gives its column; the same for every database.

A database's own input functions take more than that, each another more: PostgreSQL the text `"7"` for an integer and a
number for a text, SQLite neither. What one node applied the other would set aside."""

import re
from collections.abc import Mapping
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import msgspec

from common.wire.unreadable import UNREADABLE

_Float = int | float | Literal["NaN", "Infinity", "-Infinity"]
"""JSON has one number type: what is written like an integer comes as one, so that its digits can be looked at."""
_ALL_WHOLE = 2**53
"""Up to here every integer is a double."""
_INT64 = range(-(2**63), 2**63)
_MAY_VANISH = re.compile(rb":\s*-?([0-9]+(?:\.[0-9]+)?[eE]-[0-9]{3,}|0\.0{200}[0-9]*(?:[eE]-[0-9]+)?)")
"""A member of an object. As it begins with a colon the search is quick."""


class Wrapped(
    msgspec.Struct,
    rename={"as_int": "$int", "as_float": "$float", "as_text": "$text", "as_bytes": "$bytes"},
    forbid_unknown_fields=True,
    frozen=True,
    gc=False,
):
    """A SQLite value whose class is not its column's: an object with one key, which names the class."""

    as_int: int | msgspec.UnsetType = msgspec.UNSET
    as_float: _Float | msgspec.UnsetType = msgspec.UNSET
    as_text: bytes | msgspec.UnsetType = msgspec.UNSET
    as_bytes: bytes | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if (self.as_int, self.as_float, self.as_text, self.as_bytes).count(msgspec.UNSET) != 3:
            raise ValueError("a wrapped value has one class")
        if not is_double(self.as_float):
            raise ValueError("more digits than a float keeps")
        if isinstance(self.as_int, int) and self.as_int not in _INT64:
            raise ValueError("outside SQLite's 64 bit integers")


_KINDS: dict[str, Any] = {
    "int": int | Wrapped | None,
    "float": _Float | Wrapped | None,
    "bool": bool | Wrapped | None,
    "bytes": bytes | Wrapped | None,
}
"""`bytes`: base64, strictly. Every other type is written in strings."""
_IN_STRINGS = str | Wrapped | None
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
"""In a name: what JSON would escape."""


def kind_of(logical: str) -> Any:
    """Return the Python type by which msgspec tells whether JSON may be a value of this logical type."""
    return _KINDS.get(logical, _IN_STRINGS)


def has_odd_names(columns: Mapping[str, str]) -> bool:
    """Tell whether msgspec makes no decoder for objects with these names."""
    return any(map(_ESCAPED.search, columns))


def object_decoder(kinds: Mapping[str, Any], fields: Mapping[str, str]) -> "msgspec.json.Decoder[Any]":
    """Return what decodes objects of just the columns in `fields`, each a value of its kind, and raises one of
    `UNREADABLE` for any other. `fields`: what a column is called in what it returns."""
    typed = [(field, kinds[column]) for column, field in fields.items()]
    renamed = {field: column for column, field in fields.items()}
    made = msgspec.defstruct("Columns", typed, rename=renamed, forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(made)


def fits(logical: str, raw: bytes | msgspec.Raw) -> bool:
    """Tell whether this JSON may be a value of this logical type. NULL may be one of any."""
    try:
        value = _decoder(logical if logical in _KINDS else "").decode(raw)
    except UNREADABLE:
        return False
    if isinstance(value, str):
        return True
    return (logical != "float" or is_double(value)) and not vanishes(b":" + bytes(raw))


def is_double(number: object) -> bool:
    """Tell whether a double keeps what was written like an integer: all its digits, or the shortest that tell it from
    others, filled up with noughts (as JavaScript writes it). What is no integer is one."""
    if isinstance(number, Wrapped):
        number = number.as_int
    if not isinstance(number, int) or -_ALL_WHOLE <= number <= _ALL_WHOLE:
        return True
    try:
        nearest = float(number)
    except OverflowError:
        return False
    return int(nearest) == number or Decimal(repr(nearest)) == number


def vanishes(json: bytes) -> bool:
    """Tell whether a number among the members of an object is so small that a double of it is zero, and is no zero.
    Of text that holds the like it may say so too."""
    return any(float(number) == 0 and _has_digits(number) for number in _MAY_VANISH.findall(json))


def _has_digits(number: bytes) -> bool:
    return bool(re.split(rb"[eE]", number)[0].strip(b"0."))


@cache
def _decoder(logical: str) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind_of(logical))
