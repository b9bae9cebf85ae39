"""The SQL of capture for one table: two trigger functions and their triggers.

Nothing here depends on a column, so that whatever the owner does to the table works at once. A function that no longer
fits logs the columns that are left; `drifted` notices, and the next `install` makes it anew.
"""

from dataclasses import dataclass

import msgspec

from common.dialects.postgresql.chains import TRUNCATED
from common.dialects.postgresql.connection import IMAGE_SETTINGS
from common.dialects.postgresql.naming import fitting, ident, literal, qualified
from common.dialects.postgresql.registry import encode_meta
from common.dialects.postgresql.shapes import image_expression, key_expression, relation
from common.dialects.postgresql.types import image_value, pg_column
from common.ports.dialect import ColumnShape, TableShape
from common.wire.records import TableMeta

_TRIGGER_NAME = "!rowferry capture"
"""AFTER triggers run in the order of their names: the application's own, which may write the row again, come later.
The table's number follows: a table that is captured by itself may become a partition of another that is captured."""
_TRUNCATE_TRIGGER_NAME = "!rowferry truncate"
_META_HEAD = '{"pk":[],"columns":{'
FUNCTION_PREFIXES = ("rowferry capture ", "rowferry truncate ")


@dataclass(frozen=True, slots=True)
class CapturedTable:
    """One table as capture is to be made for it."""

    shape: TableShape
    home: str
    """The schema of the `rf_*` tables."""
    table_id: int
    shape_id: int
    partitioned: bool = False
    leaves: tuple[tuple[str, str], ...] = ()
    """Its leaf partitions, as (schema, name)."""

    def function(self, prefix: str, ending: str = "") -> str:
        return qualified(self.home, fitting(f"{prefix}{self.shape.name}{ending}"))

    @property
    def capture(self) -> str:
        return self.function("rowferry capture ")

    @property
    def truncate(self) -> str:
        return self.function("rowferry truncate ")

    @property
    def capture_trigger(self) -> str:
        return f"{_TRIGGER_NAME} {self.table_id}"

    @property
    def truncate_trigger(self) -> str:
        return f"{_TRUNCATE_TRIGGER_NAME} {self.table_id}"

    @property
    def function_names(self) -> tuple[str, str]:
        """Of the two trigger functions, as the catalog has them."""
        return fitting(f"rowferry capture {self.shape.name}"), fitting(f"rowferry truncate {self.shape.name}")

    @property
    def log(self) -> str:
        return qualified(self.home, "rf_change_log")


def capture_sql(table: CapturedTable) -> list[str]:
    """Return the statements that install capture on a table that has none."""
    name = relation(table.shape)
    return [
        _trigger_function(table.capture, _row_body(table)),
        _trigger_function(table.truncate, _truncate_body(table)),
        *(f"REVOKE ALL ON FUNCTION {function}() FROM PUBLIC" for function in (table.capture, table.truncate)),
        f"CREATE TRIGGER {ident(table.capture_trigger)} AFTER INSERT OR UPDATE OR DELETE ON {name}"
        f" FOR EACH ROW EXECUTE FUNCTION {table.capture}()",
        *(_truncate_trigger(table, place) for place in (name, *(qualified(*leaf) for leaf in table.leaves))),
    ]


def drop_sql(schema: str, function: str, arguments: str) -> str:
    """Return the statement that drops one of the functions, and with it the triggers that call it.

    The owner of a trigger's function may do that; DROP TRIGGER takes the owner of the table."""
    return f"DROP FUNCTION {qualified(schema, function)}({arguments}) CASCADE"


def _trigger_function(name: str, body: str) -> str:
    settings = "\n".join(f"SET {setting} = {literal(value)}" for setting, value in IMAGE_SETTINGS.items())
    return (
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER\n"
        f"SET search_path = pg_catalog, pg_temp\n{settings}\nSET row_security = off\n"
        f"AS {_dollar_quoted(body)}"
    )


def _dollar_quoted(body: str) -> str:
    tag = "$rowferry$"
    while tag in body:
        tag = tag[:-1] + "_$"
    return f"{tag}\n{body}{tag}"


def _row_body(table: CapturedTable) -> str:
    log, shape = table.log, table.shape
    return f"""DECLARE
  v_shape int := {table.shape_id};
  v_before text;
  v_after text;
  v_old_key text;
  v_new_key text;
  v_row text;
  v_meta text;
BEGIN
  BEGIN
    IF TG_OP <> 'INSERT' THEN
      v_before := {image_expression(shape, "OLD")};
      v_old_key := {key_expression(shape, "OLD")};
    END IF;
    IF TG_OP <> 'DELETE' THEN
      v_after := {image_expression(shape, "NEW")};
      v_new_key := {key_expression(shape, "NEW")};
    END IF;
  EXCEPTION WHEN OTHERS THEN
    -- The table was altered, and capture is not installed anew yet.
    v_row := {_row_of_what_is_left(table, "' FROM (SELECT ($1).*) q'")};
    IF v_row IS NULL THEN
      RETURN NULL;
    END IF;
{_find_shape(table)}    IF TG_OP <> 'INSERT' THEN
      EXECUTE v_row INTO v_old_key, v_before USING OLD;
    END IF;
    IF TG_OP <> 'DELETE' THEN
      EXECUTE v_row INTO v_new_key, v_after USING NEW;
    END IF;
  END;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO {log} (shape_id, op, new_tid, pk, after)
    VALUES (v_shape, 'I', NEW.ctid, v_new_key, v_after);
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO {log} (shape_id, op, old_tid, pk, before)
    VALUES (v_shape, 'D', OLD.ctid, v_old_key, v_before);
  ELSE
    -- What an application's trigger leaves as it was is logged all the same: the places of the row versions must form
    -- a chain where a nested change is logged before the change that caused it.
    -- So is it where this transaction may have made the row version; its own ids are never below its first.
    IF v_before = v_after COLLATE "C" AND pg_trigger_depth() = 1
       AND age(OLD.xmin) > age(pg_current_xact_id()::xid) THEN
      RETURN NULL;
    END IF;
    IF v_old_key <> v_new_key COLLATE "C" THEN
      INSERT INTO {log} (shape_id, op, old_tid, pk, before)
      VALUES (v_shape, 'D', OLD.ctid, v_old_key, v_before);
      INSERT INTO {log} (shape_id, op, new_tid, pk, after)
      VALUES (v_shape, 'I', NEW.ctid, v_new_key, v_after);
    ELSE
      INSERT INTO {log} (shape_id, op, old_tid, new_tid, pk, before, after)
      VALUES (v_shape, 'U', OLD.ctid, NEW.ctid, v_new_key, v_before, v_after);
    END IF;
  END IF;
  RETURN NULL;
END
"""


def _find_shape(table: CapturedTable) -> str:
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
    shape = table.shape
    pieces = ", ".join(
        f"({place}, {pg_column(column).number}, {literal(column.name)}, {literal(_member_of_meta(column))})"
        for place, column in enumerate(shape.written)
    )
    opening, closing = encode_meta(TableMeta.model_construct(pk=shape.pk, columns={})).split("{}")
    return f"""(
      SELECT {literal(opening + "{")} || string_agg(e.piece, ',' ORDER BY e.place) || {literal("}" + closing)}
      FROM (VALUES {pieces}) AS e(place, number, name, piece)
      {_columns_left(table)})"""


def _member_of_meta(column: ColumnShape) -> str:
    return encode_meta(TableMeta.model_construct(pk=(), columns={column.name: column.logical}))[len(_META_HEAD) : -2]


def _columns_left(table: CapturedTable) -> str:
    # A column that was renamed has its number still; in a partition it may have another one.
    same = "a.attname = e.name" if table.partitioned else "a.attnum = e.number"
    return f"JOIN pg_attribute a ON a.attrelid = TG_RELID AND {same} AND NOT a.attisdropped"


def _row_of_what_is_left(table: CapturedTable, source: str, before: str = "''") -> str:
    """The expression of a query: key and image of rows `q`, made of those of the columns that TG_RELID still has.

    NULL where a column of the key is gone: then the table has no key that it was captured by."""
    shape = table.shape
    pieces = ", ".join(
        f"({place}, {pg_column(column).number}, {literal(column.name)}, {literal(_member(column))})"
        for place, column in enumerate(shape.written)
    )
    key = literal(f"{key_expression(shape, 'r')}, concat('{{', ")
    names = ", ".join(literal(name) for name in shape.pk)
    return f"""(
      SELECT 'SELECT ' || {before} || {key} || string_agg(e.piece, ' || '', '' || ' ORDER BY e.place) || ', ''}}'')'
        || ' FROM (SELECT ' || string_agg(format('q.%I AS %I', a.attname, e.name), ', ') || {source} || ') r'
      FROM (VALUES {pieces}) AS e(place, number, name, piece)
      {_columns_left(table)}
      HAVING count(*) FILTER (WHERE e.name IN ({names})) = {len(shape.pk)})"""


def _member(column: ColumnShape) -> str:
    name = literal(f"{msgspec.json.encode(column.name).decode()} : ")
    return f"{name} || coalesce(to_json({image_value(column, 'r')})::text, 'null')"


def _truncate_body(table: CapturedTable) -> str:
    """The rows of a partition belong to its own trigger; the root's takes those of partitions that have none yet.

    The table is named by its number: it may have another name by now, and another table may have its name."""
    rows = "' FROM ONLY ' || TG_RELID::regclass || ' q'"
    if table.partitioned:
        others = f"SELECT t.tgrelid FROM pg_trigger t WHERE t.tgname = {literal(table.truncate_trigger)}"
        rows = f"""' FROM ' || TG_RELID::regclass || ' q WHERE q.tableoid = ' || TG_RELID
        || {literal(f" OR q.tableoid NOT IN ({others})")}"""
    head = literal(f"INSERT INTO {table.log} (shape_id, op, old_tid, pk, before) ")
    what = literal(f"$1, 'D', {literal(TRUNCATED)}::tid, ")
    return f"""DECLARE
  v_shape int;
  v_meta text;
  v_rows text := {_row_of_what_is_left(table, rows, what)};
BEGIN
  IF v_rows IS NOT NULL THEN
{_find_shape(table)}    EXECUTE {head} || v_rows USING v_shape;
  END IF;
  RETURN NULL;
END
"""


def _truncate_trigger(table: CapturedTable, place: str) -> str:
    return (
        f"CREATE TRIGGER {ident(table.truncate_trigger)} BEFORE TRUNCATE ON {place}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {table.truncate}()"
    )
