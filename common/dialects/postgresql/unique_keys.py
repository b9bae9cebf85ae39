"""Unique indexes of a table but its primary key's, and generated columns: as SQL over a row of the table."""

from dataclasses import dataclass
from typing import Any

import psycopg

from common.dialects.postgresql.shapes import relation
from common.ports.dialect import TableShape

Raw = psycopg.Connection[tuple[Any, ...]]

_NO_HASH = "('money', 'bit', 'varbit', 'tsvector', 'tsquery')"
_INDEXES = f"""
SELECT c.relname, coalesce((to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false), pg_get_expr(i.indpred, i.indrelid),
       array(SELECT pg_get_indexdef(i.indexrelid, n, false) FROM generate_series(1, i.indnkeyatts) n ORDER BY n),
       array(SELECT CASE WHEN l.oid IS NOT NULL THEN format('%%I.%%I', s.nspname, l.collname) ELSE '' END
             FROM unnest(i.indcollation::oid[]) WITH ORDINALITY k(oid, n) LEFT JOIN pg_collation l ON l.oid = k.oid
             LEFT JOIN pg_namespace s ON s.oid = l.collnamespace WHERE k.n <= i.indnkeyatts ORDER BY k.n),
       array(SELECT CASE WHEN s.nspname = 'pg_catalog' THEN '='
                         ELSE format('OPERATOR(%%I.%%s)', s.nspname, o.oprname) END
             FROM unnest(i.indclass::oid[]) WITH ORDINALITY k(oid, n) JOIN pg_opclass p ON p.oid = k.oid
             JOIN pg_amop m ON m.amopfamily = p.opcfamily AND m.amopstrategy = 3
                  AND m.amoplefttype = p.opcintype AND m.amoprighttype = p.opcintype
             JOIN pg_operator o ON o.oid = m.amopopr JOIN pg_namespace s ON s.oid = o.oprnamespace
             WHERE k.n <= i.indnkeyatts ORDER BY k.n),
       array(SELECT coalesce(e.typname, t.typname) IN {_NO_HASH} OR t.oid >= 16384 AND t.typtype = 'b'
                    AND t.typelem = 0 AND NOT EXISTS (
                        SELECT FROM pg_opclass p JOIN pg_am m ON m.oid = p.opcmethod AND m.amname = 'hash'
                        JOIN pg_amproc f ON f.amprocfamily = p.opcfamily AND f.amprocnum = 2
                        WHERE p.opcdefault AND p.opcintype = t.oid)
             FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
             WHERE a.attrelid = i.indexrelid AND a.attnum <= i.indnkeyatts ORDER BY a.attnum)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE i.indrelid = %s::regclass AND i.indisunique AND NOT i.indisprimary AND i.indisvalid AND NOT i.indisexclusion
ORDER BY c.relname
"""
_GENERATED = """
SELECT a.attname, pg_get_expr(d.adbin, d.adrelid)
FROM pg_attribute a JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = %s::regclass AND a.attgenerated <> '' AND NOT a.attisdropped
"""


@dataclass(frozen=True, slots=True)
class IndexPart:
    """One column or expression of an index, over the table's bare column names."""

    sql: str
    collation: str
    """Qualified; empty for a type that has none."""
    equals: str
    by_text: bool
    """The type has no hash of its own; equal values have equal texts."""

    @property
    def hashed(self) -> str:
        """The expression that goes into the hash."""
        if self.by_text:
            return f"({self.sql})::text"
        return f"({self.sql}) COLLATE {self.collation}" if self.collation else f"({self.sql})"


@dataclass(frozen=True, slots=True)
class UniqueIndex:
    """What must not be there twice."""

    name: str
    nulls_are_equal: bool
    where: str | None
    parts: tuple[IndexPart, ...]

    @property
    def holds(self) -> str:
        """The condition under which the index holds for a row."""
        conditions = [f"({self.where})"] if self.where else []
        if not self.nulls_are_equal:
            conditions += [f"({part.sql}) IS NOT NULL" for part in self.parts]
        return " AND ".join(conditions) or "true"


def unique_indexes(raw: Raw, table: TableShape) -> list[UniqueIndex]:
    """Return the unique indexes of a table but the primary key's."""
    return [
        UniqueIndex(name, nulls_are_equal, where, tuple(IndexPart(*part) for part in zip(*parts, strict=True)))
        for name, nulls_are_equal, where, *parts in raw.execute(_INDEXES.encode(), (relation(table),)).fetchall()
    ]


def generated_columns(raw: Raw, table: TableShape) -> dict[str, str]:
    """Return the expressions of the columns that the database computes."""
    return dict(raw.execute(_GENERATED, (relation(table),)).fetchall())


def hash_of(expressions: list[str]) -> str:
    """Return the token of some values: 128 bits, the same for what their types and collations take for equal."""
    row = f"ROW({', '.join(expressions)})"
    return f"concat(hash_record_extended({row}, 0), ':', hash_record_extended({row}, 1))"
