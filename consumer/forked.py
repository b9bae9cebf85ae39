"""Parked batches of a node that was put back: once its source has begun anew, they are applied by row versions."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from common.runtime.node import Node
from common.schema import tables as rf
from consumer import audit
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Selection, find
from consumer.dedup import TxKey
from consumer.incoming import Incoming, Result
from consumer.statements import reading, selective

_A_ROUND = 100
_LOOK_AGAIN_US = 60_000_000


class ForkedRetries:
    """Belongs to one thread; `apply` as `Applier.apply`.

    A later incarnation shows that its source knows of the rewind, and that nothing more comes under the old LSNs."""

    def __init__(self, node: Node, apply: Callable[[Sequence[Incoming]], list[Result]]) -> None:
        self._node = node
        self._apply = apply
        self._tried: set[TxKey] = set()
        self._seen: tuple[int, dict[str, str]] | None = None
        """The latest one and the sources' incarnations, when there was none left to be tried."""
        self._seen_us = 0

    def follow_up(self) -> list[Result]:
        """Apply those whose source has a later incarnation; each once.

        There may be many that wait for that: all are read only where one has come, or an incarnation, or after a
        minute."""
        trust = self._node.config.trust()
        now_us = self._node.clock.now_us()
        with reading(self._node.database) as connection:
            latest_us = connection.execute(_LATEST).scalar()
            if latest_us is None:
                return []
            newest = _newest(connection)
            seen = latest_us, newest
            if seen == self._seen and 0 <= now_us - self._seen_us < _LOOK_AGAIN_US:
                return []
            keys = [
                (source, tx_id)
                for source, tx_id, incarnation in _parked(connection)
                if (source, tx_id) not in self._tried and newest.get(source) not in (incarnation, None)
            ][:_A_ROUND]
            letters = [one for source, tx_id in keys for one in find(connection, Selection((tx_id,), source))]
            txs = [load(connection, one, trust, audit.APPLIER) for one in letters]
        self._seen, self._seen_us = (None if txs else seen), now_us
        self._tried.update(tx.key for tx in txs)
        return [result for tx in txs for result in self._apply([tx])]


_LATEST = (
    sa.select(rf.dead_letter.c.last_failed_us)
    .where(rf.dead_letter.c.state == LetterState.FORKED.value)
    .order_by(rf.dead_letter.c.last_failed_us.desc())
    .limit(1)
)


def _parked(connection: sa.Connection) -> list[tuple[str, str, str | None]]:
    """Return source, tx_id and incarnation of all that are parked, in the order of their logs."""
    letter = rf.dead_letter.c
    is_forked = selective(connection.dialect.name, letter.state == LetterState.FORKED.value)
    query = sa.select(letter.source_node, letter.incarnation, letter.prev_lsn, letter.tx_id).where(is_forked)
    rows = sorted(connection.execute(query), key=lambda row: (row[0], row[1] or "", row[2] or 0, row[3]))
    return [(source, tx_id, incarnation) for source, incarnation, _, tx_id in rows]


def _newest(connection: sa.Connection) -> dict[str, str]:
    """Return each source's newest incarnation: by the ids of its txs, which tell when they were given."""
    state = rf.sync_state.c
    query = sa.select(state.peer, state.incarnation).where(state.direction == "in", state.last_tx_id.is_not(None))
    return {row.peer: row.incarnation for row in connection.execute(query.order_by(state.last_tx_id))}
