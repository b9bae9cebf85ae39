"""What somebody who chooses gives as the row, read so that it is the wire's form of it or nothing at all."""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from math import isinf
from typing import Any, TypeAlias

import msgspec

from common.errors import UsageError
from common.versions import Version
from consumer.conflict.record import Winner

Given: TypeAlias = dict[str, Any] | None
"""A row that somebody wrote down: columns that it does not name stay as they are; None deletes the row. Numbers with a
point, and those of more than 64 bits, are `Decimal`."""
Take: TypeAlias = "Winner | tuple[Given]"
"""Ours, theirs, or a row of one's own in a tuple."""

_SPECIAL_FLOATS = ("NaN", "Infinity", "-Infinity")
_INT64 = range(-(2**63), 2**63)
_INT64_LENGTH = len(str(_INT64.start))
_DIGITS_BEFORE, _DIGITS_AFTER = 131_072, 16_383
"""Of a number, as PostgreSQL can keep them; SQLite keeps fewer. A short `1e100000000` would be as long written out."""


class GivenError(UsageError):
    """What somebody who chooses gave is nothing that can be read, or not of this row. It begins with the name that the
    body over HTTP has for it; the command's option is called the same."""


def read_take(text: str) -> Take:
    """Return what `take` asks for. Raises GivenError."""
    if text in (Winner.OURS.value, Winner.THEIRS.value):
        return Winner(text)
    try:
        given = json.loads(
            text, parse_float=_decimal, parse_int=_whole, parse_constant=_refuse_constant, object_pairs_hook=_once
        )
        # What JSON escapes may spell is not always text.
        json.dumps(given, ensure_ascii=False, default=str).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise GivenError(f"take: ours, theirs, or a row as a JSON object (null deletes it): {error}") from error
    if given is not None and not isinstance(given, dict):
        raise GivenError('take: a row is a JSON object like {"name": "new"}; null deletes it')
    return (given,)


def refuse_doubles(body: bytes) -> None:
    """Refuse an object that has a field twice: readers differ in which of the two they take. Raises GivenError."""
    try:
        json.loads(body, parse_int=str, parse_float=str, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise GivenError(f"the body: {error}") from error


def read_seen(text: str) -> Version:
    """Return the version that `seen` names. Raises GivenError."""
    try:
        return Version(*msgspec.json.decode(text, type=tuple[int, int, str]))
    except msgspec.DecodeError as error:
        raise GivenError(
            f'seen: our_version (to undo: row_version) as `conflicts show` has it, like [0, 17, "main"]: {error}'
        ) from error


def in_wire_form(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of `row` as batches write them. `columns`: name to logical type. Raises GivenError.

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
        case "decimal" if is_number and -_DIGITS_AFTER <= Decimal(value).adjusted() < _DIGITS_BEFORE:
            return format(Decimal(value), "f")
        case "float" if is_number:
            # By way of Decimal: what a float can't reach is endless there, and no error.
            number = float(Decimal(value))
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
    raise GivenError(f"take: {name!r} is {_WANTED.get(logical, 'a string')} ({logical}), not {_spelled(value)}")


_WANTED = {
    "int": "a whole number of 64 bits",
    "float": "a number or one of " + ", ".join(f'"{one}"' for one in _SPECIAL_FLOATS),
    "bool": "true or false",
    "decimal": f"a number of at most {_DIGITS_BEFORE} digits before and {_DIGITS_AFTER} after the point, or a string"
    ' like "9.50"',
    "json": "the document's text in a string",
    "bytes": "base64 in a string",
}


def _spelled(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _whole(text: str) -> int | Decimal:
    # Python's int takes its time for very many digits, and refuses more than 4300.
    return int(text) if len(text) <= _INT64_LENGTH else Decimal(text)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text} is out of any range") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is not JSON; a column of floats takes it as a string, "{name}"')


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found
