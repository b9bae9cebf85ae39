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
from consumer.statements import reading

_A_ROUND = 100


class ForkedRetries:
    """Belongs to one thread; `apply` as `Applier.apply`.

    A later incarnation shows that its source knows of the rewind, and that nothing more comes under the old LSNs."""

    def __init__(self, node: Node, apply: Callable[[Sequence[Incoming]], list[Result]]) -> None:
        self._node = node
        self._apply = apply
        self._tried: set[TxKey] = set()

    def follow_up(self) -> list[Result]:
        """Apply those whose source has a later incarnation; each once."""
        trust = self._node.config.trust()
        with reading(self._node.database) as connection:
            letters = find(connection, Selection(state=LetterState.FORKED))
            newest = _newest(connection) if letters else {}
            txs = [
                load(connection, one, trust, audit.APPLIER)
                for one in letters
                if (one.source_node, one.tx_id) not in self._tried
                and one.source_node in newest
                and newest[one.source_node] not in (one.incarnation, None)
            ][:_A_ROUND]
        self._tried.update(tx.key for tx in txs)
        return [result for tx in txs for result in self._apply([tx])]


def _newest(connection: sa.Connection) -> dict[str, str]:
    """Return each source's newest incarnation: by the ids of its txs, which tell when they were given."""
    state = rf.sync_state.c
    query = sa.select(state.peer, state.incarnation).where(state.direction == "in", state.last_tx_id.is_not(None))
    return {row.peer: row.incarnation for row in connection.execute(query.order_by(state.last_tx_id))}
