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
from common.dialects.postgresql.pinning import as_pinned, may_go_unpinned, pinned_settings
from common.dialects.postgresql.row_trigger import guard, pinned_body, row_body
from common.dialects.postgresql.shapes import relation
from common.ports.rules import own_key_refusal

# A policy that hides rows must be an error, not a hole in what TRUNCATE took.
_EVERY_SETTING = {**IMAGE_SETTINGS, "row_security": "off"}
# To plan its queries takes four times as long as to run them, and it runs for each row until capture fits again.
_OF_RESHAPED = {**_EVERY_SETTING, "plan_cache_mode": "force_generic_plan"}


def capture_sql(table: CapturedTable) -> list[str]:
    """Return the statements that install capture on a table that has none."""
    name = relation(table.shape)
    return [
        *_function(
            f"{table.reshaped}(relation oid, r anyelement, OUT shape int, OUT key text, OUT image text)",
            "record",
            _OF_RESHAPED,
            reshaped_body(table),
        ),
        *_row_functions(table),
        *_function(f"{table.truncate}()", "trigger", _EVERY_SETTING, _truncate_body(table)),
        *_right_to_add_partitions(table),
        f"CREATE TRIGGER {ident(table.capture_trigger)} AFTER INSERT OR UPDATE OR DELETE ON {name}"
        f" FOR EACH ROW EXECUTE FUNCTION {table.capture}()",
        *(_truncate_trigger(table, place) for place in (name, *(qualified(*leaf) for leaf in table.leaves))),
        *(_keys_guard(table) if table.counted_elsewhere else ()),
    ]


def _row_functions(table: CapturedTable) -> list[str]:
    capture, settings = f"{table.capture}()", pinned_settings(table.shape)
    if not may_go_unpinned(table.shape):
        return _function(capture, "trigger", settings, row_body(table))
    pinned = _function(f"{table.pinned}(r anyelement)", "text[]", settings, pinned_body(table)) if settings else []
    return [*pinned, *_function(capture, "trigger", None, row_body(table, as_pinned(settings)))]


def _right_to_add_partitions(table: CapturedTable) -> list[str]:
    """A new partition gets a clone of the trigger, and PostgreSQL asks whether who makes it may execute the function.

    The owner can forge nothing by it: they may write the table, and take its triggers off."""
    return [f"GRANT EXECUTE ON FUNCTION {table.capture}() TO {ident(table.owner)}"] if table.partitioned else []


def drop_sql(schema: str, function: str, arguments: str) -> str:
    """Return the statement that drops one of the functions, and with it the triggers that call it.

    The owner of a trigger's function may do that; DROP TRIGGER takes the owner of the table."""
    return f"DROP FUNCTION {qualified(schema, function)}({arguments}) CASCADE"


def _function(signature: str, returns: str, settings: Mapping[str, str] | None, body: str) -> list[str]:
    """`settings`: beside the search_path; None: not even that, for a body in which every name is qualified."""
    pins = ["search_path = pg_catalog, pg_temp"] if settings is not None else []
    pins += [f"{setting} = {literal(value)}" for setting, value in (settings or {}).items()]
    return [
        f"CREATE FUNCTION {signature} RETURNS {returns} LANGUAGE plpgsql SECURITY DEFINER\n"
        f"{''.join(f'SET {pin}{chr(10)}' for pin in pins)}AS {_dollar_quoted(body)}",
        f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC",
    ]


def _dollar_quoted(body: str) -> str:
    tag = "$rowferry$"
    while tag in body:
        tag = tag[:-1] + "_$"
    return f"{tag}\n{body}{tag}"


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
{guard(table, "true")}  IF v_rows IS NOT NULL THEN
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
