"""One row's own changes: what of the log is about it, sealed or not."""

import json
from collections.abc import Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.connection import driver, pin_settings
from common.dialects.postgresql.errors import translated_for
from common.dialects.postgresql.queries import escaped, recordset, same_key, target_rows
from common.dialects.postgresql.row_versions import row_states, versions_query
from common.dialects.postgresql.rows import Rows
from common.dialects.postgresql.shapes import image_expression, key_expression
from common.ports.dialect import NodeFacts, TableShape
from common.ports.row_history import Captured, RowLook, Sealed
from common.versions import Version
from common.wire.records import TableMeta

Raw = psycopg.Connection[tuple[Any, ...]]

_ITS_LOG = """
rf_change_log l JOIN rf_shape h USING (shape_id) JOIN rf_table n USING (table_id)
"""
_SEALED = f"""
SELECT e.incarnation, s.lsn, t.tx_id, t.exported_at,
       to_char(l.captured_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), l.op,
       s.main_epoch, s.hlc, s.base_epoch, s.base_hlc, s.base_node, convert_to(l.after, 'UTF8'), l.resolves
FROM {_ITS_LOG} JOIN rf_sealed s ON s.seq = l.seq JOIN rf_era e ON e.era = s.era
CROSS JOIN LATERAL (
    SELECT tx_id, exported_at FROM rf_tx t WHERE t.incarnation = e.incarnation AND t.to_lsn >= s.lsn
    ORDER BY t.to_lsn LIMIT 1) t
WHERE n.name = %(table)s AND l.pk = %(key)s ORDER BY e.era, s.lsn
"""
_CAPTURED = f"""
SELECT (extract(epoch FROM l.captured_at) * 1000000)::bigint, l.op
FROM {_ITS_LOG} WHERE n.name = %(table)s AND l.pk = %(key)s AND NOT EXISTS (SELECT FROM rf_sealed s WHERE s.seq = l.seq)
ORDER BY l.seq
"""
_WHAT = {"I": "insert", "U": "update", "D": "delete"}


class PostgresRowHistory:
    """See `common.ports.row_history.RowHistory`."""

    def __init__(self, engine: sa.Engine, node: NodeFacts) -> None:
        self._engine = engine
        self._node = node

    def look(self, table: TableShape, pk: bytes) -> RowLook:
        """Return what is known of the row with this key, all of one moment."""
        with self._engine.connect() as connection:
            raw = driver(connection)
            with translated_for(table, raw.info.user), raw.transaction():
                raw.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                pin_settings(raw)
                return _look(raw, Rows(table, table.meta), pk, self._node.node_id)

    def keys(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> list[str]:
        """Return the canonical texts of keys as a sender wrote them."""
        rows = Rows(table, meta)
        source = recordset(rows.asked_readings(), "pks", numbered=True)
        query = f"SELECT {escaped(key_expression(table, 'r'))} FROM {source} ORDER BY r.rf_place"
        with self._engine.connect() as connection:
            raw = driver(connection)
            with translated_for(table, raw.info.user), raw.transaction():
                pin_settings(raw)
                return [key for (key,) in raw.execute(query.encode(), {"pks": rows.keys(pks)}).fetchall()]


def _look(raw: Raw, rows: Rows, pk: bytes, node: str) -> RowLook:
    table = rows.table
    source = recordset(rows.asked_readings(), "pks", numbered=True)
    given = {"pks": rows.keys([pk]), "table": table.name}
    keys = f"SELECT {escaped(key_expression(table, 'r'))} AS key, r.rf_place FROM {source} OFFSET 0"
    (state,) = row_states(raw.execute(versions_query(keys).encode(), given).fetchall())
    image = escaped(image_expression(table, "t"))
    standing = raw.execute(
        f"SELECT convert_to({image}, 'UTF8') FROM {source} JOIN {target_rows(table)} t ON"
        f" {same_key(table, 't', 'r')}".encode(),
        given,
    ).fetchone()
    named = {"table": table.name, "key": state.key}
    return RowLook(
        key=state.key,
        image=None if standing is None else bytes(standing[0]),
        version=state.version,
        base=state.base,
        deleted=state.deleted,
        known=state.known,
        captured=tuple(Captured(at_us, _WHAT[op]) for at_us, op in raw.execute(_CAPTURED.encode(), named).fetchall()),
        sealed=tuple(_sealed(node, row) for row in raw.execute(_SEALED.encode(), named).fetchall()),
    )


def _sealed(node: str, row: tuple[Any, ...]) -> Sealed:
    (
        incarnation,
        lsn,
        tx_id,
        sealed_at,
        captured_at,
        op,
        epoch,
        hlc,
        base_epoch,
        base_hlc,
        base_node,
        after,
        resolves,
    ) = row
    base = None if base_hlc is None else Version(base_epoch, base_hlc, base_node)
    settled = tuple(Version(*one) for one in json.loads(resolves)) if resolves else ()
    image = None if op == "D" or after is None else bytes(after)
    return Sealed(incarnation, lsn, tx_id, sealed_at, captured_at, op, Version(epoch, hlc, node), base, image, settled)
