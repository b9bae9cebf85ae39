"""Tables that were renamed while captured: the server keeps their number, so what is known of their rows goes along."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg

from common.dialects.postgresql.captured import CapturedTable
from common.dialects.postgresql.naming import literal, qualified
from common.dialects.postgresql.registry import Installed, Registry
from common.ports.dialect import TableShape
from common.ports.standing import KEPT_BY_NAME

Raw = psycopg.Connection[tuple[Any, ...]]

_OIDS = "SELECT to_regclass(x)::oid FROM unnest(%s::text[]) x"
_KNOWN_BY_TABLE = ("rf_row_version", "rf_horizon", "rf_purge_tombstone")
_HAS_VERSIONS = "SELECT EXISTS (SELECT FROM rf_row_version v JOIN rf_table t USING (table_id) WHERE t.name = %s)"


def renamed_tables(
    raw: Raw, tables: Sequence[TableShape], registered: Mapping[str, Installed], paused: Collection[str]
) -> dict[str, str]:
    """Return the name under which each table is known that has another one now, by the new name.

    Left out is a new name under which rows are known already, and an old one that a table has again: an owner who
    rebuilds a table puts the old one aside so."""
    there = {shape.name for shape in tables} | set(paused)
    old = {found.relation: name for name, found in registered.items() if name not in there}
    fresh = [shape for shape in tables if shape.name not in registered] if old else []
    places = [qualified(shape.schema or "", shape.bare) for shape in fresh]
    oids = [oid for (oid,) in raw.execute(_OIDS, (places,))] if fresh else []
    return {
        shape.name: old[oid]
        for shape, oid in zip(fresh, oids, strict=True)
        if oid in old and raw.execute(_HAS_VERSIONS, (shape.name,)).fetchone() == (False,)
    }


def taken_along_sql(registry: Registry, table: CapturedTable, old_name: str) -> list[str]:
    """Return the statements that bring versions and tombstones of a table's rows to its new name, and what is not
    sealed yet: sealed under the old name it would miss the versions. What is sealed stays as it was sent."""

    def home(name: str) -> str:
        return qualified(table.home, name)

    old_id, new_id = registry.add_table(old_name), table.table_id
    seal, pending = home("rf_seal"), home("rf_seal_pending")
    snapshot = f"(SELECT snapshot::pg_snapshot FROM {seal})"
    # Nobody seals or applies from here on, and nobody who wrote the table is still at it.
    statements = [f"SELECT FROM {seal} FOR UPDATE"]
    for old, meta in registry.shapes(old_id).items():
        new = registry.add_shape(new_id, meta)
        set_shape = f"UPDATE {table.log} l SET shape_id = {new} WHERE l.shape_id = {old}"
        statements += [
            f"{set_shape} AND l.xid >= pg_snapshot_xmin({snapshot}) AND NOT pg_visible_in_snapshot(l.xid, {snapshot})",
            f"{set_shape} AND l.xid IN (SELECT unnest(xids) FROM {pending})",
            f"UPDATE {pending} SET first_shapes = array_replace(first_shapes, {old}, {new}),"
            f" last_shapes = array_replace(last_shapes, {old}, {new})"
            f" WHERE {old} = ANY(first_shapes) OR {old} = ANY(last_shapes)",
        ]
    statements += [
        f"UPDATE {home(known)} SET table_id = {new_id} WHERE table_id = {old_id}" for known in _KNOWN_BY_TABLE
    ]
    # What a row that stepped back claims by its keys is looked at anew, since keys of this table are new to who asks.
    renames = f"SET table_name = {literal(table.shape.name)} WHERE table_name = {literal(old_name)}"
    statements += [f"UPDATE {home(kept)} {renames}" for kept in KEPT_BY_NAME]
    return statements
