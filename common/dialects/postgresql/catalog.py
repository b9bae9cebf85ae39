"""What the database holds: tables that can be captured, those that can't, and why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import dict_row

from common.dialects.postgresql.naming import wire_name
from common.dialects.postgresql.newer import ENFORCED, OF_PERIODS
from common.dialects.postgresql.types import BITS, PgColumn, PgForeignKey, PgTable, logical_type
from common.errors import ConfigError
from common.ports.dialect import Catalog, ForeignKey

Raw = psycopg.Connection[tuple[Any, ...]]

_RELATIONS = f"""
SELECT c.oid, n.nspname AS schema, c.relname AS bare, c.relkind::text AS kind, c.relpersistence::text AS persistence,
       current_schema() AS default_schema,
       (SELECT o.nspname FROM pg_class h JOIN pg_namespace o ON o.oid = h.relnamespace
        WHERE h.oid = to_regclass('rf_node')) AS home,
       EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
               AND d.deptype = 'e') AS of_extension,
       (SELECT min(f.conname) FROM pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f' AND {OF_PERIODS})
           AS period_key,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
               AND (NOT i.indimmediate OR i.indisexclusion))
       OR EXISTS (SELECT FROM pg_rewrite w WHERE w.ev_class = c.oid
                  AND (w.ev_type = '2' OR w.ev_type = '3' AND w.ev_enabled IN ('A', 'R'))) AS no_upsert,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary
               AND NOT i.indisexclusion AND i.indisvalid AND NOT i.indimmediate) AS late_keys
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
  AND NOT (n.nspname = current_schema() AND c.relname LIKE 'rf\\_%')
ORDER BY n.nspname, c.relname
"""

_COLUMNS = """
SELECT a.attrelid AS oid, a.attname AS name, a.attnum AS number, NOT a.attnotnull AS nullable,
       a.attgenerated <> '' AS generated,
       a.attidentity = 'a' AS identity_always, format_type(a.atttypid, a.atttypmod) AS declared,
       format_type(b.type_oid, NULL) AS spoken, format_type(b.type_oid, -1) AS base,
       format_type(b.type_oid, b.modifier) AS limited,
       CASE WHEN b.type_oid < 16384 THEN t.typname ELSE '' END AS kind, t.typtype = 'e' AS is_enum,
       EXISTS (SELECT FROM pg_type e WHERE e.oid IN (t.oid, CASE WHEN t.typcategory = 'A' THEN t.typelem END)
               AND e.oid >= 16384 AND e.typtype IN ('c', 'd', 'r', 'm')) AS of_others,
       a.atttypid::int8 AS type_id,
       (SELECT format('%%I.%%I', n.nspname, l.typname) FROM pg_type o
        JOIN pg_type l ON l.oid = CASE WHEN o.typarray = 0 AND o.typcategory = 'A' THEN o.oid ELSE o.typarray END
        JOIN pg_namespace n ON n.oid = l.typnamespace WHERE o.oid = a.atttypid) AS in_array,
       a.attidentity <> '' OR coalesce(d.adbin::text, '') LIKE '{FUNCEXPR%%:funcid ' || 'nextval'::regproc::oid || ' %%'
           AS numbers_itself,
       (SELECT l.collname FROM pg_collation l WHERE l.oid = a.attcollation AND NOT l.collisdeterministic)
           AS loose_collation,
       coalesce((
           SELECT format('OPERATOR(%%I.%%s)', n.nspname, o.oprname)
           FROM pg_index i
           JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) k(attnum, opclass) ON k.attnum = a.attnum
           JOIN pg_opclass c ON c.oid = k.opclass
           JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
                AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
           JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
           WHERE i.indrelid = a.attrelid AND i.indisprimary AND n.nspname <> 'pg_catalog' LIMIT 1), '=') AS equals
FROM pg_attribute a
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
CROSS JOIN LATERAL (
    WITH RECURSIVE below(type_oid, modifier) AS (
        VALUES (a.atttypid, a.atttypmod)
        UNION ALL
        SELECT t.typbasetype, t.typtypmod FROM below JOIN pg_type t ON t.oid = below.type_oid WHERE t.typtype = 'd')
    SELECT below.type_oid, below.modifier FROM below JOIN pg_type t ON t.oid = below.type_oid AND t.typtype <> 'd'
) b
JOIN pg_type t ON t.oid = b.type_oid
WHERE a.attrelid = ANY(%s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attrelid, a.attnum
"""

_KEYS = """
SELECT i.indrelid AS oid, i.indisprimary AS is_primary,
       array(SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE k.n <= i.indnkeyatts ORDER BY k.n) AS columns
FROM pg_index i
WHERE i.indrelid = ANY(%s::oid[]) AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
  AND (i.indisprimary OR NOT i.indisexclusion)
  AND (i.indexprs IS NULL OR i.indisprimary)
ORDER BY i.indrelid, i.indexrelid
"""

_REFERENCES = f"""
SELECT f.conrelid AS oid, f.confrelid AS parent, f.conname AS name,
       array(SELECT a.attname::text FROM unnest(f.conkey) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum ORDER BY k.n) AS columns,
       array(SELECT a.attname::text FROM unnest(f.confkey) WITH ORDINALITY k(attnum, n)
             JOIN pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum ORDER BY k.n) AS parent_columns,
       array(SELECT CASE WHEN s.nspname = 'pg_catalog' THEN '='
                         ELSE format('OPERATOR(%%I.%%s)', s.nspname, o.oprname) END
             FROM unnest(f.conpfeqop) WITH ORDINALITY k(operator, n) JOIN pg_operator o ON o.oid = k.operator
             JOIN pg_namespace s ON s.oid = o.oprnamespace ORDER BY k.n) AS equals,
       (SELECT p.relkind = 'p' FROM pg_class p WHERE p.oid = f.confrelid) AS parent_partitioned
FROM pg_constraint f
WHERE f.contype = 'f' AND f.conparentid = 0 AND f.conrelid = ANY(%s::oid[]) AND {ENFORCED}
ORDER BY f.conrelid, f.conname
"""

_FED = """
SELECT coalesce(pg_partition_root(r.srrelid), r.srrelid)::oid AS oid,
       array_agg(DISTINCT s.subname::text ORDER BY s.subname::text) AS subscriptions
FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid
WHERE coalesce(pg_partition_root(r.srrelid), r.srrelid)::oid = ANY(%s::oid[])
GROUP BY 1
"""

_LOOSE = frozenset(
    {
        *("citext", "citext[]", "interval", "interval[]", "json", "jsonb[]", "numeric[]", "numrange", "nummultirange"),
        *("debversion", "rational", "semver"),
    }
)
"""Types that take for equal what they write in two ways: `A` and `a`, 30 days and a month, 1.0 and 1."""
_ROUNDED = frozenset({"box2d", "box3d", "seg", "tdigest", "unit"})
"""Types of extensions whose own text has fewer digits than their values."""

_WHY_LEFT_OUT = {
    "v": "view",
    "m": "materialized view",
    "f": "foreign table",
    "t": "temporary table",
    "u": "unlogged table: a crash of the server empties it",
}


@dataclass(slots=True)
class _Found:
    """What the queries said about one table."""

    schema: str
    bare: str
    partitioned: bool
    no_upsert: bool
    late_keys: bool
    columns: list[PgColumn] = field(default_factory=list)
    pk: tuple[str, ...] = ()
    unique_keys: list[tuple[str, ...]] = field(default_factory=list)
    foreign_keys: list[ForeignKey] = field(default_factory=list)
    fed_by: tuple[str, ...] = ()


def read_catalog(raw: Raw) -> Catalog:
    """Look at every table that this account can see in the system catalogs."""
    names: dict[int, str] = {}
    found: dict[int, _Found] = {}
    left_out: dict[str, str] = {}
    for row in _rows(raw, _RELATIONS):
        _refuse_another_home(row)
        name = wire_name(row["schema"], row["bare"], row["default_schema"] or "")
        reason = _left_out(row)
        if reason:
            left_out[name] = reason
        else:
            names[row["oid"]] = name
            found[row["oid"]] = _Found(
                row["schema"], row["bare"], row["kind"] == "p", row["no_upsert"], row["late_keys"]
            )
    _add_details(raw, names, found)
    tables = {names[oid]: _shape(names[oid], found[oid]) for oid in names if found[oid].pk}
    keyless = tuple(sorted(names[oid] for oid in names if not found[oid].pk))
    return Catalog(tables=tables, keyless=keyless, left_out=left_out)


def _refuse_another_home(row: Mapping[str, Any]) -> None:
    """Every table would have another name on the wire, and those of Rowferry would be the owner's."""
    home, first = row["home"], row["default_schema"]
    if home is not None and home != first:
        raise ConfigError(
            f"the rf_ tables stand in schema {home}, and the search_path of this account names {first} first: name"
            f" {home} first (ALTER ROLE … IN DATABASE … SET search_path)"
        )


def _left_out(row: Mapping[str, Any]) -> str | None:
    if row["kind"] in "vmf":
        return _WHY_LEFT_OUT[row["kind"]]
    if row["persistence"] != "p":
        return _WHY_LEFT_OUT[row["persistence"]]
    if row["period_key"]:
        return f"its foreign key {row['period_key']} is for a PERIOD, which can't be kept while batches are applied"
    return "part of an extension" if row["of_extension"] else None


def _add_details(raw: Raw, names: Mapping[int, str], found: Mapping[int, _Found]) -> None:
    wanted = list(names)
    for row in _rows(raw, _COLUMNS, wanted):
        logical = logical_type(row["kind"], row.pop("spoken"))
        found[row.pop("oid")].columns.append(PgColumn(logical=logical, **row))
    for row in _rows(raw, _KEYS, wanted):
        columns = tuple(row["columns"])
        if row["is_primary"]:
            found[row["oid"]].pk = columns
        else:
            found[row["oid"]].unique_keys.append(columns)
    for row in _rows(raw, _REFERENCES, wanted):
        parent = names.get(row["parent"])
        if parent is not None:
            columns, parents, equals = tuple(row["columns"]), tuple(row["parent_columns"]), tuple(row["equals"])
            key = PgForeignKey(columns, parent, parents, row["name"], equals, row["parent_partitioned"])
            found[row["oid"]].foreign_keys.append(key)
    for row in _rows(raw, _FED, wanted):
        found[row["oid"]].fed_by = tuple(row["subscriptions"])


def _shape(name: str, found: _Found) -> PgTable:
    return PgTable(
        name=name,
        schema=found.schema,
        bare=found.bare,
        columns=tuple(found.columns),
        pk=found.pk,
        foreign_keys=tuple(found.foreign_keys),
        unique_keys=tuple(found.unique_keys),
        late_keys=found.late_keys,
        numbers_itself=any(column.numbers_itself for column in found.columns if column.name in found.pk),
        key_bits=min((BITS.get(column.base, 63) for column in found.columns if column.name in found.pk), default=63),
        loose_key=_loose_parts(found),
        rounded=tuple(f"{one.name} ({one.declared})" for one in found.columns if _bare_kind(one) in _ROUNDED),
        fed_by=found.fed_by,
        partitioned=found.partitioned,
        no_upsert=found.no_upsert,
    )


def _loose_parts(found: _Found) -> str | None:
    return " and ".join(filter(None, map(_loose, (one for one in found.columns if one.name in found.pk)))) or None


def _loose(column: PgColumn) -> str | None:
    if column.loose_collation is not None:
        return f"{column.name} under the collation {column.loose_collation}"
    return f"{column.name}, of type {column.declared}" if _bare_kind(column) in _LOOSE else None


def _bare_kind(column: PgColumn) -> str:
    return column.logical.removeprefix("pg:").rpartition(".")[2]


def _rows(raw: Raw, query: str, oids: Iterable[int] | None = None) -> list[dict[str, Any]]:
    with raw.cursor(row_factory=dict_row) as cursor:
        cursor.execute(query.encode(), None if oids is None else (list(oids),))
        return cursor.fetchall()
