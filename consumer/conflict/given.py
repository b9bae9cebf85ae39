"""What somebody who chooses gives as the row, read so that it is the wire's form of it or nothing at all."""

import json
from collections.abc import Mapping
from decimal import Decimal
from math import isinf
from typing import Any, TypeAlias

import msgspec

from common.errors import UsageError
from common.versions import Version
from consumer.conflict.record import Winner

Given: TypeAlias = dict[str, Any] | None
"""A row that somebody wrote down: columns that it does not name stay as they are; None deletes the row. Numbers with a
point are `Decimal`."""
Take: TypeAlias = "Winner | tuple[Given]"
"""Ours, theirs, or a row of one's own in a tuple."""

_SPECIAL_FLOATS = ("NaN", "Infinity", "-Infinity")
_INT64 = range(-(2**63), 2**63)


def read_take(text: str) -> Take:
    """Return what `--take` asks for. Raises UsageError."""
    if text in (Winner.OURS.value, Winner.THEIRS.value):
        return Winner(text)
    try:
        given = json.loads(text, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_once)
        # What JSON escapes may spell is not always text.
        json.dumps(given, ensure_ascii=False, default=str).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--take: ours, theirs, or a row as a JSON object (null deletes it): {error}") from error
    if given is not None and not isinstance(given, dict):
        raise UsageError('--take: a row is a JSON object like {"name": "new"}; null deletes it')
    return (given,)


def read_seen(text: str) -> Version:
    """Return the version that `--seen` names. Raises UsageError."""
    try:
        return Version(*msgspec.json.decode(text, type=tuple[int, int, str]))
    except msgspec.DecodeError as error:
        raise UsageError(f'--seen: our_version as `conflicts show` has it, like [0, 17, "main"]: {error}') from error


def in_wire_form(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of `row` as batches write them. `columns`: name to logical type. Raises UsageError.

    A decimal may be given as a number too: its digits are kept as they stand."""
    return {name: _value(name, value, columns[name]) for name, value in row.items()}


def _value(name: str, value: Any, logical: str) -> Any:
    # SQLite's values of another class than their column's, as {"$int": 5}: its dialect reads them.
    if value is None or (isinstance(value, dict) and len(value) == 1 and next(iter(value)).startswith("$")):
        return value
    is_number = isinstance(value, int | Decimal) and not isinstance(value, bool)
    match logical:
        case "int" if is_number and isinstance(value, int) and value in _INT64:
            return value
        case "decimal" if is_number:
            return format(value, "f")
        case "float" if is_number:
            number = float(value)
            if not isinf(number):
                return number
        case "float" if value in _SPECIAL_FLOATS:
            return value
        case "bool" if isinstance(value, bool):
            return value
        case "int" | "float" | "bool":
            pass
        case _ if isinstance(value, str):
            return value
        case _:
            pass
    raise UsageError(f"--take: {name!r} is {_WANTED.get(logical, 'a string')} ({logical}), not {_spelled(value)}")


_WANTED = {
    "int": "a whole number of 64 bits",
    "float": "a number or one of " + ", ".join(f'"{one}"' for one in _SPECIAL_FLOATS),
    "bool": "true or false",
    "decimal": 'a number or a string like "9.50"',
    "json": "the document's text in a string",
    "bytes": "base64 in a string",
}


def _spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is not JSON; a column of floats takes it as a string, "{name}"')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found
