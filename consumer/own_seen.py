"""This node's own batches that come back to it: they are not applied, and they tell where its log has ended."""

import logging
from dataclasses import replace

import sqlalchemy as sa

from common.ops.rewinding import Seen, look, note
from common.preflight.known import OwnEnd
from common.runtime.node import Node
from common.wire.records import BatchHeader
from consumer.statements import reading, writing

log = logging.getLogger(__name__)


def seen_in(end: OwnEnd) -> Seen:
    """Return what a file's end of this node's own log shows, as it is kept."""
    return Seen(end.file, end.incarnation, end.lsn, end.tx_id)


def rewound(node: Node, seen: Seen) -> str | None:
    """Return what shows that this node was put back, when others have `seen` of its log; None where nothing does."""
    head_lsn = end_of_log(node, seen.incarnation)
    with reading(node.database) as connection:
        return _look(node, connection, head_lsn, seen)


def note_seen(node: Node, seen: Seen) -> str | None:
    """Keep that this node was put back where `seen` shows it, and tell it loudly once; return what shows it."""
    head_lsn = end_of_log(node, seen.incarnation)

    def work(connection: sa.Connection) -> tuple[str | None, bool]:
        why = _look(node, connection, head_lsn, seen)
        is_news = why is not None and note(connection, node.facts.node_id, seen, why, node.clock.now_us())
        return why, is_news

    why, is_news = writing(node.database, work)
    if is_news:
        log.error("node_is_rewound", extra={"error": why, "remedy": "rowferry rejoin"})
    return why


class OwnSeen:
    """Looks at own batches as they come. Each incarnation's log is looked at only where more of it comes than before,
    so that what is taken in again in its order costs no statement a tx after a first pass."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._until: dict[str, int] = {}

    def take(self, header: BatchHeader, origin: str) -> None:
        """Look at one batch of this node itself, whose sender may hand it on."""
        if header.to_lsn > self._until.get(header.incarnation, 0):
            self.note(Seen(origin, header.incarnation, header.to_lsn, header.tx_id))

    def note(self, seen: Seen) -> None:
        """The same with what was seen."""
        self._until[seen.incarnation] = seen.lsn
        note_seen(self._node, seen)


def _look(node: Node, connection: sa.Connection, head_lsn: int, seen: Seen) -> str | None:
    return look(connection, node.facts.incarnation, head_lsn, seen)


def end_of_log(node: Node, incarnation: str) -> int:
    """Return the LSN at which one of this node's logs ends here. Read after what was seen: a log that grows meanwhile
    is no log that was put back. Raises OutageError."""
    return node.database.log(replace(node.facts, incarnation=incarnation)).head().lsn
