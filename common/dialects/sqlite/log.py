"""The sealed log: whole txs in LSN order, small ones read together, large ones in pieces."""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from common.dialects.sqlite.connection import borrowed, transaction
from common.dialects.sqlite.names import log_table
from common.dialects.sqlite.shapes import touch_logs
from common.dialects.sqlite.touches import LONG_AGO, at_us
from common.errors import OutageError
from common.ports.dialect import LogHead, NodeFacts, Unsealed
from common.wire.records import SealedTx, SmallTx, TableMeta, TxHeader

_LARGE = 1024 * 1024
"""From here on a tx is not held whole."""
_TXS_A_LOOK = 10_000
_LINES_A_PIECE = 1_000
_LINES = "SELECT lsn, line FROM rf_change_log WHERE incarnation = ? AND lsn BETWEEN ? AND ? ORDER BY lsn LIMIT ?"
_TXS = (
    "SELECT tx_id, exported_at, from_lsn, to_lsn, prev_lsn, tables, grouped, bytes FROM rf_tx"
    " WHERE incarnation = ? AND to_lsn > ? ORDER BY to_lsn LIMIT ?"
)
_OLDEST = f"min(CASE WHEN at > {LONG_AGO} THEN at END)"
"""Nobody knows how long what has the weakest time has waited."""


class _Meta(msgspec.Struct):
    pk: tuple[str, ...]
    columns: dict[str, str]


_tables = msgspec.json.Decoder(dict[str, _Meta])


@dataclass(frozen=True, slots=True)
class LargeTx:
    """A tx whose lines are read when they are asked for."""

    header: TxHeader
    engine: sa.Engine

    def lines(self) -> Iterator[bytes]:
        """Yield the change lines; nothing stays open between pieces. Raises OutageError when purged meanwhile."""
        first = self.header.from_lsn
        while first <= self.header.to_lsn:
            with borrowed(self.engine) as connection:
                piece = _read_lines(connection, self.header.incarnation, first, self.header.to_lsn, _LINES_A_PIECE)
            if not piece:
                raise OutageError(f"lsn {first} of {self.header.tx_id} is no longer in the log: it was purged")
            yield from piece
            first += len(piece)


class SqliteLog:
    """The sealed log of one node."""

    def __init__(self, engine: sa.Engine, node: NodeFacts) -> None:
        self._engine = engine
        self._node = node

    def head(self) -> LogHead:
        """Return the last sealed LSN of this incarnation (0 when there is none) and its tx_id."""
        with borrowed(self._engine) as connection:
            query = "SELECT last_lsn, last_tx_id FROM rf_seal WHERE incarnation = ?"
            found = connection.execute(query, (self._node.incarnation,)).fetchone()
        return LogHead(*found) if found else LogHead(0, None)

    def unsealed(self) -> Unsealed:
        """Return what waits to be sealed: touches, of which a changed row may have several."""
        with borrowed(self._engine) as connection, transaction(connection, "BEGIN"):
            found = [
                connection.execute(f"SELECT count(*), {_OLDEST} FROM {log_table(log.shape_id)}").fetchone()
                for log in touch_logs(connection)
            ]
        oldest = min((at for _, at in found if at is not None), default=None)
        return Unsealed(sum(count for count, _ in found), None if oldest is None else at_us(oldest))

    def read(self, after_lsn: int, limit_bytes: int) -> Iterator[SealedTx]:
        """Yield whole txs with `to_lsn > after_lsn` in LSN order, about `limit_bytes` of them, at least one if any."""
        with borrowed(self._engine) as connection, transaction(connection, "BEGIN"):
            found = self._read(connection, after_lsn, limit_bytes)
        yield from found

    def _read(self, connection: sqlite3.Connection, after_lsn: int, limit_bytes: int) -> list[SealedTx]:
        found: list[SealedTx] = []
        size = 0
        for header, weight in self._headers(connection, after_lsn):
            if found and size + weight > limit_bytes:
                break
            size += weight
            found.append(self._tx(connection, header, weight))
        return found

    def _headers(self, connection: sqlite3.Connection, after_lsn: int) -> Iterator[tuple[TxHeader, int]]:
        rows = connection.execute(_TXS, (self._node.incarnation, after_lsn, _TXS_A_LOOK))
        known: dict[str, dict[str, TableMeta]] = {}
        for tx_id, exported_at, from_lsn, to_lsn, prev_lsn, tables, grouped, weight in rows:
            if tables not in known:
                metas = _tables.decode(tables)
                known[tables] = {name: TableMeta(pk=m.pk, columns=m.columns) for name, m in metas.items()}
            header = TxHeader(
                tx_id,
                self._node.node_id,
                self._node.incarnation,
                exported_at,
                from_lsn,
                to_lsn,
                prev_lsn,
                known[tables],
                bool(grouped),
            )
            yield header, weight

    def _tx(self, connection: sqlite3.Connection, header: TxHeader, weight: int) -> SealedTx:
        if weight > _LARGE:
            return LargeTx(header, self._engine)
        count = header.lsns
        kept = _read_lines(connection, header.incarnation, header.from_lsn, header.to_lsn, count)
        if len(kept) != count:
            raise OutageError(f"lines of {header.tx_id} are no longer in the log: it was purged only by half")
        return SmallTx(header, b"".join(kept))


def _read_lines(connection: sqlite3.Connection, incarnation: str, first: int, last: int, limit: int) -> list[bytes]:
    """Return the lines from `first` on that follow each other without a hole: a purge takes the first of a tx before
    the others."""
    found = connection.execute(_LINES, (incarnation, first, last, limit)).fetchall()
    if found and found[-1][0] != first + len(found) - 1:
        found = [one for lsn, one in enumerate(found, first) if one[0] == lsn]
    return [line for _, line in found]
