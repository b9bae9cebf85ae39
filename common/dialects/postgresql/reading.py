"""How a value of the wire gets into a column: through the type's own input function, and never changed on the way.

An explicit cast cuts, an assignment rounds, a date drops its time of day, `today` becomes a date. So where a column
can change a value in silence its expression first asks whether it would, and if so fails with both named.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from common.dialects.postgresql.naming import ident, literal
from common.dialects.postgresql.types import PgColumn, key_value, pg_column
from common.ports.dialect import ColumnShape

_DAY = r"\d{4,7}-\d\d-\d\d"
_MINUTES = r":\d\d(:[0-5]\d(\.\d{1,6})?)?"
_HOUR = r"([01]\d|2[0-3])" + _MINUTES
"""A second 60, and the hour 24 of a day, come to stand as the next minute and the next day."""
_CLOCK = f"({_HOUR}|24{_MINUTES})"
_OFFSET = r"(Z|[+-]\d\d(:?\d\d(:\d\d)?)?)?"
"""Where there is none, UTC is meant."""
_ENDLESS = "-?infinity"
_INSTANTS = {
    "date": f"{_DAY}( BC)?",
    "time": _CLOCK,
    "timetz": _CLOCK + _OFFSET,
    "timestamp": f"{_DAY}[T ]{_HOUR}( BC)?",
    "timestamptz": f"{_DAY}[T ]{_HOUR}{_OFFSET}( BC)?",
}
_AS_WE_WRITE = {
    "timestamp": ("0000-00-00T00:00:00", "0000-00-00T00:00:00.000000"),
    "timestamptz": ("0000-00-00T00:00:00+00:00", "0000-00-00T00:00:00.000000+00:00"),
}
"""The usual forms, all digits made noughts: to look for these takes a quarter of the time of a regular expression."""
_HOLDS_INSTANTS = re.compile(r"_(?P<of>date|time|timestamp|timestamptz|timetz)|_?(?P<range>date|ts|tstz)(multi)?range")
_OF_RANGE = {"date": "date", "ts": "timestamp", "tstz": "timestamptz"}
_BETWEEN = r'[][(){}", ]|\\"|NULL|empty|' + _ENDLESS
"""What stands beside and between the instants of an array or a range."""
_ADDRESS = r"^(\d+\.){3}\d+(/\d+)?$|:"
"""Of less the type makes the network of a class: of 5 it makes 5.0.0.0/8."""
_HEX = "[0-9a-f]{2}"
_WRITTEN = {
    "date": f"^({_INSTANTS['date']}|{_ENDLESS})$",
    "time": f"^{_INSTANTS['time']}$",
    "timetz": f"^{_INSTANTS['timetz']}$",
    "timestamp": f"^({_INSTANTS['timestamp']}|{_ENDLESS})$",
    "timestamptz": f"^({_INSTANTS['timestamptz']}|{_ENDLESS})$",
    "interval": (
        rf"^(-?P[-+0-9YMWDTHS.,:]+|{_ENDLESS}"
        r"|@? ?([-+]?\d+(\.\d+)? ?[a-zA-Z]+ ?)*([-+]?\d+:\d\d(:\d\d(\.\d+)?)?)?( ?ago)?)$"
    ),
    "money": r"^-?\$?\d{1,3}(,?\d{3})*(\.\d*)?$",
    "inet": _ADDRESS,
    "cidr": _ADDRESS,
    "macaddr": rf"(?i)^(({_HEX}:){{5}}{_HEX}|({_HEX}-){{5}}{_HEX}|({_HEX}{_HEX}\.){{2}}{_HEX}{_HEX})$",
    "macaddr8": rf"(?i)^(({_HEX}:){{7}}{_HEX}|({_HEX}-){{7}}{_HEX}|({_HEX}{_HEX}\.){{3}}{_HEX}{_HEX})$",
}
"""Forms that come in as they are written. Their types read much else: a number as seconds, a day as the address of a
network card, an empty text as no money."""
_NUMBER = r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?|NaN|-?Infinity"
"""A text that is a number and nothing else: of `007` the noughts would be lost, and newer servers read `0x10`."""
_CHANGED = {
    "interval": r"\.\d{6}\d*[1-9]|\d[eE][+-]?\d|\.(?!(25|5|75)?0*\s*[yY])\d+\s*[yY]",
    "money": r"\.\d\d\d*[1-9]",
}
"""What is rounded: below a microsecond, below a cent; a year's fraction to months."""
_COME_BACK = frozenset({"name", "char", "oid", "xid", "xid8"})
"""Types that cut a text, or begin anew below zero."""
_READ_MORE = """
bit varbit tsvector tsquery tid int2vector oidvector pg_lsn pg_snapshot txid_snapshot
regclass regcollation regconfig regdictionary regnamespace regoper regoperator regproc regprocedure regrole regtype
_bit _varbit _tsvector _tsquery _interval _money _inet _cidr _macaddr _macaddr8
"""
_OWN_LETTERS = frozenset(_READ_MORE.split())
"""Types that make of a text what it did not say (`1010` of `xA`, two words of one). Of another type's value they take
what they would write themselves."""
_ROWS_OF_NUMBERS = frozenset({"_int2", "_int4", "_int8", "_numeric"})
_ROWS_OF_FLOATS = frozenset({"_float4", "_float8"})
_OF_DOUBLES = re.compile(r"_?(point|line|lseg|box|path|polygon|circle)|(cube|seg)(\[\])?")
_ANY_NUMBER = r"(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
_REFUSE_BY_THEMSELVES = frozenset({"bit", "varbit"})
_ESCAPED_COLON = r"\u003"
_NO_COLONS = r'"([^"\\]|\\.)*"|[^":]+'
"""What stands in a JSON document beside the colons behind its keys."""
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
    if column.kind == "jsonb":
        return Reading(column.name, "text", _guarded(column, raw, _keeps_its_keys(raw)))
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
_WITH_A_T = frozenset({"timestamp", "timestamptz"})


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
    return kind != "$text" or column.logical not in _WITH_A_T or "T" not in text


_TEXT_OF = {
    "int": re.compile(r"0|-?[1-9]\d*", re.ASCII),
    "decimal": re.compile(_NUMBER, re.ASCII),
    "float": re.compile(_NUMBER, re.ASCII),
    "bool": re.compile("[01tf]|true|false"),
    "uuid": re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
}


def takes_text(column: ColumnShape, text: str) -> bool:
    """Tell whether a text that SQLite sent from a column of another class is what it looks like here. The statements
    ask this of whole columns of text alone."""
    form = _TEXT_OF.get(column.logical)
    return form is None or form.fullmatch(text) is not None


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
    if own not in _WITH_A_T:
        return f"{comes_back} = {raw}"
    if logical == "text":
        return f"translate({comes_back}, 'T', ' ') = {raw}"
    return f"translate({comes_back}, 'T', ' ') = translate({raw}, 'T', ' ')"


def _conditions(column: PgColumn, logical: str, raw: str) -> list[str]:
    """What must hold of the value's text for the column to keep it as it is."""
    conditions = list(_of_the_letters(column, logical, raw))
    if column.limited != column.base and column.kind not in _REFUSE_BY_THEMSELVES:
        conditions.append(f"{raw}::{column.base} = {raw}::{column.limited}")
    if column.kind == "float4" or (column.kind == "float8" and logical != "float"):
        conditions.append(f"{raw}::{column.kind}::text::numeric = {raw}::numeric")
    if column.kind == "bool" and logical != "bool":
        conditions.append(f"{raw} IN {_TRUTHS}")
    return conditions


def _of_the_letters(column: PgColumn, logical: str, raw: str) -> Iterator[str]:
    kind, is_own = column.kind, logical == column.logical
    if kind in _WRITTEN:
        yield _is_written(kind, raw)
    elif (instant := _instant_within(kind)) is not None:
        yield f"{raw} ~ {literal(_many(instant))}"
    elif _must_come_back(column, logical):
        yield f"{_comes_out(column, raw)} = {raw}"
    elif not is_own:
        yield from _of_numbers(column, logical, raw)
    if (changed := _CHANGED.get(kind.removeprefix("_"))) is not None:
        yield f"{raw} !~ {literal(changed)}"


def _must_come_back(column: PgColumn, logical: str) -> bool:
    """Tell whether the type has to write the value as it came."""
    if column.of_others or column.kind in _COME_BACK:
        return True
    if logical == column.logical:
        return False
    if column.logical in _ONE_FORM:
        return logical not in _NUMBERS
    if not column.logical.startswith("pg:"):
        return False
    # A text may be any of them. A number or a day is none, though some types take one.
    return column.kind in _OWN_LETTERS or not (logical == "text" or logical.startswith("pg:"))


def _of_numbers(column: PgColumn, logical: str, raw: str) -> Iterator[str]:
    """Types of numbers, and of several: all digits must be kept."""
    kind = column.kind
    if column.logical in _NUMBERS and logical not in _NUMBERS:
        yield f"{raw} ~ {literal(f'^({_NUMBER})$')}"
    elif kind in _ROWS_OF_FLOATS:
        yield f"{_comes_out(column, raw)}::numeric[] = {raw}::numeric[]"
    elif kind in _ROWS_OF_NUMBERS:
        yield f"{_comes_out(column, raw)} = replace({raw}, ' ', '')"
    elif _OF_DOUBLES.fullmatch(kind or column.base.rpartition(".")[2]):
        yield f"{_numbers_in(_comes_out(column, raw))} = {_numbers_in(raw)}"


def _comes_out(column: PgColumn, raw: str) -> str:
    return f"{raw}::{column.base}::text"


def _numbers_in(text: str) -> str:
    return f"(SELECT array_agg(m[1]::numeric) FROM regexp_matches({text}, {literal(_ANY_NUMBER)}, 'g') AS m)"


def _keeps_its_keys(raw: str) -> str:
    """The condition that no key comes twice in an object of a JSON document: a jsonb would keep the last alone."""
    written = f"{raw}::jsonb::text"
    counts = " = ".join(f"length({one}) - length(replace({one}, ':', ''))" for one in (written, raw))
    # All colons counted is quicker by far, and enough where none is written as an escape.
    quickly = f"{counts} AND strpos({raw}, {literal(_ESCAPED_COLON)}) = 0"
    of_written, of_raw = (f"regexp_replace({one}, {literal(_NO_COLONS)}, '', 'g')" for one in (written, raw))
    return f"{written} = {raw} OR {quickly} OR {of_written} = {of_raw}"


def _instant_within(kind: str) -> str | None:
    """The type of the instants in an array or a range; None where there are none."""
    found = _HOLDS_INSTANTS.fullmatch(kind)
    return found and (found["of"] or _OF_RANGE[found["range"]])


def _many(instant: str) -> str:
    return rf"^(\[-?\d+:-?\d+\])*=?({_BETWEEN}|{_INSTANTS[instant]})*$"


def _is_written(kind: str, raw: str) -> str:
    right = f"{raw} ~ {literal(_WRITTEN[kind])}"
    usual = ", ".join(map(literal, _AS_WE_WRITE.get(kind, ())))
    if not usual:
        return right
    on_the_clock = f"substr({raw}, 12, 2) <> '24' AND substr({raw}, 18, 2) <> '60'"
    return f"(translate({raw}, '123456789', '000000000') IN ({usual}) AND {on_the_clock} OR {right})"


def _guarded(column: PgColumn, raw: str, condition: str) -> str:
    # The cast may have a length, now that it is known to cut nothing: a char(n) is padded by it, as in a key it must.
    # To a bit(n) it would cut; what has no length is refused when it is assigned.
    kept = column.base if column.kind in _REFUSE_BY_THEMSELVES else column.limited
    what = literal(f" does not fit column {column.name} {column.declared}")
    refusal = _refusal(column, raw, what)
    return f"CASE WHEN ({condition}) IS NOT FALSE THEN {raw}::{kept} ELSE {refusal} END"


def _refusal(column: PgColumn, raw: str, what: str) -> str:
    # There is no function that raises: text that is no boolean raises what a bad value raises (22P02), with the reason
    # in the message.
    return f"concat('value ', {raw}, {what})::boolean::text::{column.base}"
