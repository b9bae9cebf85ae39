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
        if known is None or known == node_id:
            return None
        return PoisonError(Reason.SOURCE, f"{node_id!r} differs from the node {known!r} in nothing but case")

    def met(self, node_id: str) -> None:
        """Remember an id that does not clash. Not before it is proven: nobody else could have the spelling any more."""
        self._spelled.setdefault(node_id.lower(), node_id)

    def _stored(self, node_id: str) -> str | None:
        table = rf.node
        query = sa.select(table.c.node_id).where(sa.func.lower(table.c.node_id) == node_id.lower())
        with reading(self._node.database) as connection:
            found = connection.execute(query.order_by(table.c.first_seen_us).limit(1)).scalar_one_or_none()
        return None if found is None else self._spelled.setdefault(node_id.lower(), found)
