"""Up to where each node that pulls has taken everything: by the mark that it shows when it asks for more."""

import threading
import time
from dataclasses import dataclass

import sqlalchemy as sa

from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from producer.clients import Clients, Given
from producer.log import NodeLogs
from producer.pull_cursor import PullCursor
from producer.relay_log import Readers

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

    def note(self, node_id: str, cursor: PullCursor) -> None:
        """Keep the mark that a node shows: it has taken everything up to there."""
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
