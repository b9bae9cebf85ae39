"""The short way on PostgreSQL: keys, versions and images go to the server in few round trips, and it answers yes or no.

The order of locks is that of `applying`: rows by their keys, then the turn, then versions; own writes are looked for
when everything is written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import sqlalchemy as sa

from common.dialects.postgresql.apply_settings import plan_for
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.plain_rows import FIRST_MADE_ON, LAST_VERSION, PgPlainRows
from common.dialects.postgresql.prepared import Answer, Prepared
from common.dialects.postgresql.queries import escaped, lock_sql, recordset, same_key, target_rows
from common.dialects.postgresql.references import Check, References, broken
from common.dialects.postgresql.row_versions import INTO_ROW_VERSION, OVER_WHAT_STANDS
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import key_expression
from common.dialects.postgresql.standing_triggers import WITHOUT_TRIGGERS, asked_for, has_partitioned
from common.dialects.postgresql.together import PgTogether
from common.dialects.postgresql.turn import Turn
from common.dialects.postgresql.unsealed_sql import unsealed_rows
from common.dialects.postgresql.writing import delete_rows, make_rows, set_rows
from common.ports.plain import PlainRows

_CLAIM = """
SELECT t.table_id, EXISTS (SELECT FROM rf_paused WHERE table_name = %(table)s), k.others
FROM (SELECT (SELECT table_id FROM rf_table WHERE name = %(table)s) AS table_id OFFSET 0) t
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE NOT CASE
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
_LOG_ROWS = unsealed_rows("l.pk, l.shape_id")
_ANY_UNSEALED = {
    partitioned: f"SELECT EXISTS (SELECT FROM ({_LOG_ROWS}) l), EXISTS ({sql})"
    for partitioned, sql in WITHOUT_TRIGGERS.items()
}
_UNSEALED = f"""
SELECT EXISTS (
    SELECT FROM ({_LOG_ROWS}) l JOIN rf_shape s ON s.shape_id = l.shape_id AND s.table_id = %(table_id)s
    WHERE l.pk IN (SELECT {{key}} FROM {{source}}))
"""


class PostgresPlain:
    """For one applying transaction. Implements `PlainWriting`."""

    def __init__(self, connection: sa.Connection, prepared: Prepared, turn: Turn, references: References) -> None:
        self._connection = connection
        self._prepared = prepared
        self._turn = turn
        self._references = references
        self._claimed: dict[str, PgPlainRows] = {}
        self._found: dict[str, Answer] = {}
        """What each claim came to."""
        self._table_ids: dict[str, int] = {}
        self._ended = "{}", "{}"
        self._unsealed: Answer | None = None
        self._checks: list[Check] = []

    @contextmanager
    def together(self) -> Iterator[PgTogether]:
        """One round trip."""
        with translated(), self._prepared.together():
            yield PgTogether(self._prepared)

    def claim(self, rows: PlainRows) -> None:
        """Lock the rows and look at their versions."""
        ready = self._claimed[rows.table.name] = _own(rows)
        plan_for(self._connection, self._prepared, len(ready.pks))
        if ready.to_lock is not None:
            # What is new has nothing to lock yet; should it stand all the same, to insert it will fail.
            (lock,) = ready.rows.once("lock", partial(_lock_sql, ready.rows))
            self._prepared.execute(lock, {"pks": ready.to_lock})
        self._turn.ask()
        self._references.ask(ready.table)
        (claim,) = ready.rows.once("claim", partial(_claim_sql, ready.rows))
        self._found[ready.table.name] = self._prepared.execute(claim, ready.claim)

    def stands(self, rows: PlainRows) -> bool:
        """Tell what the claim came to."""
        found = self._found[rows.table.name].fetchone()
        if found is None or found[0] is None:
            return False
        self._table_ids[rows.table.name], is_paused, others = found
        return not is_paused and others == 0

    def write(self, rows: PlainRows) -> None:
        """Write rows and versions."""
        ready = _own(rows)
        self._references.before_write(ready.rows, ready.pks)
        if ready.gone:
            delete_rows(self._prepared, ready.rows, ready.gone)
        set_rows(self._prepared, ready.rows, ready.set_anew)
        make_rows(self._prepared, ready.rows, ready.made)
        table_id = {"table_id": self._table_ids[ready.table.name]}
        # In this order a key in two spellings fails, whichever of both they are in: no version is written twice.
        for statement, given in ((_UPSERT, ready.next_versions), (_INSERT, ready.first_versions)):
            if given is not None:
                (sql,) = ready.rows.once(statement, partial(_for_versions, ready.rows, statement))
                self._prepared.execute(sql, given | table_id)

    def end_writing(self) -> None:
        """Ask what has ended by now."""
        self._turn.look()

    def look_back(self, rows: PlainRows, *, references: bool) -> None:
        """Look for own writes, and at foreign keys."""
        ready = _own(rows)
        if self._unsealed is None:
            self._ended = lows, highs = self._turn.ended_since()
            claimed = {self._table_ids[name]: one.table for name, one in self._claimed.items()}
            query = _ANY_UNSEALED[has_partitioned(claimed.values())].encode()
            self._unsealed = self._prepared.execute(query, {"lows": lows, "highs": highs, **asked_for(claimed)})
        if references:
            self._checks += self._references.without_parent(ready.rows, ready.standing)
            self._checks += self._references.left_behind(ready.rows, ready.gone)

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
        keys = claimed.rows.keys(claimed.pks)
        given = {"lows": lows, "highs": highs, "pks": keys, "table_id": str(self._table_ids[table])}
        with translated():
            return _answer(self._prepared.execute(sql.encode(), given))


def _own(rows: PlainRows) -> PgPlainRows:
    if not isinstance(rows, PgPlainRows):
        raise TypeError(f"these rows were made ready for another database: {rows!r}")
    return rows


def _lock_sql(rows: Rows) -> list[str]:
    return [lock_sql(rows.table, recordset(rows.key_readings(), "pks"))]


def _claim_sql(rows: Rows) -> list[str]:
    table = rows.table
    here, same = target_rows(table), same_key(table, "t", "k")
    return [_CLAIM.format(rows=here, same_key=same, **_keys(rows, FIRST_MADE_ON))]


def _for_versions(rows: Rows, statement: str) -> list[str]:
    return [statement.format(**_keys(rows, LAST_VERSION))]


def _keys(rows: Rows, beside: dict[str, str] | None = None) -> dict[str, str]:
    """The keys of the parameter `pks` as statements name them: `source`, and the `key` text of its rows."""
    source = recordset(rows.key_readings(), "pks", beside=beside)
    return {"source": source, "key": escaped(key_expression(rows.table, "r"))}


def _answer(asked: Answer) -> bool:
    row = asked.fetchone()
    return row is not None and bool(row[0])
