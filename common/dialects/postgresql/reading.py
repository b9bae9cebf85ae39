"""How a value of the wire gets into a column: through the type's own input function, and never changed on the way.

An explicit cast cuts, an assignment rounds, a date drops its time of day, `today` becomes a date. So where a column
can change a value in silence its expression first asks whether it would, and if so fails with both named.
"""

import re
from dataclasses import dataclass

from common.dialects.postgresql.naming import ident, literal
from common.dialects.postgresql.types import PgColumn, key_value, pg_column
from common.ports.dialect import ColumnShape

_DAY = r"\d{4,7}-\d\d-\d\d"
_MINUTES = r":\d\d(:[0-5]\d(\.\d{1,6})?)?"
_HOUR = r"([01]\d|2[0-3])" + _MINUTES
"""A second 60, and the hour 24 of a day, come to stand as the next minute and the next day."""
_ENDLESS = "-?infinity"
_WRITTEN = {
    "date": rf"^({_DAY}( BC)?|{_ENDLESS})$",
    "time": rf"^({_HOUR}|24{_MINUTES})$",
    "timestamp": rf"^({_DAY}[T ]{_HOUR}( BC)?|{_ENDLESS})$",
    "timestamptz": rf"^({_DAY}[T ]{_HOUR}(Z|[+-]\d\d(:?\d\d(:\d\d)?)?)?( BC)?|{_ENDLESS})$",
}
"""Forms that come in as they are written. A `timestamptz` without an offset is UTC."""
_AS_WE_WRITE = {
    "timestamp": ("0000-00-00T00:00:00", "0000-00-00T00:00:00.000000"),
    "timestamptz": ("0000-00-00T00:00:00+00:00", "0000-00-00T00:00:00.000000+00:00"),
}
"""The usual forms, all digits made noughts: to look for these takes a quarter of the time of a regular expression."""
_HOLDS_INSTANTS = re.compile(r"timetz|_(date|time|timestamp|timestamptz|timetz)|_?(date|ts|tstz)(multi)?range")
_NO_WORDS = r'^([][(){}",.:+=0-9TZ -]|\\"|infinity|empty|NULL|BC)*$'
"""What an array or a range of dates may be written with: no `now`, which is another instant on each node."""
_TOO_FINE = r"\.\d{6}\d*[1-9]"
_CHANGED_IN_INSTANTS = rf"{_TOO_FINE}|:\d\d:60|\d[T ]24:"
_CHANGED = {
    "interval": rf"{_TOO_FINE}|\d[eE][+-]?\d|\.(?!(25|5|75)?0*\s*[yY])\d+\s*[yY]",
    "money": r"\.\d\d\d*[1-9]",
}
"""What is rounded: below a microsecond, below a cent; a year's fraction to months."""
_COME_BACK = frozenset({"name", "char", "oid", "xid", "xid8"})
"""Types that cut a text, or begin anew below zero."""
_ROUNDED = frozenset({"_float4", "_float8"})
_REFUSE_BY_THEMSELVES = frozenset({"bit", "varbit"})
_TRUTHS = "('0', '1', 'true', 'false', 't', 'f')"


@dataclass(frozen=True, slots=True)
class Reading:
    """One column in a `json_to_recordset`."""

    name: str
    declared: str
    """Its type in the recordset."""
    value: str
    """The expression over the recordset, called `r`, that gives the column its value."""


def reading(shape: ColumnShape, logical: str) -> Reading:
    """Return how `shape` is read from a value that its sender calls `logical`."""
    column = pg_column(shape)
    raw = f"r.{ident(column.name)}"
    if (logical == "bytes") != (column.logical == "bytes"):
        return Reading(column.name, "text", _guarded(column, raw, f"{raw} IS NULL"))
    if column.logical == "bytes":
        return Reading(column.name, "text", f"decode({raw}, 'base64')")
    if column.logical == "json":
        return Reading(column.name, "text", f"{raw}::{column.base}")
    conditions = _conditions(column, logical, raw)
    if not conditions:
        return Reading(column.name, column.declared, raw)
    return Reading(column.name, "text", _guarded(column, raw, " AND ".join(conditions)))


_ONE_FORM = frozenset({"int", "uuid"})
"""Of other spellings the letters would be lost: an article's number `007` is none without its noughts."""
_NUMBERS = frozenset({"int", "decimal", "float"})
_KEPT = frozenset({"int", "decimal", "float", "text", "bool", "bytes", "date"})
"""Types whose values all databases write alike, in a key: theirs come back as they came."""
_TEXT_KEEPS = frozenset({"int", "decimal", "float", "date", "time", "interval", "uuid", "json"})
"""What text takes as it is written, and gives back so. A timestamp has a `T` on the wire and a blank on SQLite, a
`bool` is a number there."""
_INSTANTS = frozenset({"timestamp", "timestamptz"})


WRAPPED = {
    "$bytes": frozenset({"bytes"}),
    "$int": frozenset({"int", "bool"}),
    "$float": frozenset({"float"}),
    "$text": frozenset({"text", "decimal", "date", "time", "timestamp", "timestamptz", "interval", "uuid", "json"}),
}
"""The classes that SQLite names beside a value, and the types whose values come back in this class to a column of its
that has no type."""


def class_comes_back(column: ColumnShape, kind: str, text: str, *, is_loose: bool) -> bool:
    """Tell whether a key that SQLite sent with its class is the same key there when it comes back from `column`.
    `is_loose`: its column there has no type. In one that has, text counts as it is written, and a number as one."""
    if is_loose:
        return column.logical in WRAPPED[kind] or (kind == "$text" and column.logical.startswith("pg:"))
    # Among values that have a T on the wire alone, it would come back without.
    return kind != "$text" or column.logical not in _INSTANTS or "T" not in text


def key_reading(shape: ColumnShape, logical: str) -> Reading:
    """The same for a column of the primary key: what would come back to its sender in other letters, and there be the
    key of another row, is refused."""
    read, column = reading(shape, logical), pg_column(shape)
    raw = f"r.{ident(column.name)}"
    condition = _comes_back(column, logical, raw)
    if condition is None:
        return read
    value = read.value if read.declared == "text" else f"{raw}::{column.limited}"
    what = literal(f" would be another key in column {column.name} {column.declared}")
    return Reading(
        column.name, "text", f"CASE WHEN ({condition}) IS NOT FALSE THEN {value} ELSE {_refusal(column, raw, what)} END"
    )


def _comes_back(column: PgColumn, logical: str, raw: str) -> str | None:
    """The condition that a key's value goes out as it came; None where all do."""
    own = column.logical
    if {logical, own} <= _NUMBERS or (logical, own) == ("int", "bool") or (own == logical and own.startswith("pg:")):
        return None
    if own == "text" and column.kind != "bpchar":
        return None if logical == own or logical in _TEXT_KEEPS or logical.startswith("pg:") else "false"
    if own == logical and own in _KEPT and column.kind != "bpchar":
        return None
    if own == "bytes" or logical == "bytes":
        return None
    if own in _ONE_FORM:
        return f"{raw}::{column.base}::text = {raw}"
    if column.kind == "bool":
        return f"{raw} IN ('0', '1')" if logical == "text" else "false"
    typed = f"(SELECT {raw}::{column.limited} AS {ident(column.name)}) AS k"
    comes_back = f"(SELECT {key_value(column, 'k')} #>> '{{}}' FROM {typed})"
    if own not in _INSTANTS:
        return f"{comes_back} = {raw}"
    if logical == "text":
        return f"translate({comes_back}, 'T', ' ') = {raw}"
    return f"translate({comes_back}, 'T', ' ') = translate({raw}, 'T', ' ')"


def _conditions(column: PgColumn, logical: str, raw: str) -> list[str]:
    """What must hold of the value's text for the column to keep it as it is."""
    conditions = []
    if column.kind in _WRITTEN:
        conditions.append(_is_written(column.kind, raw))
    elif _HOLDS_INSTANTS.fullmatch(column.kind):
        conditions.append(f"{raw} ~ {literal(_NO_WORDS)} AND {raw} !~ {literal(_CHANGED_IN_INSTANTS)}")
    elif (changed := _CHANGED.get(column.kind.removeprefix("_"))) is not None:
        conditions.append(f"{raw} !~ {literal(changed)}")
    elif column.kind in _ROUNDED and logical != column.logical:
        conditions.append(f"{raw}::{column.base}::text::numeric[] = {raw}::numeric[]")
    if column.limited != column.base and column.kind not in _REFUSE_BY_THEMSELVES:
        conditions.append(f"{raw}::{column.base} = {raw}::{column.limited}")
    if column.kind == "float4" or (column.kind == "float8" and logical != "float"):
        conditions.append(f"{raw}::{column.kind}::text::numeric = {raw}::numeric")
    if column.kind == "bool" and logical != "bool":
        conditions.append(f"{raw} IN {_TRUTHS}")
    if (column.logical in _ONE_FORM and logical == "text") or column.kind in _COME_BACK:
        conditions.append(f"{raw}::{column.base}::text = {raw}")
    return conditions


def _is_written(kind: str, raw: str) -> str:
    right = f"{raw} ~ {literal(_WRITTEN[kind])}"
    usual = ", ".join(map(literal, _AS_WE_WRITE.get(kind, ())))
    if not usual:
        return right
    on_the_clock = f"substr({raw}, 12, 2) <> '24' AND substr({raw}, 18, 2) <> '60'"
    return f"(translate({raw}, '123456789', '000000000') IN ({usual}) AND {on_the_clock} OR {right})"


def _guarded(column: PgColumn, raw: str, condition: str) -> str:
    # The cast may have a length, now that it is known to cut nothing: a char(n) is padded by it, as in a key it must.
    what = literal(f" does not fit column {column.name} {column.declared}")
    refusal = _refusal(column, raw, what)
    return f"CASE WHEN ({condition}) IS NOT FALSE THEN {raw}::{column.limited} ELSE {refusal} END"


def _refusal(column: PgColumn, raw: str, what: str) -> str:
    # There is no function that raises: text that is no boolean raises what a bad value raises (22P02), with the reason
    # in the message.
    return f"concat('value ', {raw}, {what})::boolean::text::{column.base}"
