"""Which settings of a session decide how the values of a table look as text.

Each setting that a trigger function pins costs every row, `search_path` most of all. So nothing is pinned where every
name is qualified and the session writes such values as they are to look; almost all sessions do."""

from collections.abc import Iterable, Mapping

from common.dialects.postgresql.connection import IMAGE_SETTINGS
from common.dialects.postgresql.naming import ident, literal
from common.dialects.postgresql.types import PgColumn, pg_column
from common.ports.dialect import ColumnShape, TableShape

_DATES = frozenset({"datestyle", "timezone"})
_FLOATS = frozenset({"extra_float_digits"})
_ALL = frozenset(IMAGE_SETTINGS)

_ALIKE: Mapping[str, tuple[str, ...]] = {
    "timezone": ("UTC", "Etc/UTC", "GMT"),
    "datestyle": ("ISO, MDY", "ISO, DMY", "ISO, YMD"),
    "extra_float_digits": ("1", "2", "3"),
    "bytea_output": ("hex",),
}
"""What writes values as the pinned setting does: the defaults of servers and drivers are among these."""

_IN_JSON: Mapping[str, frozenset[str]] = {
    # json_build_object writes dates and times as ISO 8601 whatever DateStyle says.
    **dict.fromkeys(("int", "decimal", "bool", "text", "bytes", "uuid", "json", "date", "timestamp"), frozenset()),
    "timestamptz": frozenset({"timezone"}),
    "interval": frozenset({"intervalstyle"}),
    "float": _FLOATS,
    "time": frozenset({"datestyle"}),
}
_NO_SETTING = """
bit bool bpchar char cidr inet int2 int2vector int4 int4multirange int4range int8 int8multirange int8range json jsonb
jsonpath macaddr macaddr8 name numeric nummultirange numrange oid oidvector pg_lsn text tid tsquery tsvector uuid varbit
varchar xid xid8 xml
"""
_OF_DATES = """
date datemultirange daterange time timestamp timestamptz timetz tsmultirange tsrange tstzmultirange tstzrange
"""
_OF_FLOATS = "box circle float4 float8 line lseg path point polygon"

_AS_TEXT: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(_NO_SETTING.split(), frozenset()),
    **dict.fromkeys(_OF_DATES.split(), _DATES),
    **dict.fromkeys(_OF_FLOATS.split(), _FLOATS),
    "bytea": frozenset({"bytea_output"}),
    "interval": frozenset({"intervalstyle"}),
    "money": frozenset({"lc_monetary"}),
}
"""By the type's name. All others, and those that did not come with PostgreSQL: every setting."""


def pinned_settings(table: TableShape) -> dict[str, str]:
    """Return the settings that the images of `table` need, in a fixed order, with their values."""
    needed = frozenset[str]().union(*(_needed(column) for column in table.written))
    return {name: value for name, value in IMAGE_SETTINGS.items() if name in needed}


def may_go_unpinned(table: TableShape) -> bool:
    """Whether the types of all columns are known, and a usual session writes them as they are to look.

    What a type of somebody's own looks like may depend on anything, on the search_path too."""
    return pinned_settings(table).keys() <= _ALIKE.keys()


def as_pinned(settings: Iterable[str]) -> str:
    """Return the condition that the session has these settings so that values look as under the pinned ones."""
    return " AND ".join(
        f"pg_catalog.current_setting({literal(name)}) OPERATOR(pg_catalog.=)"
        f" ANY (ARRAY[{', '.join(literal(value) for value in _ALIKE[name])}]::pg_catalog.text[])"
        for name in settings
    )


def checked(table: TableShape, row: str, expression: str) -> str:
    """Return the text `expression`, or an error where a column of `row` has another type than it had here.

    It takes no time: the comparison is parsed, where its two sides must have one type, and then left out as dead.
    Without it a value of a new type would be written under settings that were chosen for the old one, and by a cast to
    JSON that anybody may have made for a type of his own."""
    typed = [(f"{row}.{ident(column.name)}", pg_column(column)) for column in table.written]
    alike = " AND ".join(_is_typed(value, column, column.in_array) for value, column in typed if column.in_array)
    return f"CASE WHEN false AND {alike} THEN NULL ELSE {expression} END" if alike else expression


def _is_typed(value: str, column: PgColumn, in_array: str) -> str:
    """Return a condition that is parsed for a value of the column's type alone."""
    if column.declared.endswith("[]"):
        return f"{value} OPERATOR(pg_catalog.=) NULL::{in_array}"
    # ARRAY[…] of an array has the array's own type, and array_append takes a smaller number too.
    element = f"pg_catalog.array_append(NULL::{in_array}, {value}) IS NULL"
    return f"ARRAY[{value}] OPERATOR(pg_catalog.=) NULL::{in_array} AND {element}"


def _needed(column: ColumnShape) -> frozenset[str]:
    known = pg_column(column)
    if known.is_enum:
        return frozenset()
    if known.in_array is None:
        return _ALL
    if not column.logical.startswith("pg:"):
        return _IN_JSON[column.logical]
    return _AS_TEXT.get(known.kind.removeprefix("_"), _ALL)
