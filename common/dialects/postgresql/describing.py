"""PostgreSQL tables described for another database."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row

from common.dialects.postgresql.connection import pin_settings
from common.dialects.postgresql.newer import ENFORCED, OF_PERIODS
from common.dialects.postgresql.types import pg_column
from common.ports.dialect import ForeignKey, TableShape
from common.ports.table_making import Action, Checked, ColumnPlan, KeyPlan, Kind, Literal, ReferencePlan, TablePlan

Raw = psycopg.Connection[tuple[Any, ...]]
Row = dict[str, Any]

_WANTED = """
FROM unnest(%s::text[], %s::text[], %s::text[]) AS w(wire, schema, bare)
JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.bare
"""
_OWN_PATH = """
SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident(pg_catalog.current_schema()), true)
"""
"""What stands in any other schema is named with it then."""
_COLUMNS = f"""
SELECT w.wire, a.attname AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS declared,
       CASE WHEN a.attgenerated = '' THEN pg_catalog.pg_get_expr(d.adbin, d.adrelid) END AS written
{_WANTED}
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
"""
_REFERENCES = f"""
SELECT w.wire, f.conname AS name, f.confdeltype::text AS deleted, f.confupdtype::text AS updated,
       f.condeferrable AS deferrable, f.condeferred AS deferred,
       pg_catalog.to_jsonb(f) -> 'confdelsetcols' IS DISTINCT FROM 'null'
       AND pg_catalog.to_jsonb(f) ? 'confdelsetcols' AS some_columns
{_WANTED}
JOIN pg_catalog.pg_constraint f ON f.conrelid = c.oid AND f.contype = 'f' AND f.conparentid = 0 AND {ENFORCED}
"""
_INDEXES = f"""
SELECT w.wire, x.relname AS name, i.indisunique AS is_unique, i.indisprimary AS is_primary,
       i.indexprs IS NOT NULL OR i.indpred IS NOT NULL AS special,
       coalesce((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal,
       array(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.n <= i.indnkeyatts ORDER BY k.n) AS columns
{_WANTED}
JOIN pg_catalog.pg_index i ON i.indrelid = c.oid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
WHERE i.indisvalid AND (i.indisprimary OR NOT i.indisexclusion) ORDER BY i.indrelid, i.indexrelid
"""
_OTHERS = f"""
SELECT w.wire, o.words
{_WANTED}
CROSS JOIN LATERAL (
    SELECT 'the CHECK ' || k.conname FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'
    UNION ALL
    SELECT 'the EXCLUDE ' || k.conname FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'x'
    UNION ALL
    SELECT 'the WITHOUT OVERLAPS of ' || f.conname FROM pg_catalog.pg_constraint f
    WHERE f.conrelid = c.oid AND f.contype IN ('p', 'u') AND {OF_PERIODS}
    UNION ALL
    SELECT 'the foreign key ' || f.conname || ' (NOT ENFORCED)' FROM pg_catalog.pg_constraint f
    WHERE f.conrelid = c.oid AND f.contype = 'f' AND NOT {ENFORCED}
    UNION ALL
    SELECT 'the trigger ' || t.tgname FROM pg_catalog.pg_trigger t
    WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgname !~ '^[!~]rowferry '
    UNION ALL
    SELECT 'its partitions' WHERE c.relkind = 'p'
) o(words)
ORDER BY w.wire, o.words
"""
_ACTIONS = {
    "a": Action.NO_ACTION,
    "r": Action.RESTRICT,
    "c": Action.CASCADE,
    "n": Action.SET_NULL,
    "d": Action.SET_DEFAULT,
}
_COUNTING = frozenset({"smallint", "integer", "bigint"})
_NUMBER = r"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?"
_BARE_NUMBER = re.compile(_NUMBER, re.ASCII)
_CAST = re.compile(r"('(?:[^']|'')*'|NULL)(?:::(.+))?", re.DOTALL)
_NUMERIC = ("smallint", "integer", "bigint", "numeric", "real", "double precision")


def describe(raw: Raw, shapes: Sequence[TableShape]) -> dict[str, TablePlan]:
    """Return plans of these tables, by name."""
    # Defaults are written with dates, money and backslashes as these settings say.
    pin_settings(raw, standard_conforming_strings="on")
    raw.execute(_OWN_PATH)
    names = {shape.name for shape in shapes}
    wanted = [shape.name for shape in shapes], [shape.schema for shape in shapes], [shape.bare for shape in shapes]
    found = [_by_table(_rows(raw, query, wanted)) for query in (_COLUMNS, _REFERENCES, _INDEXES, _OTHERS)]
    return {shape.name: _plan(shape, names, *(rows.get(shape.name, []) for rows in found)) for shape in shapes}


def _rows(raw: Raw, query: str, wanted: tuple[object, ...]) -> list[Row]:
    with raw.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query.encode(), wanted).fetchall()


def _by_table(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["wire"], []).append(row)
    return found


def _plan(
    shape: TableShape,
    names: Collection[str],
    columns: list[Row],
    keys: list[Row],
    indexes: list[Row],
    others: list[Row],
) -> TablePlan:
    left_out: list[str] = []
    by_name = {row["name"]: row for row in columns}
    return TablePlan(
        name=shape.name,
        dialect="postgresql",
        columns=tuple(_column(shape, name, by_name[name], left_out) for name in (one.name for one in shape.columns)),
        pk=shape.pk,
        unique_keys=tuple(_unique_keys(indexes, left_out)),
        foreign_keys=tuple(_references(shape.foreign_keys, {row["name"]: row for row in keys}, names, left_out)),
        left_out=(*left_out, *(row["words"] for row in others)),
    )


def _column(shape: TableShape, name: str, row: Row, left_out: list[str]) -> ColumnPlan:
    column = pg_column(next(one for one in shape.columns if one.name == name))
    declared, written = row["declared"], None if column.numbers_itself else row["written"]
    types = {declared, column.declared, column.base, column.limited}
    if column.kind in ("text", "varchar"):
        types |= {"text", "character varying"}
    default = None if written is None else literal_of(written, types)
    if written is not None and default is None:
        left_out.append(f"the default of {name}: {written}")
    if column.numbers_itself and declared not in _COUNTING:
        left_out.append(f"the sequence of {name}: identity columns are integers")
    return ColumnPlan(
        name=name,
        logical=column.logical,
        declared=declared,
        base="" if column.limited == column.declared else column.limited,
        nullable=column.nullable,
        default=default,
        generated=column.generated,
        counts=column.numbers_itself and declared in _COUNTING,
    )


def _unique_keys(indexes: list[Row], left_out: list[str]) -> list[KeyPlan]:
    found: dict[KeyPlan, None] = {}
    for row in indexes:
        if row["is_primary"]:
            continue
        if not row["is_unique"]:
            left_out.append(f"the index {row['name']}")
        elif row["special"]:
            left_out.append(f"the unique index {row['name']}: it has an expression or a condition")
        else:
            found[KeyPlan(tuple(row["columns"]), row["nulls_equal"])] = None
    return list(found)


def _references(
    keys: Sequence[ForeignKey], rows: Mapping[str, Row], names: Collection[str], left_out: list[str]
) -> list[ReferencePlan]:
    found = []
    for key in keys:
        row = rows[key.name]
        if key.parent not in names:
            left_out.append(f"the reference of {', '.join(key.columns)} to {key.parent}")
            continue
        deleted = _ACTIONS[row["deleted"]]
        if row["some_columns"]:
            # For all columns it would be another action.
            left_out.append(f"ON DELETE {deleted.value} of some columns in {key.name}")
            deleted = Action.NO_ACTION
        when = Checked.AT_ONCE
        if row["deferrable"]:
            when = Checked.AT_COMMIT if row["deferred"] else Checked.DEFERRABLE
        updated = _ACTIONS[row["updated"]]
        found.append(ReferencePlan(key.columns, key.parent, key.parent_columns, deleted, updated, when))
    return found


def literal_of(written: str, types: Collection[str]) -> Literal | None:
    """Return a default that is a constant of one of these types; None for an expression."""
    if written in ("true", "false"):
        return Literal(Kind.BOOL, written)
    bare = written.removeprefix("(").removesuffix(")") if written.startswith("(-") else written
    if _BARE_NUMBER.fullmatch(bare):
        return Literal(Kind.NUMBER, bare)
    cast = _CAST.fullmatch(written)
    if cast is None:
        return None
    if cast[1] == "NULL":
        return Literal(Kind.NULL)
    text = cast[1][1:-1].replace("''", "'")
    if cast[2] in _NUMERIC and _BARE_NUMBER.fullmatch(text):
        return Literal(Kind.NUMBER, text)
    return Literal(Kind.TEXT, text) if cast[2] is None or cast[2] in types else None
