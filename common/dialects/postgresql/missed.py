"""What capture missed while it did not fit a table: logged by comparing, under the lock that installs it anew.

The rows are logged by this transaction as its own writes, so that sealing and everything after it know nothing new.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.naming import ident, literal, qualified
from common.dialects.postgresql.queries import partition_tree
from common.dialects.postgresql.shapes import image_expression, key_columns, key_expression, rows_of
from common.dialects.postgresql.snapshots import FOREIGN_XIDS
from common.dialects.postgresql.types import image_value

Raw = psycopg.Connection[tuple[Any, ...]]

UNKNOWN_WHEN = "'1970-01-01 00:00:00.000001+00'"
"""The weakest time (`sealing_sql.WEAKEST_US`). Whether such a row was written meanwhile is not known: it must not beat
what others write."""

_ADDED = """
SELECT a.attname, CASE WHEN a.atthasmissing THEN (a.attmissingval::text::text[])[1] END,
       format_type(a.atttypid, a.atttypmod), a.xmin::text
FROM pg_attribute a
WHERE a.attrelid = %s AND a.attnum > %s AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum
"""
_SINCE = """
SELECT greatest(pg_snapshot_xmax(pg_current_snapshot())::text::bigint - %s - max(greatest(
    age(a.xmin), CASE WHEN a.attnum > %s THEN age(c.xmin) ELSE 0 END)), 0)
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attrelid = %s AND a.attname = ANY(%s)
"""
"""The transaction in which the first of some columns came. Its default may have been dropped later, which makes the
column's own line in the catalog younger; the table's is as old as its last new column."""
_MUST_BE_TOLD = """
SELECT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = %s AND attname = ANY(%s) AND attnum > %s
    AND attnotnull AND NOT atthasdef AND attidentity = '')
"""
_A_DAY_AGO = f"""
SELECT coalesce((
    SELECT xid::text::bigint + 1 FROM rf_change_log
    WHERE captured_at < clock_timestamp() - interval '1 day' AND captured_at > {UNKNOWN_WHEN}
      AND xid < '{FOREIGN_XIDS}'
    ORDER BY xid DESC LIMIT 1), 0)
"""
"""As long as a row may wait elsewhere for such a column (limits.early_seconds), by the ids of this server's own
transactions."""
_NEEDED = """
SELECT EXISTS (
    SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
    WHERE a.attrelid = %s AND a.attname = ANY(%s)
      AND (a.attnum <= %s OR a.attnotnull OR a.atthasdef OR a.atthasmissing OR a.attidentity <> '' OR t.typtype = 'd'))
"""
_EARLIER = 1_000
"""`age` counts from the next transaction, and others begin while this is asked."""
_LEFT = f"""
{partition_tree("%(root)s")}
SELECT n.nspname, c.relname FROM pg_trigger t
JOIN pg_proc p ON p.oid = t.tgfoid AND p.pronamespace = current_schema()::regnamespace
JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE p.proname = %(function)s AND c.oid NOT IN (SELECT relid FROM tree) ORDER BY 1, 2
"""


class NewColumn(NamedTuple):
    """A column that a table got."""

    name: str
    value: str | None
    """What rows have in it that were there before; not told where the table was rewritten for it."""
    kind: str
    xid: str
    """The transaction that made it, or changed it since."""


@dataclass(frozen=True, slots=True)
class Missing:
    """What of a table was out of capture's sight since it was last installed."""

    whole: bool = False
    """All of it: it is another table than it was, its triggers were off, or a type changed, and with it the values."""
    leaves: tuple[tuple[str, str], ...] = ()
    """Partitions that came, or whose triggers were off."""
    left: tuple[tuple[str, str], ...] = ()
    """Partitions that went and still stand by themselves."""
    shrank: bool = False
    """Rows may have gone without a log row of theirs."""
    rekeyed: bool = False
    """A column of the key has another logical type: the rows are known under keys of another form."""
    added: tuple[NewColumn, ...] = ()
    since: int | None = None
    """The transaction from which on rows were logged without a column that is new, or has another name; also those of
    the last day, where another node may have had to set them aside without it."""
    needed: bool = True
    """One of these columns may hold something in a row that says nothing of it."""


def columns_since(raw: Raw, oid: int, last: int) -> tuple[NewColumn, ...]:
    """Return the columns that a table got after its column number `last`."""
    return tuple(NewColumn(*row) for row in raw.execute(_ADDED, (oid, last)))


def renamed_or_added(raw: Raw, oid: int, last: int, names: Sequence[str]) -> int | None:
    """Return the transaction from which on rows are to be sent again; None where there are no such columns.

    That is the one in which the first of them got its name. Where one has to be told of each row, neither empty nor by
    a default, it may have come to another node days before: what was written then without it waits there.
    `last`: the number of the newest column that was known before."""
    row = raw.execute(_SINCE, (_EARLIER, last, oid, list(names))).fetchone() if names else None
    if row is None or row[0] is None:
        return None
    if raw.execute(_MUST_BE_TOLD, (oid, list(names), last)).fetchone() != (True,):
        return int(row[0])
    (a_day_ago,) = raw.execute(_A_DAY_AGO).fetchone() or (0,)
    return min(int(row[0]), int(a_day_ago))


def are_needed(raw: Raw, oid: int, last: int, names: Sequence[str]) -> bool:
    """Tell whether a row that was logged without these columns may be another one elsewhere than here.

    A new column that may be empty, and is by itself, is as empty in such a row wherever it comes."""
    return any(found for (found,) in raw.execute(_NEEDED, (oid, list(names), last)))


def partitions_left(raw: Raw, oid: int, truncate_function: str) -> tuple[tuple[str, str], ...]:
    """Return the tables that still call a captured table's trigger function and are no part of it any more."""
    return tuple(
        (schema, name) for schema, name in raw.execute(_LEFT.encode(), {"root": oid, "function": truncate_function})
    )


def missed_sql(table: CapturedTable, missing: Missing) -> list[str]:
    """Return the statements that log what was missed."""
    everything = rows_of(table.shape)
    statements = [_gone_with(table, qualified(*leaf)) for leaf in missing.left]
    if missing.whole:
        statements.append(_differing(table, everything))
    else:
        statements += [_differing(table, f"ONLY {qualified(*leaf)}") for leaf in missing.leaves]
        if missing.added or missing.since is not None:
            statements.append(_filled(table, everything, missing))
    # After a new key type what is known would all seem gone, and the deletes would hit the rows under their new keys.
    if (missing.whole or missing.shrank) and not missing.rekeyed:
        statements.append(_gone(table))
    return statements


def _differing(table: CapturedTable, rows: str) -> str:
    """Rows that are not as this node last logged them. What others wrote is in no log here: it counts as different."""
    shape = table.shape
    # A row that is sent again is no update of anybody: an append-only table takes it as one that was inserted.
    new = "true" if table.append_only else "(v.key IS NULL)"
    return f"""INSERT INTO {table.log} (captured_at, shape_id, op, old_tid, new_tid, pk, before, after)
SELECT {UNKNOWN_WHEN}, {table.shape_id}, CASE WHEN {new} THEN 'I' ELSE 'U' END,
       CASE WHEN NOT {new} THEN c.place END, c.place, c.key,
       CASE WHEN NOT {new} THEN coalesce(l.after, c.image) END, c.image
FROM (SELECT r.ctid AS place, {key_expression(shape, "r")} AS key, {image_expression(shape, "r")} AS image
      FROM {rows} r) c
LEFT JOIN {_home(table, "rf_row_version")} v ON v.table_id = {table.table_id} AND v.key = c.key AND NOT v.deleted
LEFT JOIN ({last_logged(table)}) l ON l.pk = c.key
WHERE l.after IS DISTINCT FROM c.image
   OR v.node_id <> (SELECT node_id FROM {_home(table, "rf_node")} WHERE is_self)"""


def _filled(table: CapturedTable, rows: str, missing: Missing) -> str:
    """Rows that have something else in a new column than the rows that were there when it came, and rows that were
    logged without a column since it came, where they need it: whoever does not have such a row could not make it
    without, or would make another one."""
    shape = table.shape
    columns = {column.name: column for column in shape.columns}
    before = ", ".join(f"{_value(new.value, new.kind)} AS {ident(new.name)}" for new in missing.added) or "1"
    written = [
        f"{image_value(columns[new.name], 'r')} IS DISTINCT FROM {image_value(columns[new.name], 'd')}"
        for new in missing.added
    ]
    # What the migration itself wrote, or rewrote: each node fills its rows by itself, which is nobody's write.
    as_told = " OR ".join(f"r.xmin = '{xid}'" for xid in sorted({new.xid for new in missing.added})) or "false"
    if missing.since is not None:
        without = f"{key_expression(shape, 'r')} IN ({_logged_without(table, missing.since)})"
        if missing.needed:
            written.append(without)
        # Its last write has its own log row: this one only completes it, and is no younger.
        as_told += f" OR {without}"
    when = f"CASE WHEN {as_told} THEN {UNKNOWN_WHEN} ELSE clock_timestamp() END"
    return f"""INSERT INTO {table.log} (captured_at, shape_id, op, old_tid, new_tid, pk, before, after)
SELECT {when}, {table.shape_id}, {"'I', NULL" if table.append_only else "'U', r.ctid"}, r.ctid,
       {key_expression(shape, "r")}, {"NULL" if table.append_only else "image"}, image
FROM {rows} r CROSS JOIN LATERAL (SELECT {image_expression(shape, "r")} AS image) i
CROSS JOIN (SELECT {before}) d
WHERE {" OR ".join(written) or "false"}"""


def _logged_without(table: CapturedTable, since: int) -> str:
    shapes = f"SELECT shape_id FROM {_home(table, 'rf_shape')} WHERE table_id = {table.table_id}"
    return (
        f"SELECT l.pk FROM {table.log} l WHERE l.xid >= '{since}'::xid8 AND l.shape_id IN ({shapes})"
        f" AND l.shape_id <> {table.shape_id} AND l.op <> 'D'"
    )


def _value(value: str | None, kind: str) -> str:
    return f"NULL::{kind}" if value is None else f"{literal(value)}::{kind}"


def _gone(table: CapturedTable) -> str:
    """Rows that this node knows to stand, and that do not."""
    shape = table.shape
    return f"""INSERT INTO {table.log} (captured_at, shape_id, op, pk, before)
SELECT {UNKNOWN_WHEN}, {table.shape_id}, 'D', v.key, coalesce(l.after, v.key)
FROM {_home(table, "rf_row_version")} v LEFT JOIN ({last_logged(table)}) l ON l.pk = v.key
WHERE v.table_id = {table.table_id} AND NOT v.deleted AND {_has_this_form(table)}
  AND NOT EXISTS (SELECT FROM {_home(table, "rf_stepped_back")} s
                  WHERE s.table_name = {literal(shape.name)} AND s.key = v.key)
  AND NOT EXISTS (SELECT FROM {rows_of(shape)} r WHERE {key_expression(shape, "r")} = v.key)
  AND NOT EXISTS (SELECT FROM {table.log} w
                  WHERE w.xid = pg_current_xact_id() AND w.shape_id = {table.shape_id} AND w.pk = v.key)"""


def _has_this_form(table: CapturedTable) -> str:
    """Whether `v.key` is a key of the table as it is: another table of its name may have had another one."""
    names = ", ".join(literal(name) for name in table.shape.pk)
    conditions = [f"array(SELECT json_object_keys(v.key::json)) = ARRAY[{names}]"]
    for column in key_columns(table.shape):
        # A float may be a number or the text "NaN".
        if column.logical != "float":
            operator = "=" if column.logical == "int" else "<>"
            conditions.append(f"json_typeof(v.key::json -> {literal(column.name)}) {operator} 'number'")
    return " AND ".join(conditions)


def _gone_with(table: CapturedTable, leaf: str) -> str:
    shape = table.shape
    return f"""INSERT INTO {table.log} (captured_at, shape_id, op, old_tid, pk, before)
SELECT {UNKNOWN_WHEN}, {table.shape_id}, 'D', r.ctid, {key_expression(shape, "r")}, {image_expression(shape, "r")}
FROM ONLY {leaf} r"""


def last_logged(table: CapturedTable) -> str:
    """Return the query for the newest image `after` that the log has of each `pk` of a table."""
    shapes = f"SELECT shape_id FROM {_home(table, 'rf_shape')} WHERE table_id = {table.table_id}"
    return f"""SELECT DISTINCT ON (pk) pk, after FROM {table.log}
      WHERE shape_id IN ({shapes}) ORDER BY pk, seq DESC"""


def _home(table: CapturedTable, name: str) -> str:
    return qualified(table.home, name)
