"""The SQL of capture for one table: two trigger functions and their triggers.

Nothing here depends on a column, so that whatever the owner does to the table works at once. A function that no longer
fits has another one log the columns that are left; `drifted` notices, and the next `install` makes it anew.
"""

from collections.abc import Mapping

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.chains import TRUNCATED
from common.dialects.postgresql.connection import IMAGE_SETTINGS
from common.dialects.postgresql.leftover import find_shape, reshaped_body, row_of_what_is_left
from common.dialects.postgresql.naming import ident, literal, qualified
from common.dialects.postgresql.pinning import checked, pinned_settings
from common.dialects.postgresql.shapes import image_expression, key_expression, relation
from common.ports.rules import append_only_refusal, own_key_refusal

# A policy that hides rows must be an error, not a hole in what TRUNCATE took.
_EVERY_SETTING = {**IMAGE_SETTINGS, "row_security": "off"}


def capture_sql(table: CapturedTable) -> list[str]:
    """Return the statements that install capture on a table that has none."""
    name = relation(table.shape)
    return [
        *_function(
            f"{table.reshaped}(relation oid, r anyelement, OUT shape int, OUT key text, OUT image text)",
            "record",
            _EVERY_SETTING,
            reshaped_body(table),
        ),
        *_function(f"{table.capture}()", "trigger", pinned_settings(table.shape), _row_body(table)),
        *_function(f"{table.truncate}()", "trigger", _EVERY_SETTING, _truncate_body(table)),
        *_right_to_add_partitions(table),
        f"CREATE TRIGGER {ident(table.capture_trigger)} AFTER INSERT OR UPDATE OR DELETE ON {name}"
        f" FOR EACH ROW EXECUTE FUNCTION {table.capture}()",
        *(_truncate_trigger(table, place) for place in (name, *(qualified(*leaf) for leaf in table.leaves))),
        *(_keys_guard(table) if table.counted_elsewhere else ()),
    ]


def _right_to_add_partitions(table: CapturedTable) -> list[str]:
    """A new partition gets a clone of the trigger, and PostgreSQL asks whether who makes it may execute the function.

    The owner can forge nothing by it: they may write the table, and take its triggers off."""
    return [f"GRANT EXECUTE ON FUNCTION {table.capture}() TO {ident(table.owner)}"] if table.partitioned else []


def drop_sql(schema: str, function: str, arguments: str) -> str:
    """Return the statement that drops one of the functions, and with it the triggers that call it.

    The owner of a trigger's function may do that; DROP TRIGGER takes the owner of the table."""
    return f"DROP FUNCTION {qualified(schema, function)}({arguments}) CASCADE"


def _function(signature: str, returns: str, settings: Mapping[str, str], body: str) -> list[str]:
    pinned = "".join(f"SET {setting} = {literal(value)}\n" for setting, value in settings.items())
    return [
        f"CREATE FUNCTION {signature} RETURNS {returns} LANGUAGE plpgsql SECURITY DEFINER\n"
        f"SET search_path = pg_catalog, pg_temp\n{pinned}AS {_dollar_quoted(body)}",
        f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC",
    ]


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
BEGIN
{_guard(table, "TG_OP <> 'INSERT'")}  BEGIN
    IF TG_OP <> 'INSERT' THEN
      v_before := {checked(shape, "OLD", image_expression(shape, "OLD"))};
      v_old_key := {key_expression(shape, "OLD")};
    END IF;
    IF TG_OP <> 'DELETE' THEN
      v_after := {checked(shape, "NEW", image_expression(shape, "NEW"))};
      v_new_key := {key_expression(shape, "NEW")};
    END IF;
  EXCEPTION WHEN OTHERS THEN
    -- The table was altered, and capture is not installed anew yet.
    IF TG_OP <> 'INSERT' THEN
      SELECT * INTO v_shape, v_old_key, v_before FROM {table.reshaped}(TG_RELID, OLD);
    END IF;
    IF TG_OP <> 'DELETE' THEN
      SELECT * INTO v_shape, v_new_key, v_after FROM {table.reshaped}(TG_RELID, NEW);
    END IF;
    IF v_shape IS NULL THEN
      RETURN NULL;
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


def _guard(table: CapturedTable, refused: str) -> str:
    """Refuses what the table's policy forbids. The functions of capture hold it: they stand wherever rows change, and
    what is applied passes both by."""
    if not table.append_only:
        return ""
    message = literal(append_only_refusal(table.shape.name))
    return f"""  IF {refused} THEN
    RAISE restrict_violation USING MESSAGE = {message}, SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
  END IF;
"""


def _keys_guard(table: CapturedTable) -> list[str]:
    """Refuses a key that a sequence here gave. Whether it did is known just before the row is inserted: then the
    sequence's last value in this session is the row's own."""
    message = literal(own_key_refusal(table.shape.name))
    conditions = " OR ".join(
        f"to_jsonb(NEW) ->> {literal(column)} = currval(to_regclass({literal(sequence)}))::text"
        for column, sequence in table.counted_elsewhere
    )
    body = f"""BEGIN
  IF {conditions} THEN
    RAISE restrict_violation USING MESSAGE = {message}, SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
  END IF;
  RETURN NEW;
EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN
  -- This session has taken nothing from the sequence; or whether it has may not be asked, which migrate has said.
  RETURN NEW;
END
"""
    grant = f"GRANT EXECUTE ON FUNCTION {table.keys}() TO {ident(table.owner)}"
    return [
        *_function(f"{table.keys}()", "trigger", {}, body),
        *([grant] if table.partitioned else []),
        f"CREATE TRIGGER {ident(table.keys_trigger)} BEFORE INSERT ON {relation(table.shape)}"
        f" FOR EACH ROW EXECUTE FUNCTION {table.keys}()",
    ]


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
  v_rows text := {row_of_what_is_left(table, "TG_RELID", rows, what)};
BEGIN
{_guard(table, "true")}  IF v_rows IS NOT NULL THEN
{find_shape(table, "TG_RELID", "v_shape")}    EXECUTE {head} || v_rows USING v_shape;
  END IF;
  RETURN NULL;
END
"""


def _truncate_trigger(table: CapturedTable, place: str) -> str:
    return (
        f"CREATE TRIGGER {ident(table.truncate_trigger)} BEFORE TRUNCATE ON {place}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {table.truncate}()"
    )
