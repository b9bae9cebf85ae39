"""The sealed log as a stream. PostgreSQL writes the change lines, byte for byte as `common.wire.encode` would."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.arrays import number_array, text_array
from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.prepared import Prepared
from common.dialects.postgresql.shape_cache import first_table_names
from common.dialects.postgresql.snapshots import Snapshot, bounds, ended_between
from common.errors import OutageError
from common.ports.dialect import LogHead, NodeFacts, Unsealed
from common.wire.records import SealedTx, SmallTx, TableMeta, TxHeader

Raw = psycopg.Connection[tuple[Any, ...]]

_LARGE_TX_BYTES = 1024 * 1024
"""A tx above it is not held in memory: its lines are read from the database each time."""
_LINES_AT_A_TIME = 1000

_LAST = "SELECT to_lsn, tx_id FROM rf_tx WHERE incarnation = %(incarnation)s ORDER BY to_lsn DESC LIMIT 1"
_REMEMBERED = "SELECT last_lsn, last_tx_id FROM rf_seal WHERE incarnation = %(incarnation)s"

_SNAPSHOTS = "SELECT snapshot, pg_current_snapshot()::text FROM rf_seal"
_UNSEALED = """
SELECT (coalesce(sum(changes), 0))::bigint, min(captured_us) FROM (
    SELECT changes, captured_us FROM rf_seal_pending
    UNION ALL
    SELECT count(*), (extract(epoch FROM min(l.captured_at)) * 1000000)::bigint
    FROM unnest(%(lows)s::xid8[], %(highs)s::xid8[]) AS ended(low, high)
    CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid >= ended.low AND l.xid < ended.high OFFSET 0) l) w
"""

_TXS = """
SELECT t.to_lsn, t.from_lsn, t.prev_lsn, t.tx_id, t.exported_at, t.tables, t.bytes, e.era
FROM rf_tx t JOIN rf_era e USING (incarnation)
WHERE t.incarnation = %(incarnation)s AND t.to_lsn > %(after)s ORDER BY t.to_lsn LIMIT %(most)s
"""
_FIRST_TXS = 256
_MOST_TXS = 20_000

# A join for each line takes a quarter of the time that the lines take.
_TABLE = """
coalesce((%(names)b::text[])[l.shape_id],
         (SELECT n.json_name FROM rf_shape h JOIN rf_table n ON n.table_id = h.table_id WHERE h.shape_id = l.shape_id))
"""
_LINE = """
concat('{{"type":"change","lsn":', s.lsn, ',"tx_id":"', {tx_id}, '","table":', {table}, ',"op":"', l.op,
       '","pk":', l.pk, ',"before":', coalesce(l.before, 'null'), ',"after":', coalesce(l.after, 'null'),
       ',"version":[', s.main_epoch, ',', s.hlc, ',"', %(node)s::text, '"],"base":',
       CASE WHEN s.base_hlc IS NULL THEN 'null'
            ELSE concat('[', s.base_epoch, ',', s.base_hlc, ',"', s.base_node, '"]') END,
       ',"resolves":' || l.resolves,
       ',"captured_at":"', to_char(l.captured_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), E'"}}\\n')
"""
_MANY = f"""
SELECT t.to_lsn, convert_to(string_agg({_LINE.format(tx_id="t.tx_id", table=_TABLE)}, '' ORDER BY s.lsn), 'UTF8')
FROM unnest(%(to_lsns)s::bigint[], %(from_lsns)s::bigint[], %(tx_ids)s::text[]) AS t(to_lsn, from_lsn, tx_id)
CROSS JOIN LATERAL (
    SELECT xid FROM rf_sealed_tx x WHERE x.era = %(era)s AND x.to_lsn = t.to_lsn LIMIT 1) x
CROSS JOIN LATERAL (
    SELECT * FROM rf_sealed s WHERE s.era = %(era)s AND s.lsn BETWEEN t.from_lsn AND t.to_lsn OFFSET 0) s
CROSS JOIN LATERAL (SELECT * FROM rf_change_log l WHERE l.xid = x.xid AND l.seq = s.seq LIMIT 1) l
GROUP BY t.to_lsn
"""
_ONE = f"""
SELECT convert_to({_LINE.format(tx_id="%(tx_id)s::text", table=_TABLE)}, 'UTF8')
FROM rf_sealed s
CROSS JOIN LATERAL (
    SELECT * FROM rf_change_log l
    WHERE l.xid = (SELECT xid FROM rf_sealed_tx WHERE era = %(era)s AND to_lsn = %(to_lsn)s) AND l.seq = s.seq
    LIMIT 1) l
WHERE s.era = %(era)s AND s.lsn BETWEEN %(from_lsn)s AND %(to_lsn)s ORDER BY s.lsn
"""


class _Row(NamedTuple):
    """One row of `rf_tx`."""

    header: TxHeader
    era: int
    bytes: int


@dataclass(frozen=True, slots=True)
class _LargeTx:
    """A tx that is read from the database each time."""

    header: TxHeader
    era: int
    engine: sa.Engine
    names: list[str | None]
    """Of the tables, by their shapes' numbers."""

    def lines(self) -> Iterator[bytes]:
        """Yield the change lines, a thousand at a time through a cursor of the server."""
        header = self.header
        given = {
            "era": self.era,
            "node": header.source_node,
            "tx_id": header.tx_id,
            "from_lsn": header.from_lsn,
            "to_lsn": header.to_lsn,
            "names": self.names,
        }
        with translated(), self.engine.begin() as connection:
            raw = driver(connection)
            with raw.cursor(name="rowferry_tx") as cursor:
                cursor.itersize = _LINES_AT_A_TIME
                cursor.execute(_ONE.encode(), given, binary=True)
                left = header.to_lsn - header.from_lsn + 1
                for (line,) in cursor:
                    left -= 1
                    yield line
        if left:
            raise OutageError(f"{left} lines of {header.tx_id} are no longer in the log: it was purged")


class PostgresLog:
    """Reads with connections of its own; any number of readers at a time."""

    def __init__(self, engine: sa.Engine, reading: sa.Engine, node: NodeFacts) -> None:
        """`reading`: without transactions, for what takes a statement or two."""
        self._engine = engine
        self._reading = reading
        self._node = node
        self._tables: dict[str, dict[str, TableMeta]] = {}
        self._names: list[str | None] = [None]

    def head(self) -> LogHead:
        """Return the last sealed LSN of this incarnation (0 when there is none) and its tx_id."""
        given = {"incarnation": self._node.incarnation}
        with translated(), self._reading.connect() as connection:
            raw = driver(connection)
            # rf_seal knows it also after the txs were purged; a former incarnation's stand in rf_tx alone.
            row = raw.execute(_REMEMBERED, given).fetchone() or raw.execute(_LAST, given).fetchone() or (0, None)
        return LogHead(row[0], row[1])

    def unsealed(self) -> Unsealed:
        """Return what waits to be sealed, by the difference of snapshots that the sealer goes by."""
        with translated(), self._reading.connect() as connection:
            raw = driver(connection)
            before, now = raw.execute(_SNAPSHOTS).fetchone() or ("1:1:", "1:1:")
            lows, highs = bounds(ended_between(Snapshot.parse(before), Snapshot.parse(now)))
            row = raw.execute(_UNSEALED, {"lows": lows, "highs": highs}).fetchone()
        return Unsealed(*row) if row else Unsealed(0, None)

    def read(self, after_lsn: int, limit_bytes: int) -> Iterator[SealedTx]:
        """Yield whole txs with `to_lsn > after_lsn` in LSN order, about `limit_bytes` of them, at least one if any."""
        with translated(), self._reading.connect() as connection:
            prepared = Prepared(driver(connection))
            rows = self._taken(prepared, after_lsn, limit_bytes)
            payloads = self._payloads(prepared, [row for row in rows if row.bytes <= _LARGE_TX_BYTES])
        for row in rows:
            if row.bytes > _LARGE_TX_BYTES:
                yield _LargeTx(row.header, row.era, self._engine, self._names)
            else:
                if row.header.to_lsn not in payloads:
                    raise OutageError(f"{row.header.tx_id} is no longer in the log: it was purged")
                yield SmallTx(row.header, payloads[row.header.to_lsn])

    def _taken(self, prepared: Prepared, after_lsn: int, limit_bytes: int) -> list[_Row]:
        """The headers of the txs that fit. How many that will be is told by the size of those that came before."""
        taken: list[_Row] = []
        left, most = limit_bytes, _FIRST_TXS
        while True:
            found = 0
            for row in self._headers(prepared, after_lsn, most):
                if taken and row.bytes > left:
                    return taken
                taken.append(row)
                left -= row.bytes
                found += 1
            if found < most:
                return taken
            after_lsn = taken[-1].header.to_lsn
            usual = max(1, (limit_bytes - left) // len(taken))
            most = min(_MOST_TXS, 1 + max(0, left) // usual)

    def _headers(self, prepared: Prepared, after_lsn: int, most: int) -> Iterator[_Row]:
        given = {"incarnation": self._node.incarnation, "after": after_lsn, "most": most}
        for to_lsn, from_lsn, prev_lsn, tx_id, exported_at, tables, size, era in prepared.execute(_TXS, given):
            header = TxHeader(
                tx_id=tx_id,
                source_node=self._node.node_id,
                incarnation=self._node.incarnation,
                exported_at=exported_at,
                from_lsn=from_lsn,
                to_lsn=to_lsn,
                prev_lsn=prev_lsn,
                tables=self._decoded(prepared.raw, tables),
            )
            yield _Row(header, era, size)

    def _payloads(self, prepared: Prepared, rows: Sequence[_Row]) -> dict[int, bytes]:
        if not rows:
            return {}
        given = {
            "era": rows[0].era,
            "node": self._node.node_id,
            "to_lsns": number_array([row.header.to_lsn for row in rows]),
            "from_lsns": number_array([row.header.from_lsn for row in rows]),
            "tx_ids": text_array([row.header.tx_id for row in rows]),
            "names": self._names,
        }
        return dict(prepared.execute(_MANY.encode(), given, binary=True).fetchall())

    def _decoded(self, raw: Raw, tables: str) -> dict[str, TableMeta]:
        """The `tables` of a header; nearly all txs share a few texts, and a new one tells of new shapes."""
        known = self._tables.get(tables)
        if known is None:
            self._names = first_table_names(raw)
            decoded = json.loads(tables)
            known = self._tables[tables] = {name: TableMeta.model_validate(meta) for name, meta in decoded.items()}
        return known
