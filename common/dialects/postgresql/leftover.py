"""The SQL by which a trigger function goes on when the table was altered under it: what is left of the columns."""

from collections.abc import Callable

import msgspec

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.naming import literal, qualified
from common.dialects.postgresql.registry import encode_meta
from common.dialects.postgresql.shapes import key_expression
from common.dialects.postgresql.types import image_value, pg_column
from common.ports.dialect import ColumnShape
from common.wire.records import TableMeta

_META_HEAD = '{"pk":[],"columns":{'


def find_shape(table: CapturedTable) -> str:
    """The statements that find the number of the shape that is left: each log row has the columns of its shape."""
    shapes = qualified(table.home, "rf_shape")
    return f"""    v_meta := {_meta_of_what_is_left(table)};
    LOOP
      SELECT s.shape_id INTO v_shape FROM {shapes} s WHERE s.table_id = {table.table_id} AND s.meta = v_meta;
      EXIT WHEN FOUND;
      INSERT INTO {shapes} (shape_id, table_id, meta)
      SELECT max(s.shape_id) + 1, {table.table_id}, v_meta FROM {shapes} s ON CONFLICT DO NOTHING;
    END LOOP;
"""


def _meta_of_what_is_left(table: CapturedTable) -> str:
    # The last one: a key may be called so.
    opening, _, closing = encode_meta(TableMeta.model_construct(pk=table.shape.pk, columns={})).rpartition("{}")
    return f"""(
      SELECT {literal(opening + "{")} || string_agg(e.piece, ',' ORDER BY e.place) || {literal("}" + closing)}
      {_columns_left(table, _member_of_meta)})"""


def _member_of_meta(column: ColumnShape) -> str:
    return encode_meta(TableMeta.model_construct(pk=(), columns={column.name: column.logical}))[len(_META_HEAD) : -2]


def _columns_left(table: CapturedTable, piece_of: Callable[[ColumnShape], str]) -> str:
    """The FROM of a query: the columns `e` that TG_RELID still has, each with its piece, and `a`, as they are now."""
    columns = ", ".join(
        f"({place}, {pg_column(column).number}, {literal(column.name)}, {literal(piece_of(column))})"
        for place, column in enumerate(table.shape.written)
    )
    # A column that was renamed has its number still; in a partition it may have another one.
    same = "a.attname = e.name" if table.partitioned else "a.attnum = e.number"
    return f"""FROM (VALUES {columns}) AS e(place, number, name, piece)
      JOIN pg_attribute a ON a.attrelid = TG_RELID AND {same} AND NOT a.attisdropped"""


def row_of_what_is_left(table: CapturedTable, source: str, before: str = "''") -> str:
    """The expression of a query: key and image of rows `q`, made of those of the columns that TG_RELID still has.

    NULL where a column of the key is gone: then the table has no key that it was captured by."""
    shape = table.shape
    key = literal(f"{key_expression(shape, 'r')}, concat('{{', ")
    names = ", ".join(literal(name) for name in shape.pk)
    return f"""(
      SELECT 'SELECT ' || {before} || {key} || string_agg(e.piece, ' || '', '' || ' ORDER BY e.place) || ', ''}}'')'
        || ' FROM (SELECT ' || string_agg(format('q.%I AS %I', a.attname, e.name), ', ') || {source} || ') r'
      {_columns_left(table, _member)}
      HAVING count(*) FILTER (WHERE e.name IN ({names})) = {len(shape.pk)})"""


def _member(column: ColumnShape) -> str:
    name = literal(f"{msgspec.json.encode(column.name).decode()} : ")
    return f"{name} || coalesce(to_json({image_value(column, 'r')})::text, 'null')"
