"""The SQL by which a trigger function goes on when the table was altered under it: what is left of the columns.

A column that has another type now is written, and told by its shape, as it will be once capture is installed anew."""

from collections.abc import Callable

import msgspec

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.naming import ident, literal, qualified
from common.dialects.postgresql.registry import encode_meta
from common.dialects.postgresql.types import LOGICAL, PgColumn, image_value, key_value, pg_column
from common.ports.dialect import ColumnShape, TableShape
from common.wire.records import TableMeta

_FIRST_OF_USERS = 16384
"""Types with lower numbers came with PostgreSQL."""


def _json(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _templates(kind: str, logical: str) -> str:
    """Two literals for `format` and a column's name: how its value is written in an image, and in a key."""
    column = PgColumn(name="?", declared="", logical=logical, kind=kind)
    return f"{_template(image_value(column, 'r'))}, {_template(key_value(column, 'r'))}"


def _template(expression: str) -> str:
    return literal(expression.replace("%", "%%").replace(f"r.{ident('?')}", "r.%1$I"))


_WELL_KNOWN = ",\n          ".join(
    f"({literal(kind)}, {literal(logical)}, {_templates(kind, logical)})" for kind, logical in LOGICAL.items()
)
_BUILT_IN = _templates("another", "pg:another")
_OF_USERS = _templates("", "pg:theirs")


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
      SELECT {literal(opening + "{")}
        || string_agg(e.member || CASE WHEN same THEN e.logical ELSE to_json(b.now[1])::text END, ',' ORDER BY e.place)
        || {literal("}" + closing)}
      {_columns_left(table, relation, "member, logical", _member_of_meta)})"""


def _member_of_meta(column: ColumnShape) -> str:
    return f"{literal(_json(column.name) + ':')}, {literal(_json(column.logical))}"


def _columns_left(table: CapturedTable, relation: str, names: str, pieces_of: Callable[[ColumnShape], str]) -> str:
    """The FROM of a query: the columns `e` that `relation` still has, with their pieces, and `a`, as they are now;
    whether that is the `same` type; and of another one `b.now`: what it is called, how a value is written, and a key.

    No cast writes a type that may be somebody's own: it would run its owner's code."""
    columns = ",\n        ".join(
        f"({place}, {pg_column(column).number}, {pg_column(column).type_id}, {literal(column.name)},"
        f" {pieces_of(column)})"
        for place, column in enumerate(table.shape.written)
    )
    # A column that was renamed has its number still; in a partition it may have another one.
    known = "a.attname = e.name" if table.partitioned else "a.attnum = e.number"
    # Nothing but pg_catalog is on the search_path: a type's name has its schema before it, that of the node's own too.
    home = f"(SELECT n.oid FROM pg_namespace n WHERE n.nspname = {literal(table.home)})"
    prefix = f"CASE t.typnamespace WHEN {home} THEN length(quote_ident({literal(table.home)})) + 1 ELSE 0 END"
    spoken = f"substr(format_type(t.oid, NULL), {prefix} + 1)"
    return f"""FROM (VALUES
        {columns}
      ) AS e(place, number, type_id, name, {names})
      JOIN pg_attribute a ON a.attrelid = {relation} AND {known} AND NOT a.attisdropped
      CROSS JOIN LATERAL (SELECT a.atttypid = e.type_id AS same) s
      CROSS JOIN LATERAL (SELECT CASE WHEN NOT s.same THEN (
        WITH RECURSIVE below(type_id) AS (
          VALUES (a.atttypid)
          UNION ALL
          SELECT d.typbasetype FROM below JOIN pg_type d ON d.oid = below.type_id AND d.typtype = 'd')
        SELECT ARRAY[coalesce(k.logical, 'pg:' || {spoken}), coalesce(k.value, w.value), coalesce(k.in_key, w.in_key)]
        FROM below JOIN pg_type t ON t.oid = below.type_id AND t.typtype <> 'd'
        JOIN (VALUES (true, {_BUILT_IN}), (false, {_OF_USERS})) w(built_in, value, in_key)
          ON w.built_in = (t.oid < {_FIRST_OF_USERS})
        LEFT JOIN (VALUES
          {_WELL_KNOWN}
        ) k(kind, logical, value, in_key) ON w.built_in AND k.kind = t.typname
        ) END AS now OFFSET 0) b"""


def row_of_what_is_left(table: CapturedTable, relation: str, source: str, before: str = "''") -> str:
    """The expression of a query: key and image of rows `q`, made of those of the columns that `relation` still has.

    NULL where a column of the key is gone: then the table has no key that it was captured by."""
    shape = table.shape
    names = "member, value, key_place, opening, in_key"
    return f"""(
      SELECT 'SELECT ' || {before} || 'concat(' || string_agg(
          format('%L, %s, ', e.opening, CASE WHEN same THEN e.in_key ELSE format(b.now[3], e.name) END), ''
          ORDER BY e.key_place) FILTER (WHERE e.key_place > 0)
        || '''}}''), ''{{'' || ' || string_agg(
          format('%L || coalesce(to_json(%s)::text, ''null'')', e.member,
                 CASE WHEN same THEN e.value ELSE format(b.now[2], e.name) END),
          ' || '', '' || ' ORDER BY e.place)
        || ' || ''}}'' FROM (SELECT ' || string_agg(format('q.%I AS %I', a.attname, e.name), ', ')
        || {source} || ') r'
      {_columns_left(table, relation, names, lambda column: _pieces(shape, column))}
      HAVING count(*) FILTER (WHERE e.key_place > 0) = {len(shape.pk)})"""


def _pieces(shape: TableShape, column: ColumnShape) -> str:
    """One column: its value, and its part of the key (place 0: none)."""
    name = _json(column.name)
    place = shape.pk.index(column.name) + 1 if column.name in shape.pk else 0
    opening = "," if place > 1 else "{"
    return ", ".join(
        [
            literal(f"{name} : "),
            literal(image_value(column, "r")),
            str(place),
            literal(f"{opening}{name}:"),
            literal(key_value(column, "r") if place else ""),
        ]
    )
