"""Which logical type a column has, and the SQL expression that writes its value into an image, lossless."""

from dataclasses import dataclass

import msgspec

from common.dialects.postgresql.naming import ident, literal
from common.ports.dialect import ColumnShape, ForeignKey, TableShape

LOGICAL = {
    "int2": "int",
    "int4": "int",
    "int8": "int",
    "numeric": "decimal",
    "float4": "float",
    "float8": "float",
    "bool": "bool",
    "text": "text",
    "varchar": "text",
    "bpchar": "text",
    "bytea": "bytes",
    "date": "date",
    "time": "time",
    "timestamp": "timestamp",
    "timestamptz": "timestamptz",
    "interval": "interval",
    "uuid": "uuid",
    "json": "json",
    "jsonb": "json",
}
"""By the name of a type that came with PostgreSQL."""
_AS_TEXT = frozenset({"decimal", "interval", "json"})
_MOST_PAIRS = 50
"""json_build_object takes at most 100 arguments."""
BITS = {"smallint": 15, "integer": 31, "bigint": 63}
"""How wide the positive values of integer types are."""


@dataclass(frozen=True, slots=True)
class PgColumn(ColumnShape):
    """A column with what the catalog knows beyond the port's words."""

    base: str = ""
    """The type below its domains, without a length, fit for a cast: `numeric`, `bpchar`, `public.mood`."""
    kind: str = ""
    """Its name in `pg_type`: `numeric`, `varchar`, `mood`; empty for a type that did not come with PostgreSQL."""
    limited: str = ""
    """`base` with its length or precision where it has one: `numeric(10,2)`."""
    is_enum: bool = False
    of_others: bool = False
    """A composite, a range, or an array of such or of a domain, that somebody made: inside it are types that round."""
    type_id: int = 0
    """The number of its declared type, which may be a domain."""
    in_array: str | None = None
    """The type of `ARRAY[column]`, qualified; none for a domain that was made before PostgreSQL 11."""
    numbers_itself: bool = False
    """Its default counts up: serial or identity."""
    loose_collation: str | None = None
    """Its collation's name, where that takes different texts for one."""
    number: int = 0
    """It stays when the column is renamed."""
    equals: str = "="
    """The operator by which the primary key tells two values apart, whatever the search_path."""


@dataclass(frozen=True, slots=True)
class PgTable(TableShape):
    """A table with what decides how its rows are named in a statement, and written."""

    partitioned: bool = False
    no_upsert: bool = False
    """No `ON CONFLICT`: its primary key is `DEFERRABLE`, or it has rules that PostgreSQL does not take beside one."""


@dataclass(frozen=True, slots=True)
class PgForeignKey(ForeignKey):
    """A foreign key with the operators that it goes by."""

    equals: tuple[str, ...] = ()
    """For each column: the parent's stands on the left."""
    parent_partitioned: bool = False


def logical_type(kind: str, spoken: str) -> str:
    """Return the logical type of a base type; `spoken` is its usual name."""
    return LOGICAL.get(kind) or f"pg:{spoken}"


def pg_column(column: ColumnShape) -> PgColumn:
    """Return `column` as this dialect's catalog made it."""
    if not isinstance(column, PgColumn):
        raise TypeError(f"column {column.name!r} did not come from this dialect's catalog")
    return column


def image_value(column: ColumnShape, row: str) -> str:
    """Return the expression of one column's value inside an image; `row` is the row's name in the SQL."""
    value = f"{row}.{ident(column.name)}"
    if column.logical == "bytes":
        return f"pg_catalog.replace(pg_catalog.encode({value}, 'base64'), E'\\n', '')"
    if column.logical in _AS_TEXT:
        return f"{value}::pg_catalog.text"
    if not column.logical.startswith("pg:"):
        return value
    if pg_column(column).kind:
        return f"{value}::pg_catalog.text"
    # A type of an extension or a user may have casts that run their owner's code: format() calls the type's output
    # function and no cast. IS DISTINCT FROM, because a composite with a NULL in it is neither null nor not null.
    return f"CASE WHEN {value} IS DISTINCT FROM NULL THEN pg_catalog.format('%s', {value}) END"


def key_value(column: ColumnShape, row: str) -> str:
    """Return the JSON text of a key column, which is never null: equal keys must have equal texts."""
    value = f"{row}.{ident(column.name)}"
    if column.logical == "int":
        return value
    if column.logical == "decimal":
        value = f"pg_catalog.trim_scale({value})::pg_catalog.text"
    elif column.logical == "float":
        # -0 and 0 are one key; the zero has the column's type, or float4 would come out as float8.
        value = f"{value} OPERATOR(pg_catalog.+) 0::pg_catalog.{pg_column(column).kind}"
    else:
        value = image_value(column, row)
    return f"pg_catalog.to_json({value})"


def compact_object(pairs: list[tuple[str, str]]) -> str:
    """Return the expression of a JSON object as text without spaces, from names and JSON values that are not null."""
    pieces = []
    for place, (name, value) in enumerate(pairs):
        opening = "," if place else "{"
        pieces += [literal(f"{opening}{msgspec.json.encode(name).decode()}:"), value]
    return f"pg_catalog.concat({', '.join(pieces)}, '}}')"


def json_object(pairs: list[tuple[str, str]]) -> str:
    """Return the expression of a JSON object as text, from names and value expressions."""
    listed = [f"{literal(name)}, {value}" for name, value in pairs]
    pieces = [
        f"pg_catalog.json_build_object({', '.join(listed[start : start + _MOST_PAIRS])})::pg_catalog.text"
        for start in range(0, len(listed), _MOST_PAIRS)
    ]
    if len(pieces) == 1:
        return pieces[0]
    first, *middle, last = pieces
    joined = [f"pg_catalog.left({first}, -1)"]
    joined += [f"pg_catalog.substr(pg_catalog.left({piece}, -1), 2)" for piece in middle]
    joined.append(f"pg_catalog.substr({last}, 2)")
    return f"pg_catalog.concat_ws(', ', {', '.join(joined)})"
