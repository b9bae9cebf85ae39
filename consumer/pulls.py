"""`rf_pull`: where this node is in the answers of the peers that it pulls from."""

from dataclasses import dataclass

import sqlalchemy as sa

from common.runtime.node import Node
from common.schema import tables as rf
from consumer.statements import reading, upsert, writing


@dataclass(frozen=True, slots=True)
class PullPlace:
    """The place in one peer's answers. Any thread."""

    node: Node
    peer: str

    def load(self) -> str | None:
        """Return the mark of the last answer that was taken whole; None before the first."""
        query = sa.select(rf.pull.c.cursor).where(rf.pull.c.peer == self.peer)
        with reading(self.node.database) as connection:
            return connection.execute(query).scalar_one_or_none()

    def save(self, cursor: str) -> None:
        """Note a mark, once everything up to it is committed."""
        row = {"peer": self.peer, "cursor": cursor, "updated_us": self.node.clock.now_us()}
        writing(self.node.database, lambda connection: upsert(connection, rf.pull, [row]))
