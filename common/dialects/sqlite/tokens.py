"""Values as tokens: two values are equal under a collation exactly where their tokens are the same. Pure."""

from collections.abc import Sequence

import msgspec

from common.dialects.sqlite.incoming import unescape
from common.dialects.sqlite.types import Affinity
from common.dialects.sqlite.values import RawText, Row, Value, escape

_json = msgspec.json.Encoder()
_MOST = 2**63 - 1


def token(values: Sequence[Value], collations: Sequence[str]) -> str | None:
    """Return the token of the values of one key; None where one is NULL, which equals nothing."""
    if None in values:
        return None
    parts = [_folded(value, one.upper()) for value, one in zip(values, collations, strict=True)]
    return _json.encode([part if type(part) in (int, str) else escape(part) for part in parts]).decode()


def values_of(text: str) -> Row:
    """Return values that equal those which a token was made of."""
    parts: list[object] = msgspec.json.decode(text)
    return tuple(unescape(part) if isinstance(part, dict) else part for part in parts)  # type: ignore[misc]


def under(affinity: Affinity, value: Value) -> Value:
    """Return what a column of this affinity compares `value` as."""
    if affinity is Affinity.TEXT and isinstance(value, int):
        return str(value)
    if affinity.numeric and isinstance(value, str):
        text = value.strip()
        try:
            return int(text) if text.lstrip("+-").isdecimal() else float(text)
        except ValueError:
            return value
    return value


def _folded(value: Value, collation: str) -> Value:
    if isinstance(value, float) and value.is_integer() and -_MOST <= value <= _MOST:
        # 1 and 1.0 are one value to an index.
        return int(value)
    if isinstance(value, RawText):
        return RawText(_fold_bytes(value, collation))
    if isinstance(value, str):
        return _fold_bytes(value.encode(), collation).decode()
    return value


def _fold_bytes(text: bytes, collation: str) -> bytes:
    match collation:
        case "NOCASE":
            return text.lower()
        case "RTRIM":
            return text.rstrip(b" ")
        case _:
            return text
