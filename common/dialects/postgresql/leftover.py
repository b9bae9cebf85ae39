"""The SQL by which a trigger function goes on when the table was altered under it: what is left of the columns."""

from collections.abc import Callable

import msgspec

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.naming import literal, qualified
from common.dialects.postgresql.registry import encode_meta
from common.dialects.postgresql.types import image_value, key_value, pg_column
from common.ports.dialect import ColumnShape, TableShape
from common.wire.records import TableMeta

_META_HEAD = '{"pk":[],"columns":{'

_NUMBERS = "{20,21,23,700,701,1700}"
"""The type numbers of int8, int2, int4, float4, float8, numeric."""
_INTEGERS = "{20,21,23}"
_BYTEA = "{17}"

_FIRST_OF_USERS = 16384
"""Types with lower numbers came with PostgreSQL."""


def reshaped_body(table: CapturedTable) -> str:
    """The body of a function (relation oid, r anyelement, OUT shape, OUT key, OUT image) for a row of any shape."""
    return f"""DECLARE
  v_row text := {row_of_what_is_left(table, "relation", "' FROM (SELECT ($1).*) q'")};
  v_meta text;
BEGIN
  IF v_row IS NOT NULL THEN
{find_shape(table, "relation", "shape")}    EXECUTE v_row INTO key, image USING r;
  END IF;
END
"""


def find_shape(table: CapturedTable, relation: str, shape: str) -> str:
    """The statements that find the number of the shape that is left: each log row has the columns of its shape."""
    shapes = qualified(table.home, "rf_shape")
    return f"""    v_meta := {_meta_of_what_is_left(table, relation)};
    LOOP
      SELECT s.shape_id INTO {shape} FROM {shapes} s WHERE s.table_id = {table.table_id} AND s.meta = v_meta;
      EXIT WHEN FOUND;
      INSERT INTO {shapes} (shape_id, table_id, meta)
      SELECT max(s.shape_id) + 1, {table.table_id}, v_meta FROM {shapes} s ON CONFLICT DO NOTHING;
    END LOOP;
"""


def _meta_of_what_is_left(table: CapturedTable, relation: str) -> str:
    # The last one: a key may be called so.
    opening, _, closing = encode_meta(TableMeta.model_construct(pk=table.shape.pk, columns={})).rpartition("{}")
    return f"""(
      SELECT {literal(opening + "{")} || string_agg(e.piece, ',' ORDER BY e.place) || {literal("}" + closing)}
      {_columns_left(table, relation, "piece", lambda column: literal(_member_of_meta(column)))})"""


def _member_of_meta(column: ColumnShape) -> str:
    return encode_meta(TableMeta.model_construct(pk=(), columns={column.name: column.logical}))[len(_META_HEAD) : -2]


def _columns_left(table: CapturedTable, relation: str, names: str, pieces_of: Callable[[ColumnShape], str]) -> str:
    """The FROM of a query: the columns `e` that `relation` still has, with their pieces, and `a`, as they are now."""
    columns = ",\n        ".join(
        f"({place}, {pg_column(column).number}, {literal(column.name)}, {pieces_of(column)})"
        for place, column in enumerate(table.shape.written)
    )
    # A column that was renamed has its number still; in a partition it may have another one.
    same = "a.attname = e.name" if table.partitioned else "a.attnum = e.number"
    return f"""FROM (VALUES
        {columns}
      ) AS e(place, number, name, {names})
      JOIN pg_attribute a ON a.attrelid = {relation} AND {same} AND NOT a.attisdropped"""


def row_of_what_is_left(table: CapturedTable, relation: str, source: str, before: str = "''") -> str:
    """The expression of a query: key and image of rows `q`, made of those of the columns that `relation` still has.

    NULL where a column of the key is gone: then the table has no key that it was captured by.
    A column that has another type now is written as that type writes it. No cast does that for a type that may be
    somebody's own: it would run its owner's code."""
    shape = table.shape
    names = "type_id, also, member, value, key_place, opening, in_key"
    return f"""(
      SELECT 'SELECT ' || {before} || 'concat(' || string_agg(
          format('%L, %s, ', e.opening, CASE WHEN fits THEN e.in_key ELSE format('to_json(%s)', other) END), ''
          ORDER BY e.key_place) FILTER (WHERE e.key_place > 0)
        || '''}}''), ''{{'' || ' || string_agg(
          format('%L || coalesce(to_json(%s)::text, ''null'')', e.member, CASE WHEN fits THEN e.value ELSE other END),
          ' || '', '' || ' ORDER BY e.place)
        || ' || ''}}'' FROM (SELECT ' || string_agg(format('q.%I AS %I', a.attname, e.name), ', ')
        || {source} || ') r'
      {_columns_left(table, relation, names, lambda column: _pieces(shape, column))}
      CROSS JOIN LATERAL (SELECT
        a.atttypid = e.type_id OR a.atttypid < {_FIRST_OF_USERS}
          AND (e.also IS NULL OR a.atttypid = ANY(e.also::oid[])) AS fits,
        CASE WHEN a.atttypid < {_FIRST_OF_USERS} THEN format('r.%I', e.name)
             ELSE format('CASE WHEN r.%1$I IS DISTINCT FROM NULL THEN format(''%%s'', r.%1$I) END', e.name)
        END AS other) t
      HAVING count(*) FILTER (WHERE e.key_place > 0) = {len(shape.pk)})"""


def _pieces(shape: TableShape, column: ColumnShape) -> str:
    """One column: its type, its value, and its part of the key (place 0: none)."""
    name = msgspec.json.encode(column.name).decode()
    place = shape.pk.index(column.name) + 1 if column.name in shape.pk else 0
    opening = "," if place > 1 else "{"
    return ", ".join(
        [
            str(pg_column(column).type_id),
            _types_that_fit(column, in_key=place > 0),
            literal(f"{name} : "),
            literal(image_value(column, "r")),
            str(place),
            literal(f"{opening}{name}:"),
            literal(key_value(column, "r") if place else ""),
        ]
    )


def _types_that_fit(column: ColumnShape, *, in_key: bool) -> str:
    """Of the types that came with PostgreSQL, those for which the column's expressions do too; NULL: all."""
    if column.logical == "bytes":
        return literal(_BYTEA)
    if in_key and column.logical == "int":
        # It stands in the key as it is, which is JSON for a whole number alone.
        return literal(_INTEGERS)
    return literal(_NUMBERS) if in_key and column.logical in ("decimal", "float") else "NULL"
