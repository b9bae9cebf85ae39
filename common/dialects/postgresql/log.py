"""The sealed log as a stream. PostgreSQL writes the change lines, byte for byte as `common.wire.encode` would."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql import lines_sql as sql
from common.dialects.postgresql.arrays import number_array, text_array
from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.errors import translated
from common.dialects.postgresql.missed import UNKNOWN_WHEN
from common.dialects.postgresql.prepared import Prepared
from common.dialects.postgresql.sealing_sql import WEAKEST_US
from common.dialects.postgresql.shape_cache import first_table_names
from common.dialects.postgresql.snapshots import Snapshot, bounds, ended_between
from common.dialects.postgresql.unsealed_sql import ENDED_ROWS
from common.errors import OutageError
from common.ports.dialect import LogHead, NodeFacts, Unsealed
from common.ports.sink import Envelope
from common.wire.records import SealedTx, SmallTx, TableMeta, TxHeader

Raw = psycopg.Connection[tuple[Any, ...]]

_LARGE_TX_BYTES = 1024 * 1024
"""A tx above it is not held in memory: its lines are read from the database each time."""
_LINES_AT_A_TIME = 1000
_END_BYTES = 512
"""An end line never takes more."""

_LAST = "SELECT to_lsn, tx_id FROM rf_tx WHERE incarnation = %(incarnation)s ORDER BY to_lsn DESC LIMIT 1"
_REMEMBERED = "SELECT last_lsn, last_tx_id FROM rf_seal WHERE incarnation = %(incarnation)s"

_SNAPSHOTS = "SELECT snapshot, pg_current_snapshot()::text FROM rf_seal"
_UNSEALED = f"""
SELECT (coalesce(sum(changes), 0))::bigint, min(captured_us) FILTER (WHERE captured_us > {WEAKEST_US}) FROM (
    SELECT changes, captured_us FROM rf_seal_pending
    UNION ALL
    SELECT count(*),
           (extract(epoch FROM min(l.captured_at) FILTER (WHERE l.captured_at > {UNKNOWN_WHEN})) * 1000000)::bigint
    FROM {ENDED_ROWS}) w
"""

_TXS = """
SELECT t.to_lsn, t.from_lsn, t.prev_lsn, t.tx_id, t.exported_at, t.tables, t.bytes, e.era
FROM rf_tx t JOIN rf_era e USING (incarnation)
WHERE t.incarnation = %(incarnation)s AND t.to_lsn > %(after)s ORDER BY t.to_lsn LIMIT %(most)s
"""
_FIRST_TXS = 256
_MOST_TXS = 20_000


class _Row(NamedTuple):
    """One row of `rf_tx`."""

    header: TxHeader
    era: int
    bytes: int


class _Packed(NamedTuple):
    """One row of `MESSAGES`."""

    from_lsn: int
    to_lsn: int
    tx_id: str
    txs: int
    batches: int
    """Of its txs that have lines."""
    weight: int
    """Of all txs up to here."""
    largest: int
    """Batch, without its end line."""
    last_shape_id: int
    body: bytes

    def fits(self, message_bytes: int, max_batch_bytes: int) -> bool:
        """Tell whether all of it is there, and comes to no more than its weight promised."""
        is_whole = self.batches == self.txs
        return is_whole and len(self.body) <= message_bytes and self.largest + _END_BYTES <= max_batch_bytes


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
                cursor.execute(sql.ONE.encode(), given, binary=True)
                left = header.lsns
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
        self._named = 0
        """Shapes up to this number have been looked up; of later ones, and of those behind the first hundred, the
        statement finds the names itself."""
        self._most = _FIRST_TXS
        """Txs that are looked at next; by what those before them weighed."""

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

    def read_packed(
        self, after_lsn: int, limit_bytes: int, message_bytes: int, max_batch_bytes: int
    ) -> Iterator[Envelope | SealedTx]:
        """Yield the same txs; what is small comes as the database has packed it."""
        given = {
            "node": self._node.node_id,
            "incarnation": self._node.incarnation,
            "after": after_lsn,
            "most": self._most,
            "limit": limit_bytes,
            "fill_bytes": message_bytes - message_bytes // 4,
            "small_bytes": min(message_bytes // 4, max_batch_bytes // 2),
            "names": self._names,
        }
        with translated(), self._reading.connect() as connection:
            raw = driver(connection)
            found = [_Packed(*row) for row in Prepared(raw).execute(sql.MESSAGES.encode(), given, binary=True)]
            newest = max((one.last_shape_id for one in found), default=0)
            if newest > self._named:
                self._names, self._named = first_table_names(raw), newest
        if not found:
            return
        if not all(one.fits(message_bytes, max_batch_bytes) for one in found):
            # Also where the first is large, or lines were purged: that is told there.
            yield from self.read(after_lsn, limit_bytes)
            return
        self._most = _how_many(limit_bytes, sum(one.txs for one in found), found[-1].weight)
        for one in found:
            yield Envelope(
                body=one.body,
                source_node=self._node.node_id,
                incarnation=self._node.incarnation,
                from_lsn=one.from_lsn,
                to_lsn=one.to_lsn,
                tx_id=one.tx_id,
                txs=one.txs,
                closes_lsn=one.to_lsn,
            )

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
            most = _how_many(max(0, left), len(taken), limit_bytes - left)

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
        return dict(prepared.execute(sql.MANY.encode(), given, binary=True).fetchall())

    def _decoded(self, raw: Raw, tables: str) -> dict[str, TableMeta]:
        """The `tables` of a header; nearly all txs share a few texts, and a new one tells of new shapes."""
        known = self._tables.get(tables)
        if known is None:
            self._names = first_table_names(raw)
            decoded = json.loads(tables)
            known = self._tables[tables] = {name: TableMeta.model_validate(meta) for name, meta in decoded.items()}
        return known


def _how_many(limit_bytes: int, txs: int, weight: int) -> int:
    """Return how many txs will fit, going by the weight of those that came before."""
    return min(_MOST_TXS, 1 + limit_bytes * txs // max(1, weight))
