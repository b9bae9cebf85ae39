"""The short way on PostgreSQL: keys, versions and images go to the server in few round trips, and it answers yes or no.

The order of locks is that of `applying`: rows by their keys, then the turn, then versions; own writes are looked for
when everything is written.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import sqlalchemy as sa

from common.dialects.postgresql.apply_settings import plan_for
from common.dialects.postgresql.arrays import number_array, text_array
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.prepared import Answer, Prepared
from common.dialects.postgresql.queries import escaped, lock_sql, recordset, same_key, target_rows
from common.dialects.postgresql.references import Check, References, broken
from common.dialects.postgresql.row_versions import INTO_ROW_VERSION, OVER_WHAT_STANDS
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import key_expression
from common.dialects.postgresql.standing_triggers import WITHOUT_TRIGGERS, asked_for, has_partitioned
from common.dialects.postgresql.together import PgTogether
from common.dialects.postgresql.turn import Turn
from common.dialects.postgresql.writing import delete_rows, insert_rows
from common.ports.dialect import TableShape
from common.ports.plain import RowRun
from common.versions import NEVER, Version
from common.wire.records import TableMeta

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
_ANY_UNSEALED = {
    partitioned: f"SELECT EXISTS (SELECT FROM ({_LOG_ROWS}) l), EXISTS ({sql})"
    for partitioned, sql in WITHOUT_TRIGGERS.items()
}
_UNSEALED = f"""
SELECT EXISTS (
    SELECT FROM ({_LOG_ROWS}) l JOIN rf_shape s ON s.shape_id = l.shape_id AND s.table_id = %(table_id)s
    WHERE l.pk IN (SELECT {{key}} FROM {{source}}))
"""


class _Claimed(NamedTuple):
    rows: Rows
    keys: str
    """Of all its runs, as one JSON array."""
    found: Answer


class PostgresPlain:
    """For one applying transaction. Implements `PlainWriting`."""

    def __init__(self, connection: sa.Connection, prepared: Prepared, turn: Turn, references: References) -> None:
        self._connection = connection
        self._prepared = prepared
        self._turn = turn
        self._references = references
        self._claimed: dict[str, _Claimed] = {}
        self._table_ids: dict[str, int] = {}
        self._ended = "{}", "{}"
        self._unsealed: Answer | None = None
        self._checks: list[Check] = []

    @contextmanager
    def together(self) -> Iterator[PgTogether]:
        """One round trip."""
        with translated(), self._prepared.together():
            yield PgTogether(self._prepared)

    def claim(self, table: TableShape, meta: TableMeta, runs: Sequence[RowRun]) -> None:
        """Lock the rows and look at their versions."""
        rows = Rows.of(table, meta)
        keys = rows.keys([run.pk for run in runs])
        given = {"pks": keys, "table": table.name, "rf_new": number_array([int(run.is_new) for run in runs])}
        given |= _versions([run.first_base for run in runs])
        plan_for(self._connection, self._prepared, len(runs))
        (lock,) = rows.once("lock", lambda: [lock_sql(table, recordset(rows.key_readings(), "pks"))])
        (claim,) = rows.once("claim", lambda: [_claim_sql(rows)])
        self._prepared.execute(lock, {"pks": keys})
        self._turn.ask()
        self._references.ask(table)
        self._claimed[table.name] = _Claimed(rows, keys, self._prepared.execute(claim, given))

    def stands(self, table: TableShape, runs: Sequence[RowRun]) -> bool:
        """Tell what the claim came to."""
        found = self._claimed[table.name].found.fetchone()
        if found is None or found[0] is None:
            return False
        self._table_ids[table.name], is_paused, different, others = found
        return not is_paused and different == len(runs) and others == 0

    def write(self, table: TableShape, runs: Sequence[RowRun]) -> None:
        """Write rows and versions."""
        rows, table_id = self._claimed[table.name].rows, self._table_ids[table.name]
        gone = [run.pk for run in runs if run.image is None]
        images = [(run.image, None) for run in runs if run.image is not None]
        # What had no version when it was claimed has none now: under this turn nobody else makes one.
        first = [run for run in runs if run.first_base == NEVER]
        again = [run for run in runs if run.first_base != NEVER] if len(first) < len(runs) else []
        self._references.before_write(rows, [run.pk for run in runs])
        if gone:
            delete_rows(self._prepared, rows, gone)
        if images:
            insert_rows(self._prepared, rows, images)
        for statement, written in ((_INSERT, first), (_UPSERT, again)):
            if written:
                (sql,) = rows.once(statement, partial(_for_versions, rows, statement))
                self._prepared.execute(sql, _written(rows, table_id, written))

    def end_writing(self) -> None:
        """Ask what has ended by now."""
        self._turn.look()

    def look_back(self, table: TableShape, runs: Sequence[RowRun], *, references: bool) -> None:
        """Look for own writes, and at foreign keys."""
        rows = self._claimed[table.name].rows
        if self._unsealed is None:
            self._ended = lows, highs = self._turn.ended_since()
            claimed = {self._table_ids[name]: one.rows.table for name, one in self._claimed.items()}
            query = _ANY_UNSEALED[has_partitioned(claimed.values())].encode()
            self._unsealed = self._prepared.execute(query, {"lows": lows, "highs": highs, **asked_for(claimed)})
        if references:
            standing = [run.pk for run in runs if run.image is not None]
            self._checks += self._references.without_parent(rows, standing)
            self._checks += self._references.left_behind(rows, [run.pk for run in runs if run.image is None])

    def holds(self) -> bool:
        """Tell whether nothing was found; of own writes, whether any is of a row that was written here."""
        any_unsealed, uncaptured = (self._unsealed and self._unsealed.fetchone()) or (False, False)
        if uncaptured or (any_unsealed and any(map(self._is_unsealed, self._claimed))):
            return False
        return not broken(self._checks)

    def _is_unsealed(self, table: str) -> bool:
        claimed = self._claimed[table]
        lows, highs = self._ended
        sql = _UNSEALED.format(**_keys(claimed.rows))
        given = {"lows": lows, "highs": highs, "pks": claimed.keys, "table_id": str(self._table_ids[table])}
        with translated():
            return _answer(self._prepared.execute(sql.encode(), given))


def _claim_sql(rows: Rows) -> str:
    table = rows.table
    here, same = target_rows(table), same_key(table, "t", "k")
    return _CLAIM.format(rows=here, same_key=same, **_keys(rows, _FIRST_MADE_ON))


def _for_versions(rows: Rows, statement: str) -> list[str]:
    return [statement.format(**_keys(rows, _LAST_VERSION))]


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


def _answer(asked: Answer) -> bool:
    row = asked.fetchone()
    return row is not None and bool(row[0])
