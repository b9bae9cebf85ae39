"""Who is the main node: the only one whose writes may go above others by `main_epoch`.

`[node] main` names it, or this node is main itself. Else the first node that writes as main is taken for it, and kept.
"""

import sqlalchemy as sa

from common.errors import PoisonError, Reason
from common.runtime.node import Node
from common.schema import tables as rf
from common.schema.main_node import named_main, pinned_main
from common.wire.records import BatchHeader
from consumer.statements import insert_missing, reading


class MainNode:
    """The main node, as far as it is known here."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known = named_main(node.config)
        self._asked = False

    def may_be(self, source_node: str) -> bool:
        """Tell whether writes of `source_node` may go above others: it is main, or nobody is known to be.

        Asks the database once, not for each change; whoever was taken for main since, `keep` will find."""
        if self._known is None and not self._asked:
            with reading(self._node.database) as connection:
                self._known = pinned_main(connection)
            self._asked = True
        return self._known in (None, source_node)

    def keep(self, connection: sa.Connection, header: BatchHeader, now_us: int) -> None:
        """Take the source for main from now on, in the transaction that applies what it wrote as main.

        Raises PoisonError where another one was first."""
        if self._known is not None:
            return
        # After the commit there is an answer.
        self._asked = False
        # One row that every database has: of two who come first at once, one waits for the other here.
        connection.execute(sa.select(rf.node.c.node_id).where(rf.node.c.is_self).with_for_update())
        kept = pinned_main(connection)
        if kept not in (None, header.source_node):
            text = f"{header.source_node} writes as the main node, which is {kept} here"
            raise PoisonError(Reason.VERSION, text)
        peer = {
            "node_id": header.source_node,
            "role": "main",
            "incarnation": header.incarnation,
            "is_self": False,
            "first_seen_us": now_us,
            "last_seen_us": now_us,
        }
        insert_missing(connection, rf.node, [peer])
        connection.execute(sa.update(rf.node).where(rf.node.c.node_id == header.source_node).values(role="main"))
