"""What a peer says of this node's logs when it is first spoken to: more than there is, or one that is not here, and
this node was put back."""

import logging
from collections.abc import Callable
from dataclasses import replace

import sqlalchemy as sa

from common.ops.rewinding import Seen, look, note
from common.ports.sink import KnowsPlace, Sink
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import OpenSink

log = logging.getLogger(__name__)


def looking(node: Node, peer: str, open_sink: OpenSink) -> OpenSink:
    """Return how to open a peer's sink so that a node which was rewound learns of it."""

    def open_and_look(on_confirmed: Callable[[], None]) -> Sink:
        sink = open_sink(on_confirmed)
        if isinstance(sink, KnowsPlace):
            try:
                for known in sink.known_logs:
                    look_at(node, Seen(peer, known.incarnation, known.lsn, known.tx_id))
            except BaseException:
                sink.close()
                raise
        return sink

    return open_and_look


def look_at(node: Node, seen: Seen) -> None:
    """Keep and tell that this node was put back, where a peer has had more, or other things, of its log."""
    facts = node.facts
    head = node.database.log(replace(facts, incarnation=seen.incarnation)).head()

    def compare(connection: sa.Connection) -> str | None:
        why = look(connection, facts.incarnation, head.lsn, seen)
        if why is not None:
            note(connection, facts.node_id, seen, why, node.clock.now_us())
        return why

    why = in_transaction(node.database, compare)
    if why is not None:
        log.error("node_is_rewound", extra={"error": why, "remedy": "rowferry rejoin"})
