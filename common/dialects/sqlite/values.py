"""SQLite's five classes of values as Python sees them, bit for bit, and the canonical text of a key."""

import base64
from collections.abc import Sequence

import msgspec


class RawText(bytes):
    """TEXT that is not valid UTF-8: SQLite keeps it, `str` can't."""


Value = int | float | str | bytes | None
"""INTEGER, REAL, TEXT (`str`, or RawText), BLOB (`bytes` itself), NULL."""

Row = tuple[Value, ...]

_json = msgspec.json.Encoder()
_WORDS = {float("inf"): "Infinity", float("-inf"): "-Infinity"}


def read_text(raw: bytes) -> str | RawText:
    """Turn a TEXT value into Python; the `text_factory` of every connection of this dialect."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return RawText(raw)


def float_to_json(value: float) -> float | str:
    """Return a REAL as the wire writes it: SQLite has no NaN, infinities are words."""
    return _WORDS.get(value, value)


def escape(value: Value) -> object:
    """Return a value whose class is not its column's as the object that names its class."""
    if value is None:
        return None
    if isinstance(value, str):
        return {"$text": base64.b64encode(value.encode()).decode()}
    if isinstance(value, RawText):
        return {"$text": base64.b64encode(value).decode()}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, float):
        return {"$float": float_to_json(value)}
    return {"$int": value}


def key_text(values: Sequence[Value]) -> str:
    """Return the canonical text of a key: a JSON array by class. Keys are one only where bytes and class are one.

    `-0.0` counts as `0.0`: SQLite takes them for the same key, and stores one as the other where it can."""
    if len(values) == 1 and values[0].__class__ is int:
        return f"[{values[0]}]"
    for value in values:
        if value.__class__ is not int and value.__class__ is not str:
            return _json.encode([_key_part(one) for one in values]).decode()
    return _json.encode(values).decode()


def _key_part(value: Value) -> object:
    return value if value.__class__ is int or value.__class__ is str else escape(without_sign_of_zero(value))


def without_sign_of_zero(value: Value) -> Value:
    """Return `value` as it counts in a key."""
    return 0.0 if is_float_zero(value) else value


def is_float_zero(value: Value) -> bool:
    """Tell whether `value` is `0.0` or `-0.0`."""
    return isinstance(value, float) and value == 0


def placeholders(values: Sequence[Value]) -> list[str]:
    """Return one SQL placeholder a value: text that is not UTF-8 can only be bound as a BLOB and cast."""
    return ["CAST(? AS TEXT)" if isinstance(value, RawText) else "?" for value in values]
