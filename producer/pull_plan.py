"""What one answer to a pull holds: decided before its first byte, so that its mark can stand in the header."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import sqlalchemy as sa

from common.errors import OutageError
from common.http.wire import MOST_TXS
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.records import MAX_LSN
from producer.extract import Stretch, batches
from producer.log import NodeLogs
from producer.pull_cursor import PullCursor
from producer.purge import log_begins
from producer.relay_log import Asked, KeptTx, RelayLog

MOST_BYTES = 16 * 1024 * 1024
"""About so much of change lines is in one answer; one tx is whole, however large."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a peer asks for."""

    node_id: str
    """Its own batches it has."""
    most_txs: int
    handed_on: bool = True
    """Other nodes' batches too."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Txs of one or more stretches of this node's own logs, then txs of others."""

    cursor: PullCursor
    """Where the peer is once it has taken all of it."""
    own: tuple[Stretch, ...] = ()
    kept: tuple[KeptTx, ...] = ()
    has_more: bool = False
    """Whether there may be more to give."""

    @classmethod
    def nothing(cls) -> "Answer":
        """Return an empty answer."""
        return cls(PullCursor())

    @property
    def txs(self) -> int:
        return sum(stretch.txs for stretch in self.own) + len(self.kept)

    @property
    def bytes(self) -> int:
        """About what its change lines weigh."""
        return sum(stretch.bytes for stretch in self.own) + sum(tx.bytes for tx in self.kept)


class Planner:
    """Decides what comes after a mark. Any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._logs = NodeLogs(node.database, node.facts)
        self._relay = RelayLog(node.database)

    def plan(self, after: PullCursor, wanted: Wanted) -> Answer:
        """Return what comes next. Raises OutageError."""
        txs_left, bytes_left = wanted.most_txs, MOST_BYTES
        own: list[Stretch] = []
        cursor = after
        # Each end before the look: what comes meanwhile, as it does all the time where much is written, is for the next
        # one. In this order, so that what is handed on finds there what of this node's own it was written on top of.
        handed_on_head = self._relay.head() if wanted.handed_on else 0
        for incarnation in self._from(after.incarnation):
            begin = after.lsn if incarnation == after.incarnation else 0
            head_lsn = self._logs.of(incarnation).head().lsn
            stretch = self._stretch(incarnation, begin, txs_left, bytes_left)
            to_lsn = stretch.to_lsn
            if stretch.txs:
                own.append(stretch)
                txs_left, bytes_left = txs_left - stretch.txs, bytes_left - stretch.bytes
            if not stretch.txs and head_lsn > to_lsn:
                # Nothing of what follows is here any more: the mark goes beyond it, so that the peer sees that it is
                # missing, and gets what comes behind it.
                to_lsn = max(to_lsn, log_begins(self._node, incarnation))
            cursor = replace(cursor, incarnation=incarnation, lsn=to_lsn)
            if txs_left <= 0 or bytes_left <= 0 or head_lsn > to_lsn:
                return Answer(cursor, tuple(own), has_more=True)
        if not wanted.handed_on:
            return Answer(cursor, tuple(own))
        era = self._node.facts.incarnation
        seq = after.seq if after.era == era else 0
        found = self._relay.read(seq, txs_left, bytes_left, wanted.node_id)
        kept = [tx for tx in found if tx.seq <= handed_on_head]
        is_all = len(kept) < len(found) or self._is_all(kept, txs_left, bytes_left, wanted)
        last = kept[-1].seq if kept else seq
        cursor = replace(cursor, era=era, seq=max(last, handed_on_head) if is_all else last)
        return Answer(cursor, tuple(own), tuple(kept), has_more=not is_all)

    def again(self, asked: Asked) -> Answer:
        """Return what is here of a stretch that is asked for once more, about `MOST_BYTES`. Raises OutageError."""
        if asked.source != self._node.facts.node_id:
            return Answer(PullCursor(), kept=tuple(self._relay.stretch(asked, MOST_BYTES)))
        if asked.incarnation not in self._logs.incarnations():
            return Answer.nothing()
        stretch = self._stretch(asked.incarnation, asked.after_lsn, MOST_TXS, MOST_BYTES, asked.until_lsn)
        return Answer(PullCursor(), own=(stretch,) if stretch.txs else ())

    def stream(self, answer: Answer) -> Iterator[bytes]:
        """Yield an answer's batches, large txs in parts: one read of the log in memory.

        Raises OutageError where something was purged since it was planned: the mark goes beyond it."""
        for stretch in answer.own:
            seen = _Count()
            yield from batches(self._node, stretch, seen.add)
            if seen.txs != stretch.txs:
                raise OutageError(f"the log was purged while LSN {stretch.from_lsn} to {stretch.to_lsn} were read")
        for tx in answer.kept:
            yield from self._relay.parts(tx)

    def _is_all(self, kept: list[KeptTx], most_txs: int, most_bytes: int, wanted: Wanted) -> bool:
        if len(kept) >= most_txs or sum(tx.bytes for tx in kept) >= most_bytes:
            return False
        return not kept or not self._relay.read(kept[-1].seq, 1, 1, wanted.node_id)

    def _from(self, incarnation: str) -> list[str]:
        """Return the incarnations from one on; all, where that one is not known here (any more)."""
        there = self._logs.incarnations()
        return there[there.index(incarnation) :] if incarnation in there else there

    def _stretch(
        self, incarnation: str, after_lsn: int, most_txs: int, most_bytes: int, until_lsn: int = MAX_LSN
    ) -> Stretch:
        log = rf.tx.c
        query = (
            sa.select(log.from_lsn, log.to_lsn, log.tx_id, log.bytes)
            .where(log.incarnation == incarnation, log.to_lsn > after_lsn, log.from_lsn <= until_lsn)
            .order_by(log.to_lsn)
            .limit(most_txs)
        )
        rows = in_transaction(self._node.database, lambda connection: list(connection.execute(query)))
        count = size = 0
        for row in rows:
            if count and size + row.bytes > most_bytes:
                break
            count, size = count + 1, size + row.bytes
        if not count:
            return Stretch(incarnation, after_lsn, after_lsn + 1, after_lsn, None, 0)
        last = rows[count - 1]
        return Stretch(incarnation, after_lsn, rows[0].from_lsn, last.to_lsn, last.tx_id, count, size)


class _Count:
    """How many txs went by."""

    def __init__(self) -> None:
        self.txs = 0

    def add(self) -> None:
        self.txs += 1
