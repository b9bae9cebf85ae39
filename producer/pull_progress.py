"""Up to where each node that pulls has taken everything: by the mark that it shows when it asks for more."""

import logging
import threading
import time
from dataclasses import dataclass

import sqlalchemy as sa

from common.errors import ContentionError, OutageError
from common.ids import is_incarnation
from common.ops.rewinding import Seen
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.signing import NO_PROOF, Purpose
from producer.clients import Clients, Given
from producer.first_contact import look_at
from producer.log import NodeLogs
from producer.pull_cursor import PullCursor
from producer.relay_log import Readers

log = logging.getLogger(__name__)

_NOTE_EVERY_SECONDS = 30.0
"""A mark that stays where it is is noted so often, so that a node that is there does not look away."""


def reader_of(node_id: str) -> str:
    """Return what a node that pulls is called in `rf_relay_reader`."""
    return f"pull:{node_id}"


@dataclass(frozen=True, slots=True)
class _Noted:
    cursor: PullCursor
    at: float


class PullProgress:
    """The places of the nodes that pull. Kept by node: a new token goes on where the old one was. Any thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._logs = NodeLogs(node.database, node.facts)
        self._clients = Clients(node.database, node.clock)
        self._readers = Readers(node.database, node.clock, node.facts.incarnation)
        self._noted: dict[str, _Noted] = {}
        self._looked: dict[str, tuple[str, int]] = {}
        self._trust = node.config.trust()
        self._lock = threading.Lock()

    def stored(self, node_id: str) -> PullCursor:
        """Return where a node is that shows no mark."""
        era = self._node.facts.incarnation
        cursor = PullCursor(era=era, seq=self._readers.load(reader_of(node_id)))
        for incarnation in self._logs.incarnations():
            lsn = self._clients.last_lsn(node_id, incarnation)
            if lsn:
                cursor = PullCursor(incarnation, lsn, cursor.era, cursor.seq)
        return cursor

    def is_ahead(self, cursor: PullCursor) -> bool:
        """Tell whether a mark names more than this node's log has: the node was put back to an earlier state."""
        own = self._node.facts.incarnation
        return cursor.incarnation == own and cursor.lsn > self._logs.of(own).head().lsn

    def look(self, node_id: str, cursor: PullCursor, *, is_ahead: bool) -> None:
        """Hear of a log of this node that is not here, or not so far: a mark of it shows that the node was put back.

        `is_ahead`: what the method of this name says of the mark. A node that nobody pushes to, and that asks nobody,
        hears of it in no other way. Raises OutageError."""
        shown = (cursor.incarnation, cursor.lsn)
        with self._lock:
            if self._looked.get(node_id) == shown:
                return
        is_other = is_incarnation(cursor.incarnation) and cursor.incarnation != self._node.facts.incarnation
        # Who would have to sign what it says tells nothing by a mark.
        is_believed = self._trust.fault(node_id, Purpose.DIGESTS, "", NO_PROOF) is None
        if is_believed and (is_other or is_ahead):
            look_at(self._node, Seen(node_id, *shown, None))
        with self._lock:
            self._looked[node_id] = shown

    def note(self, node_id: str, cursor: PullCursor) -> None:
        """Keep the mark that a node shows: it has taken everything up to there.

        Where nothing can be written it is answered all the same, and the next mark that it shows tells more."""
        try:
            self._note(node_id, cursor)
        except (OutageError, ContentionError) as error:
            log.info("pull.mark_not_noted", extra={"peer": node_id, "error": str(error)})

    def _note(self, node_id: str, cursor: PullCursor) -> None:
        with self._lock:
            noted = self._noted.get(node_id)
            if noted and noted.cursor == cursor and time.monotonic() < noted.at + _NOTE_EVERY_SECONDS:
                return
        if cursor.incarnation in self._logs.incarnations():
            given = Given(cursor.incarnation, cursor.lsn, self._tx_id(cursor))
            self._clients.give(node_id, [given])
        if cursor.era == self._node.facts.incarnation:
            self._readers.save(reader_of(node_id), cursor.seq)
        with self._lock:
            self._noted[node_id] = _Noted(cursor, time.monotonic())

    def _tx_id(self, cursor: PullCursor) -> str | None:
        log = rf.tx.c
        query = sa.select(log.tx_id).where(log.incarnation == cursor.incarnation, log.to_lsn == cursor.lsn)
        return in_transaction(self._node.database, lambda connection: connection.execute(query).scalar())
