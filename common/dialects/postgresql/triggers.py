"""The SQL of capture: two functions over a row, two trigger functions, and their triggers, for one table.

The row functions have SQL-standard bodies: PostgreSQL keeps them parsed, so that a renamed column stays the same
column, inlines them into the trigger, and refuses to drop or retype a column under them. That error names the
function, hence its name: the remedy.
"""

from dataclasses import dataclass

from common.dialects.postgresql.connection import IMAGE_SETTINGS
from common.dialects.postgresql.naming import fitting, ident, literal, qualified
from common.dialects.postgresql.shapes import image_expression, key_expression, relation
from common.ports.dialect import TableShape

TRIGGER_NAME = "!rowferry capture"
"""AFTER triggers run in the order of their names: the application's own, which may write the row again, come later."""
TRUNCATE_TRIGGER_NAME = "!rowferry truncate"
FUNCTION_PREFIXES = ("rowferry capture ", "rowferry truncate ", "rowferry pause ")


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
    def image(self) -> str:
        return self.function("rowferry pause ")

    @property
    def key(self) -> str:
        return self.function("rowferry pause ", ": key")

    @property
    def capture(self) -> str:
        return self.function("rowferry capture ")

    @property
    def truncate(self) -> str:
        return self.function("rowferry truncate ")

    @property
    def log(self) -> str:
        return qualified(self.home, "rf_change_log")


def capture_sql(table: CapturedTable) -> list[str]:
    """Return the statements that install capture on a table that has none."""
    row_type = relation(table.shape)
    return [
        _row_function(table.image, row_type, image_expression(table.shape, "r")),
        _row_function(table.key, row_type, key_expression(table.shape, "r")),
        _trigger_function(table.capture, _row_body(table)),
        _trigger_function(table.truncate, _truncate_body(table)),
        *(
            statement
            for signature in (f"{table.image}({row_type})", f"{table.key}({row_type})")
            for statement in _closed(signature)
        ),
        *_closed(f"{table.capture}()"),
        *_closed(f"{table.truncate}()"),
        f"CREATE TRIGGER {ident(TRIGGER_NAME)} AFTER INSERT OR UPDATE OR DELETE ON {row_type}"
        f" FOR EACH ROW EXECUTE FUNCTION {table.capture}()",
        *(_truncate_trigger(table, place) for place in (row_type, *(qualified(*leaf) for leaf in table.leaves))),
    ]


def drop_sql(schema: str, function: str, arguments: str) -> str:
    """Return the statement that drops one of the functions, and with it the triggers that call it.

    The owner of a trigger's function may do that; DROP TRIGGER takes the owner of the table."""
    return f"DROP FUNCTION {qualified(schema, function)}({arguments}) CASCADE"


def _closed(signature: str) -> list[str]:
    return [f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC"]


def _row_function(name: str, row_type: str, expression: str) -> str:
    return (
        f"CREATE FUNCTION {name}(r {row_type}) RETURNS text LANGUAGE sql STABLE\nBEGIN ATOMIC SELECT {expression}; END"
    )


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
    log, shape_id = table.log, table.shape_id
    return f"""DECLARE
  v_before text;
  v_after text;
  v_old_key text;
  v_new_key text;
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO {log} (shape_id, op, new_tid, pk, after)
    VALUES ({shape_id}, 'I', NEW.ctid, {table.key}(NEW), {table.image}(NEW));
  ELSIF TG_OP = 'DELETE' THEN
    INSERT INTO {log} (shape_id, op, old_tid, pk, before)
    VALUES ({shape_id}, 'D', OLD.ctid, {table.key}(OLD), {table.image}(OLD));
  ELSE
    v_before := {table.image}(OLD);
    v_after := {table.image}(NEW);
    -- What an application's trigger leaves as it was is logged all the same: the places of the row versions must form
    -- a chain where a nested change is logged before the change that caused it.
    IF v_before = v_after COLLATE "C" AND pg_trigger_depth() = 1 THEN
      RETURN NULL;
    END IF;
    v_old_key := {table.key}(OLD);
    v_new_key := {table.key}(NEW);
    IF v_old_key <> v_new_key COLLATE "C" THEN
      INSERT INTO {log} (shape_id, op, old_tid, pk, before)
      VALUES ({shape_id}, 'D', OLD.ctid, v_old_key, v_before);
      INSERT INTO {log} (shape_id, op, new_tid, pk, after)
      VALUES ({shape_id}, 'I', NEW.ctid, v_new_key, v_after);
    ELSE
      INSERT INTO {log} (shape_id, op, old_tid, new_tid, pk, before, after)
      VALUES ({shape_id}, 'U', OLD.ctid, NEW.ctid, v_new_key, v_before, v_after);
    END IF;
  END IF;
  RETURN NULL;
END
"""


def _truncate_body(table: CapturedTable) -> str:
    """The rows of a partition belong to its own trigger; the root's takes those of partitions that have none yet."""
    rows = f"ONLY {relation(table.shape)} r"
    if table.partitioned:
        rows = f"""{relation(table.shape)} r
  WHERE CASE WHEN TG_RELID = {literal(relation(table.shape))}::regclass
    THEN r.tableoid NOT IN (SELECT t.tgrelid FROM pg_trigger t WHERE t.tgname = {literal(TRUNCATE_TRIGGER_NAME)})
    ELSE r.tableoid = TG_RELID END"""
    return f"""BEGIN
  INSERT INTO {table.log} (shape_id, op, old_tid, pk, before)
  SELECT {table.shape_id}, 'D', r.ctid, {table.key}(r), {table.image}(r)
  FROM {rows};
  RETURN NULL;
END
"""


def _truncate_trigger(table: CapturedTable, place: str) -> str:
    return (
        f"CREATE TRIGGER {ident(TRUNCATE_TRIGGER_NAME)} BEFORE TRUNCATE ON {place}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION {table.truncate}()"
    )
