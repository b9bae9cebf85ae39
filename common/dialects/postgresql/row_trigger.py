"""What runs for each captured row: it writes one row to `rf_change_log` and nothing else.

Each name is qualified, operators and types too: the function may run under the search_path of whoever writes, and what
that finds first must never run with Rowferry's rights."""

from collections.abc import Callable

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.naming import literal
from common.dialects.postgresql.pinning import checked
from common.dialects.postgresql.shapes import image_expression, key_expression
from common.ports.rules import append_only_refusal

_IS_INSERT = "TG_OP OPERATOR(pg_catalog.=) 'INSERT'"
_IS_DELETE = "TG_OP OPERATOR(pg_catalog.=) 'DELETE'"


def row_body(table: CapturedTable, as_pinned: str = "") -> str:
    """The body of the trigger function.

    `as_pinned`: the condition under which values look as they should; where it does not hold, `pinned_body` writes
    them. Empty: they always do."""
    log = table.log
    return f"""DECLARE
  v_shape pg_catalog.int4 := {table.shape_id};
  v_before pg_catalog.text;
  v_after pg_catalog.text;
  v_old_key pg_catalog.text;
  v_new_key pg_catalog.text;
  v_pinned pg_catalog.text[];
BEGIN
{guard(table, f"NOT ({_IS_INSERT})")}  BEGIN
{_written(table, as_pinned)}  EXCEPTION WHEN OTHERS THEN
    -- The table was altered, and capture is not installed anew yet.
    IF NOT ({_IS_INSERT}) THEN
      SELECT * INTO v_shape, v_old_key, v_before FROM {table.reshaped}(TG_RELID, OLD);
    END IF;
    IF NOT ({_IS_DELETE}) THEN
      SELECT * INTO v_shape, v_new_key, v_after FROM {table.reshaped}(TG_RELID, NEW);
    END IF;
    IF v_shape IS NULL THEN
      RETURN NULL;
    END IF;
  END;
  IF {_IS_INSERT} THEN
    INSERT INTO {log} (shape_id, op, new_tid, pk, after)
    VALUES (v_shape, 'I', NEW.ctid, v_new_key, v_after);
  ELSIF {_IS_DELETE} THEN
    INSERT INTO {log} (shape_id, op, old_tid, pk, before)
    VALUES (v_shape, 'D', OLD.ctid, v_old_key, v_before);
  ELSE
    -- What an application's trigger leaves as it was is logged all the same: the places of the row versions must form
    -- a chain where a nested change is logged before the change that caused it.
    -- So is it where this transaction may have made the row version; its own ids are never below its first.
    IF v_before OPERATOR(pg_catalog.=) v_after COLLATE pg_catalog."C" AND {_first_touched()} THEN
      RETURN NULL;
    END IF;
    IF v_old_key OPERATOR(pg_catalog.<>) v_new_key COLLATE pg_catalog."C" THEN
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


def pinned_body(table: CapturedTable) -> str:
    """The body of a function (r anyelement) that returns key and image of a row, under settings of its own."""
    return f"""BEGIN
  RETURN ARRAY[{key_expression(table.shape, "r")}, {_image(table, "r")}];
END
"""


def guard(table: CapturedTable, refused: str) -> str:
    """Refuses what the table's policy forbids. The functions of capture hold it: they stand wherever rows change, and
    what is applied passes both by."""
    if not table.append_only:
        return ""
    message = literal(append_only_refusal(table.shape.name))
    return f"""  IF {refused} THEN
    RAISE restrict_violation USING MESSAGE = {message}, SCHEMA = TG_TABLE_SCHEMA, TABLE = TG_TABLE_NAME;
  END IF;
"""


def _first_touched() -> str:
    age = "pg_catalog.age({})"
    own = age.format("pg_catalog.pg_current_xact_id()::pg_catalog.xid")
    return (
        "pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 1\n"
        f"       AND {age.format('OLD.xmin')} OPERATOR(pg_catalog.>) {own}"
    )


def _written(table: CapturedTable, as_pinned: str) -> str:
    """The statements that write keys and images."""

    def here(row: str, name: str, when: str) -> str:
        return f"v_{name}_key := {key_expression(table.shape, row)};\n      v_{when} := {_image(table, row)};"

    def called(row: str, name: str, when: str) -> str:
        pinned = f"v_pinned := {table.pinned}({row});"
        return f"{pinned}\n      v_{name}_key := v_pinned[1];\n      v_{when} := v_pinned[2];"

    if not as_pinned:
        return _of_both_rows(here)
    return f"    IF {as_pinned} THEN\n{_of_both_rows(here)}    ELSE\n{_of_both_rows(called)}    END IF;\n"


def _of_both_rows(statements: Callable[[str, str, str], str]) -> str:
    return f"""    IF NOT ({_IS_INSERT}) THEN
      {statements("OLD", "old", "before")}
    END IF;
    IF NOT ({_IS_DELETE}) THEN
      {statements("NEW", "new", "after")}
    END IF;
"""


def _image(table: CapturedTable, row: str) -> str:
    return checked(table.shape, row, image_expression(table.shape, row))
