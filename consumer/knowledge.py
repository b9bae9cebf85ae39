"""What preflight wants to know of this node, answered from its database."""

from collections.abc import Sequence

import sqlalchemy as sa

from common.ports.dialect import TableShape
from common.preflight.known import KnownTx, OwnEnd
from common.runtime.node import Node
from common.schema import tables as rf
from consumer.dedup import BROKEN_REASONS, Known, look_up
from consumer.own_seen import rewound, seen_in
from consumer.statements import reading
from consumer.watermark import chain, read_mark


class NodeDatabase:
    """Answers for one opened node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def node_id(self) -> str:
        return self._node.facts.node_id

    def tables(self) -> dict[str, TableShape]:
        """Return the configured tables."""
        return self._node.captured_tables()

    def known(self, source_node: str, tx_ids: Sequence[str]) -> dict[str, KnownTx]:
        """Return those of the txs that were applied or set aside. Broken copies say nothing about a tx."""
        with reading(self._node.database) as connection:
            found = look_up(connection, [(source_node, tx_id) for tx_id in tx_ids])
        answers = {tx_id: _answer(known) for (_, tx_id), known in found.items()}
        return {tx_id: answer for tx_id, answer in answers.items() if answer is not None}

    def rewound(self, end: OwnEnd) -> str | None:
        """Return what shows that this node was put back, when a file has its log up to `end`."""
        return rewound(self._node, seen_in(end))

    def stored_parts(self, source_node: str, tx_id: str, parts: int) -> set[int]:
        """Return which parts of a tx wait for the rest."""
        table = rf.tx_part
        cut = sa.and_(table.c.source_node == source_node, table.c.tx_id == tx_id, table.c.parts == parts)
        query = sa.select(table.c.part).where(cut)
        with reading(self._node.database) as connection:
            return set(connection.execute(query).scalars())

    def reached(self, source_node: str, incarnation: str, from_lsn: int) -> int:
        """Return how far the node's own txs lead on."""
        with reading(self._node.database) as connection:
            mark = read_mark(connection, source_node, incarnation)
            mark.last_lsn = max(mark.last_lsn, from_lsn)
            return chain(connection, mark).last_lsn


def _answer(known: Known) -> KnownTx | None:
    if known.applied_sha256 is not None:
        return KnownTx(known.applied_sha256, applied=True)
    if known.letter is None or known.letter.reason in BROKEN_REASONS:
        return None
    return KnownTx(known.letter.sha256, applied=not known.letter.state.is_open)
