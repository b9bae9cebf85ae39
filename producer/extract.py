"""A stretch of the sealed log as wire bytes, for files: whole txs, bounded memory, counted while they pass."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from common.ports.dialect import SealedLog
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.encode import encode_tx
from common.wire.records import SealedTx
from producer.log import NodeLogs

_READ_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stretch:
    """The txs of one incarnation that end after `after_lsn` and not after `to_lsn`."""

    incarnation: str
    after_lsn: int
    from_lsn: int
    """Of the first tx: what a file's name begins with."""
    to_lsn: int
    """Of the last tx, `after_lsn` when there is none."""
    last_tx_id: str | None
    txs: int
    bytes: int = 0
    """About what its change lines weigh; 0 where that is not known."""

    @property
    def changes(self) -> int:
        """How many changes are in it: LSNs have no gaps."""
        return self.to_lsn - self.from_lsn + 1 if self.txs else 0


def stretches(node: Node, begins: Callable[[str], int | None]) -> list[Stretch]:
    """Return what the log holds after `begins(incarnation)`, earlier incarnations first; None leaves one out.

    The present incarnation is always there, and last; others only when there is something."""
    logs = NodeLogs(node.database, node.facts)
    found = []
    for incarnation in logs.incarnations():
        after = begins(incarnation)
        present = incarnation == node.facts.incarnation
        if after is None:
            continue
        stretch = _measured(node, logs, incarnation, after)
        if stretch.txs or present:
            found.append(stretch)
    return found


def batches(node: Node, stretch: Stretch, on_tx: Callable[[], None]) -> Iterator[bytes]:
    """Yield the stretch's batches as bytes, large txs in parts; the same bytes each time."""
    sealed, signer = NodeLogs(node.database, node.facts).of(stretch.incarnation), node.config.signer()
    for tx in _txs(sealed, stretch):
        for part in encode_tx(tx, node.config.limits.max_batch_bytes, signer):
            yield part.body
        on_tx()


def _txs(sealed: SealedLog, stretch: Stretch) -> Iterator[SealedTx]:
    position = stretch.after_lsn
    # What follows the stretch is not read for it.
    most_bytes = min(stretch.bytes or _READ_BYTES, _READ_BYTES)
    while position < stretch.to_lsn:
        txs = list(sealed.read(position, most_bytes))
        if not txs:
            return
        for tx in txs:
            # What was sealed after the export began is the next one's.
            if tx.header.to_lsn > stretch.to_lsn:
                return
            yield tx
            position = tx.header.to_lsn


def _measured(node: Node, logs: NodeLogs, incarnation: str, after: int) -> Stretch:
    head = logs.of(incarnation).head()
    query = sa.select(sa.func.count(), sa.func.min(rf.tx.c.from_lsn)).where(
        rf.tx.c.incarnation == incarnation, rf.tx.c.to_lsn > after, rf.tx.c.to_lsn <= head.lsn
    )
    txs, first = in_transaction(node.database, lambda connection: connection.execute(query).one())
    if not txs:
        return Stretch(incarnation, after, after + 1, after, None, 0)
    return Stretch(incarnation, after, first, head.lsn, head.tx_id, txs)
