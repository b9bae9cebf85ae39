"""The short way on PostgreSQL: keys, versions and images go to the server once, and it answers yes or no.

The order of locks is that of `applying`: rows by their keys, then the turn, then versions; own writes are looked for
when everything is written.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.apply_settings import plan_for
from common.dialects.postgresql.arrays import number_array, text_array
from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.errors import translated_for
from common.dialects.postgresql.queries import escaped, lock_sql, recordset, same_key, target_rows
from common.dialects.postgresql.references import References
from common.dialects.postgresql.row_versions import INTO_ROW_VERSION, OVER_WHAT_STANDS
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import key_expression
from common.dialects.postgresql.turn import Turn
from common.dialects.postgresql.writing import delete_rows, insert_rows
from common.ports.dialect import TableShape
from common.ports.plain import RowRun
from common.versions import NEVER, Version
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_FIRST_MADE_ON = {"rf_new": "bool", "rf_epoch": "int", "rf_hlc": "bigint", "rf_node": "text"}
_LAST_VERSION = {
    "rf_epoch": "int",
    "rf_hlc": "bigint",
    "rf_node": "text",
    "rf_base_epoch": "int",
    "rf_base_hlc": "bigint",
    "rf_base_node": "text",
    "rf_deleted": "bool",
}

# A key that is given in two spellings would be written twice.
_CLAIM = """
SELECT t.table_id, EXISTS (SELECT FROM rf_paused WHERE table_name = %(table)s), k.keys, k.others
FROM (SELECT (SELECT table_id FROM rf_table WHERE name = %(table)s) AS table_id OFFSET 0) t
CROSS JOIN LATERAL (
    SELECT count(DISTINCT k.key COLLATE "C") AS keys, count(*) FILTER (WHERE NOT CASE
        WHEN v.hlc IS NULL THEN k.rf_new OR EXISTS (SELECT FROM {rows} t WHERE {same_key})
        ELSE v.main_epoch = k.rf_epoch AND v.hlc = k.rf_hlc AND v.node_id = k.rf_node AND (k.rf_new OR NOT v.deleted)
    END) AS others
    FROM (SELECT {key} AS key, r.* FROM {source} OFFSET 0) k
    LEFT JOIN LATERAL (
        SELECT * FROM rf_row_version v WHERE v.table_id = t.table_id AND v.key = k.key COLLATE "C" LIMIT 1
    ) v ON true) k
"""
_INSERT = f"""{INTO_ROW_VERSION}
SELECT %(table_id)s, {{key}}, rf_epoch, rf_hlc, rf_node, rf_base_epoch, rf_base_hlc, rf_base_node, rf_deleted
FROM {{source}}
"""
_UPSERT = _INSERT + OVER_WHAT_STANDS
_LOG_ROWS = """
    SELECT l.pk, l.shape_id FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) AS ended(low, high)
    CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid >= ended.low AND l.xid < ended.high OFFSET 0) l
    UNION ALL
    SELECT l.pk, l.shape_id FROM rf_seal_pending p JOIN rf_change_log l ON l.xid = p.xid
"""
_ANY_UNSEALED = f"SELECT EXISTS (SELECT FROM ({_LOG_ROWS}) l)"
_UNSEALED = f"""
SELECT EXISTS (
    SELECT FROM ({_LOG_ROWS}) l JOIN rf_shape s ON s.shape_id = l.shape_id AND s.table_id = %(table_id)s
    WHERE l.pk IN (SELECT {{key}} FROM {{source}}))
"""


class _Claimed(NamedTuple):
    rows: Rows
    table_id: int
    keys: str
    """Of all its runs, as one JSON array."""


class PostgresPlain:
    """For one applying transaction."""

    def __init__(self, connection: sa.Connection, turn: Turn, references: References) -> None:
        self._connection = connection
        self._raw: Raw = driver(connection)
        self._turn = turn
        self._references = references
        self._claimed: dict[str, _Claimed] = {}

    def claim(self, table: TableShape, meta: TableMeta, runs: Sequence[RowRun]) -> bool:
        """Lock the rows and look at their versions, in one round trip."""
        rows = Rows(table, meta)
        keys = rows.keys([run.pk for run in runs])
        given = {"pks": keys, "table": table.name, "rf_new": number_array([int(run.is_new) for run in runs])}
        given |= _versions([run.first_base for run in runs])
        with translated_for(table, self._raw.info.user):
            plan_for(self._connection, len(runs))
            with self._raw.pipeline():
                self._raw.execute(lock_sql(table, recordset(rows.key_readings(), "pks")), {"pks": keys})
                self._turn.ask()
                cursor = self._raw.execute(_claim_sql(rows), given)
            found = cursor.fetchone()
        if found is None or found[0] is None:
            return False
        table_id, is_paused, different, others = found
        self._claimed[table.name] = _Claimed(rows, table_id, keys)
        return not is_paused and different == len(runs) and others == 0

    def write(self, table: TableShape, runs: Sequence[RowRun]) -> None:
        """Write rows and versions, in one round trip."""
        rows, table_id, _ = self._claimed[table.name]
        gone = [run.pk for run in runs if run.image is None]
        images = [(run.image, None) for run in runs if run.image is not None]
        # What had no version when it was claimed has none now: under this turn nobody else makes one.
        first = [run for run in runs if run.first_base == NEVER]
        again = [run for run in runs if run.first_base != NEVER] if len(first) < len(runs) else []
        with translated_for(table, self._raw.info.user):
            self._references.before_write(rows, [run.pk for run in runs])
            with self._raw.pipeline():
                if gone:
                    delete_rows(self._raw, rows, gone)
                if images:
                    insert_rows(self._raw, rows, images)
                for statement, written in ((_INSERT, first), (_UPSERT, again)):
                    if written:
                        sql = statement.format(**_keys(rows, _LAST_VERSION))
                        self._raw.execute(sql.encode(), _written(rows, table_id, written))

    def holds(self, table: TableShape, runs: Sequence[RowRun], *, references: bool) -> bool:
        """Look for own writes, and at foreign keys."""
        claimed = self._claimed[table.name]
        with translated_for(table, self._raw.info.user):
            if self._is_unsealed(claimed):
                return False
            if not references:
                return True
            standing = [run.pk for run in runs if run.image is not None]
            gone = [run.pk for run in runs if run.image is None]
            broken = self._references.without_parent(claimed.rows, standing)
            return not broken and not self._references.left_behind(claimed.rows, gone)

    def _is_unsealed(self, claimed: _Claimed) -> bool:
        lows, highs = self._turn.ended_since()
        given = {"lows": lows, "highs": highs}
        if not _answer(self._raw.execute(_ANY_UNSEALED.encode(), given)):
            return False
        sql = _UNSEALED.format(**_keys(claimed.rows))
        given |= {"pks": claimed.keys, "table_id": str(claimed.table_id)}
        return _answer(self._raw.execute(sql.encode(), given))


def _claim_sql(rows: Rows) -> bytes:
    table = rows.table
    here, same = target_rows(table), same_key(table, "t", "k")
    return _CLAIM.format(rows=here, same_key=same, **_keys(rows, _FIRST_MADE_ON)).encode()


def _keys(rows: Rows, beside: dict[str, str] | None = None) -> dict[str, str]:
    """The keys of the parameter `pks` as statements name them: `source`, and the `key` text of its rows."""
    source = recordset(rows.key_readings(), "pks", beside=beside)
    return {"source": source, "key": escaped(key_expression(rows.table, "r"))}


def _versions(versions: Sequence[Version], prefix: str = "rf_") -> dict[str, str]:
    return {
        f"{prefix}epoch": number_array([one.main_epoch for one in versions]),
        f"{prefix}hlc": number_array([one.hlc for one in versions]),
        f"{prefix}node": text_array([one.node_id for one in versions]),
    }


def _written(rows: Rows, table_id: int, runs: Sequence[RowRun]) -> dict[str, object]:
    return {
        "pks": rows.keys([run.pk for run in runs]),
        "table_id": table_id,
        "rf_deleted": number_array([int(run.image is None) for run in runs]),
        **_versions([run.version for run in runs]),
        **_versions([run.base for run in runs], "rf_base_"),
    }


def _answer(cursor: "psycopg.Cursor[tuple[Any, ...]]") -> bool:
    row = cursor.fetchone()
    return row is not None and bool(row[0])
