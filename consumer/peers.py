"""The ids of nodes that were heard of: unique ignoring case, since files and accounts may not tell case apart."""

import sqlalchemy as sa

from common.errors import PoisonError, Reason
from common.runtime.node import Node
from common.schema import tables as rf
from consumer.statements import reading


class PeerIds:
    """Remembers every id that was found to be the only one of its spelling."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._spelled = {node.facts.node_id.lower(): node.facts.node_id}

    def clash(self, node_id: str) -> PoisonError | None:
        """Return why `node_id` can't be a node of its own; None when it can."""
        known = self._spelled.get(node_id.lower()) or self._stored(node_id)
        if known == node_id:
            return None
        return PoisonError(Reason.SOURCE, f"{node_id!r} differs from the node {known!r} in nothing but case")

    def _stored(self, node_id: str) -> str:
        table = rf.node
        query = sa.select(table.c.node_id).where(sa.func.lower(table.c.node_id) == node_id.lower())
        with reading(self._node.database) as connection:
            found = connection.execute(query.order_by(table.c.first_seen_us).limit(1)).scalar_one_or_none()
        return self._spelled.setdefault(node_id.lower(), found or node_id)
