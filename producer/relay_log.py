"""`rf_relay`: other nodes' batches as they are handed on, read in the order of their numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from common.clock import Clock
from common.errors import OutageError
from common.http.wire import MOST_TXS
from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf
from common.wire.compress import decompress
from common.wire.limits import UNBOUNDED

_kept = rf.relay.c


@dataclass(frozen=True, slots=True)
class KeptTx:
    """One tx of another node, without its bytes."""

    seq: int
    source_node: str
    tx_id: str
    incarnation: str
    from_lsn: int
    to_lsn: int
    parts: int
    bytes: int
    by_directory: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A stretch of one log that is asked for once more: whole txs after `after_lsn`, up to the one with `until_lsn`."""

    source: str
    incarnation: str
    after_lsn: int
    until_lsn: int


@dataclass(frozen=True, slots=True)
class RelayLog:
    """Reads what is kept. Any thread."""

    database: Database

    def head(self) -> int:
        """Return the last number that was given."""
        return in_transaction(self.database, _head)

    def first(self) -> int:
        """Return the first number that is still kept; one above the head where nothing is."""

        def look(connection: sa.Connection) -> int:
            least = connection.execute(sa.select(sa.func.min(_kept.seq))).scalar()
            return _head(connection) + 1 if least is None else int(least)

        return in_transaction(self.database, look)

    def read(self, after_seq: int, most_txs: int, most_bytes: int, not_of: str | None = None) -> list[KeptTx]:
        """Return txs above `after_seq` but those of one node, in order: at most so many, at least one if any.

        Fewer than there are where some have parts."""
        wanted = [_kept.seq > after_seq, *(() if not_of is None else (_kept.source_node != not_of,))]
        # As far as so many rows go, for how many groups there will be PostgreSQL can't tell, and may make them all.
        rows = sa.select(_kept.seq).where(*wanted).order_by(_kept.seq).limit(most_txs).subquery()
        last = sa.select(sa.func.max(rows.c.seq)).scalar_subquery()
        query = _TXS.where(*wanted, _kept.seq <= last).group_by(_kept.seq).order_by(_kept.seq)
        return _as_fits(in_transaction(self.database, lambda connection: list(connection.execute(query))), most_bytes)

    def stretch(self, asked: Asked, most_bytes: int) -> list[KeptTx]:
        """Return txs of one log, in its order: at most so many bytes, at least one if any."""
        query = (
            _TXS.where(
                _kept.source_node == asked.source,
                _kept.incarnation == asked.incarnation,
                _kept.to_lsn > asked.after_lsn,
                _kept.from_lsn <= asked.until_lsn,
            )
            .group_by(_kept.to_lsn, _kept.seq)
            .order_by(_kept.to_lsn, _kept.seq)
            .limit(MOST_TXS)
        )
        return _as_fits(in_transaction(self.database, lambda connection: list(connection.execute(query))), most_bytes)

    def parts(self, tx: KeptTx) -> Iterator[bytes]:
        """Yield a tx's parts as they travelled, one in memory at a time. Raises OutageError where they went away."""
        for part in range(1, tx.parts + 1):
            query = sa.select(_kept.header, _kept.payload).where(_kept.seq == tx.seq, _kept.part == part)
            row = in_transaction(self.database, partial(_first, query))
            if row is None:
                raise OutageError(f"{tx.tx_id} of {tx.source_node} was purged while it was read")
            yield row.header.encode("utf-8") + decompress(bytes(row.payload), "zstd", UNBOUNDED)


_SAME = ("source_node", "tx_id", "incarnation", "from_lsn", "to_lsn", "parts")
_TXS = sa.select(
    _kept.seq,
    *(sa.func.min(_kept[name]).label(name) for name in _SAME),
    sa.func.min(sa.cast(_kept.by_directory, sa.Integer)).label("by_directory"),
    sa.func.sum(_kept.bytes).label("bytes"),
)
"""To be grouped by what an index has in its order, and by nothing else: then only those are read that are given."""


def _as_fits(rows: Iterable[sa.Row[Any]], most_bytes: int) -> list[KeptTx]:
    found: list[KeptTx] = []
    for row in rows:
        if found and most_bytes < row.bytes:
            break
        most_bytes -= row.bytes
        # A sum is a decimal on PostgreSQL.
        fields = {**row._mapping, "bytes": int(row.bytes), "by_directory": bool(row.by_directory)}
        found.append(KeptTx(**fields))
    return found


def _first(query: sa.Select[Any], connection: sa.Connection) -> Any:
    return connection.execute(query).first()


def _head(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(rf.relay_head.c.seq)).scalar_one())


@dataclass(frozen=True, slots=True)
class Readers:
    """How far each reader has durably taken what is kept. Any thread.

    `era`: the node's incarnation. A node that was put back gives its numbers anew, and readers begin anew."""

    database: Database
    clock: Clock
    era: str

    def load(self, reader: str) -> int:
        """Return where a reader is; 0 for one that is not known."""
        mark = rf.relay_reader.c
        query = sa.select(mark.seq).where(mark.reader == reader, mark.era == self.era)
        return in_transaction(self.database, lambda connection: connection.execute(query).scalar()) or 0

    def save(self, reader: str, seq: int) -> None:
        """Note where a reader is; the time is noted also where it is there already."""
        mark, now_us = rf.relay_reader, self.clock.now_us()
        values = {"era": self.era, "seq": seq, "updated_us": now_us}

        def move(connection: sa.Connection) -> None:
            known = sa.update(mark).where(mark.c.reader == reader).values(values)
            if not connection.execute(known).rowcount:
                connection.execute(sa.insert(mark).values(reader=reader, **values))

        in_transaction(self.database, move)
