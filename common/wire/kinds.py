"""Which JSON a value may be, by the logical type that the header gives its column; the same for every database.

A database's own input functions take more than that, each another more: PostgreSQL the text `"7"` for an integer and a
number for a text, SQLite neither. What one node applied the other would set aside."""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

import msgspec

from common.wire.unreadable import UNREADABLE

_Float = float | Literal["NaN", "Infinity", "-Infinity"]


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
        _decoder(logical if logical in _KINDS else "").decode(raw)
    except UNREADABLE:
        return False
    return True


@cache
def _decoder(logical: str) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind_of(logical))
