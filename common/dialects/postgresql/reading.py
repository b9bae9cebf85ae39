"""How a value of the wire gets into a column: through the type's own input function, and never changed on the way.

An explicit cast cuts, an assignment rounds, a date drops its time of day, `today` becomes a date. So where a column
can change a value in silence its expression first asks whether it would, and if so fails with both named.
"""

from dataclasses import dataclass

from common.dialects.postgresql.naming import ident, literal
from common.dialects.postgresql.types import PgColumn, pg_column
from common.ports.dialect import ColumnShape

_DAY = r"\d{4,7}-\d\d-\d\d"
_HOUR = r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?"
_ENDLESS = "-?infinity"
_WRITTEN = {
    "date": rf"^({_DAY}( BC)?|{_ENDLESS})$",
    "time": rf"^{_HOUR}$",
    "timestamp": rf"^({_DAY}[T ]{_HOUR}( BC)?|{_ENDLESS})$",
    "timestamptz": rf"^({_DAY}[T ]{_HOUR}(Z|[+-]\d\d(:?\d\d(:\d\d)?)?)?( BC)?|{_ENDLESS})$",
}
"""Forms that come in as they are written. A `timestamptz` without an offset is UTC."""
_AS_WE_WRITE = {
    "timestamp": ("0000-00-00T00:00:00", "0000-00-00T00:00:00.000000"),
    "timestamptz": ("0000-00-00T00:00:00+00:00", "0000-00-00T00:00:00.000000+00:00"),
}
"""The usual forms, all digits made noughts: to look for these takes a quarter of the time of a regular expression."""
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


def _conditions(column: PgColumn, logical: str, raw: str) -> list[str]:
    """What must hold of the value's text for the column to keep it as it is."""
    conditions = []
    if column.kind in _WRITTEN:
        conditions.append(_is_written(column.kind, raw))
    if column.limited != column.base and column.kind not in _REFUSE_BY_THEMSELVES:
        conditions.append(f"{raw}::{column.base} = {raw}::{column.limited}")
    if column.kind == "float4" or (column.kind == "float8" and logical != "float"):
        conditions.append(f"{raw}::{column.kind}::text::numeric = {raw}::numeric")
    if column.kind == "bool" and logical != "bool":
        conditions.append(f"{raw} IN {_TRUTHS}")
    return conditions


def _is_written(kind: str, raw: str) -> str:
    right = f"{raw} ~ {literal(_WRITTEN[kind])}"
    usual = ", ".join(map(literal, _AS_WE_WRITE.get(kind, ())))
    return f"(translate({raw}, '123456789', '000000000') IN ({usual}) OR {right})" if usual else right


def _guarded(column: PgColumn, raw: str, condition: str) -> str:
    # There is no function that raises: text that is no boolean raises what a bad value raises (22P02), with the reason
    # in the message. The cast may have a length, now that it is known to cut nothing: a char(n) is padded by it, as it
    # must be in a key.
    what = literal(f" does not fit column {column.name} {column.declared}")
    refusal = f"concat('value ', {raw}, {what})::boolean::text::{column.base}"
    return f"CASE WHEN ({condition}) IS NOT FALSE THEN {raw}::{column.limited} ELSE {refusal} END"
