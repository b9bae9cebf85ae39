"""The SQL of capture for one table: two trigger functions and their triggers.

Nothing here depends on a column, so that whatever the owner does to the table works at once. A function that no longer
fits logs the columns that are left; `drifted` notices, and the next `install` makes it anew.
"""

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.chains import TRUNCATED
from common.dialects.postgresql.connection import IMAGE_SETTINGS
from common.dialects.postgresql.leftover import find_shape, row_of_what_is_left
from common.dialects.postgresql.naming import ident, literal, qualified
from common.dialects.postgresql.shapes import image_expression, key_expression, relation


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
    v_row := {row_of_what_is_left(table, "' FROM (SELECT ($1).*) q'")};
    IF v_row IS NULL THEN
      RETURN NULL;
    END IF;
{find_shape(table)}    IF TG_OP <> 'INSERT' THEN
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
  v_rows text := {row_of_what_is_left(table, rows, what)};
BEGIN
  IF v_rows IS NOT NULL THEN
{find_shape(table)}    EXECUTE {head} || v_rows USING v_shape;
  END IF;
  RETURN NULL;
END
"""


def _truncate_trigger(table: CapturedTable, place: str) -> str:
    return (
        f"CREATE TRIGGER {ident(table.truncate_trigger)} BEFORE TRUNCATE ON {place}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {table.truncate}()"
    )
