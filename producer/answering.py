"""Answers nodes that ask for a stretch of this one's log once more: to the asker alone, beside the stream for all."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from common.crash_points import CrashPoint, reach
from common.errors import OutageError
from common.ops.status_words import A_COPY
from common.periodic import Periodic
from common.ports.sink import Sink
from common.runtime.node import Node
from common.runtime.transports import OpenDirect
from common.seldom import Seldom
from common.transports.control import control_envelope
from common.wire.control import Gone
from common.wire.records import SealedTx
from producer.log import NodeLogs
from producer.packing import Packing, pack
from producer.requests import Owed, Requests

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_READ_BYTES = 4 * 1024 * 1024
_CONFIRM_SECONDS = 30.0
_REST_SECONDS = 5.0
"""Between two answers to one node, whatever it asks for."""
_REST_AFTER_FAILURE_SECONDS = 30.0
"""After the first failure; twice as long after each further one."""
_LONGEST_REST_SECONDS = 600.0
_MOST_STRANGERS = 10
"""Nodes that nobody knows and that get no answer, a minute: each try is a connection, and names can be made up."""
_STRANGERS_SECONDS = 60.0
_LONGEST_WAIT_US = 3_600_000_000
"""A request that could not be answered for so long is forgotten: who still lacks it asks again."""


@dataclass(frozen=True, slots=True)
class _Rest:
    """A node that was answered, or was not there, waits for the next answer."""

    until: float
    failures: int = 0
    """In a row."""


class Answering(Periodic):
    """A `Service` of `run`; belongs to one thread. No cursor moves by it.

    Memory is bounded by one read of the log; a broker that is away, or a process that ends, makes the answer go on
    later where it was."""

    name = "answers"

    def __init__(
        self,
        node: Node,
        open_direct: OpenDirect,
        logs: NodeLogs,
        packing: Packing,
        stop: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(monotonic)
        self._node = node
        self._open_direct = open_direct
        self._logs = logs
        self._packing = packing
        self._stop = stop
        self._requests = Requests(node.database)
        # Whoever may write to the broker can make up askers: they come back for an hour, each several times a minute.
        self._seldom = Seldom(log)
        self._rests: dict[str, _Rest] = {}
        self._strangers_failed: list[float] = []
        """When; of the last minute."""

    def look(self) -> bool:
        """Answer who is due; True when something was sent. Raises OutageError for the database."""
        waiting = self._requests.waiting(self._node.clock.now_us() - _LONGEST_WAIT_US)
        due = self._due(waiting)
        away: set[str] = set()
        for owed in due:
            if self._stop.is_set():
                break
            if owed.peer in away:
                # Whatever else it asks for would fail as well, and keep the others waiting.
                continue
            is_stranger = not self._is_known(owed)
            if is_stranger and not self._has_room_for_strangers():
                continue
            is_answered = self._answered(owed)
            if not is_answered:
                away.add(owed.peer)
                if is_stranger:
                    self._strangers_failed.append(self._monotonic())
            self._rests[owed.peer] = self._rest(owed.peer, is_answered=is_answered)
        self.look_again_in(_LOOK_SECONDS)
        return bool(due)

    def _due(self, waiting: list[Owed]) -> list[Owed]:
        """Return who rests no more: those that are known first, and who was away more often after who was less."""
        now, peers = self._monotonic(), {owed.peer for owed in waiting}
        # Who asks for nothing any more begins anew; who still does is remembered, to rest longer the next time.
        self._rests = {peer: rest for peer, rest in self._rests.items() if rest.until > now or peer in peers}
        rested = [owed for owed in waiting if owed.peer not in self._rests or self._rests[owed.peer].until <= now]
        return sorted(rested, key=lambda owed: (not self._is_known(owed), self._failures(owed.peer)))

    def _rest(self, peer: str, *, is_answered: bool) -> _Rest:
        now = self._monotonic()
        if is_answered:
            return _Rest(now + _REST_SECONDS)
        failures = self._failures(peer)
        seconds = min(_REST_AFTER_FAILURE_SECONDS * 2 ** min(failures, 10), _LONGEST_REST_SECONDS)
        return _Rest(now + seconds, failures + 1)

    def _failures(self, peer: str) -> int:
        return self._rests[peer].failures if peer in self._rests else 0

    def _is_known(self, owed: Owed) -> bool:
        return owed.is_known or owed.peer in self._node.config.named_nodes

    def _has_room_for_strangers(self) -> bool:
        since = self._monotonic() - _STRANGERS_SECONDS
        self._strangers_failed = [at for at in self._strangers_failed if at > since]
        return len(self._strangers_failed) < _MOST_STRANGERS

    def _answered(self, owed: Owed) -> bool:
        """Answer; False where the broker, or the asker's queue on it, is away. What was sent until then is noted."""
        fields = _fields(owed)
        self._seldom.tell(logging.INFO, "answer.begins", owed.peer, **fields)
        try:
            self._answer(owed)
        except OutageError as error:
            # Not raised: one asker that is away must not keep the others waiting.
            self._seldom.warn("answer.interrupted", owed.peer, **fields, error=str(error))
            return False
        self._seldom.tell(logging.INFO, "answer.sent", owed.peer, **fields)
        return True

    def _answer(self, owed: Owed) -> None:
        sink = self._open_direct(owed.peer)
        try:
            while owed.after_lsn < owed.until_lsn and not self._stop.is_set():
                up_to_lsn = self._send_some(sink, owed)
                if self._stop.is_set():
                    # A large tx may have been left in its middle.
                    return
                reach(CrashPoint.ANSWER_SENT)
                self._requests.sent(owed, up_to_lsn)
                reach(CrashPoint.ANSWER_NOTED)
                owed = replace(owed, after_lsn=up_to_lsn)
        finally:
            sink.close()

    def _send_some(self, sink: Sink, owed: Owed) -> int:
        """Send one read of the log and have it confirmed; return up to where the asker has now been told everything."""
        txs = self._read(owed)
        begins_lsn = txs[0].header.prev_lsn if txs else owed.until_lsn
        if begins_lsn > owed.after_lsn:
            self._send_gone(sink, owed, min(begins_lsn, owed.until_lsn))
        wanted = [tx for tx in txs if tx.header.prev_lsn < owed.until_lsn]
        for envelope in pack(wanted, self._packing):
            sink.send(envelope)
            if self._stop.is_set():
                return owed.after_lsn
        sink.flush(_CONFIRM_SECONDS)
        # Where the log ends before what was asked for, that was told too.
        return wanted[-1].header.to_lsn if wanted else owed.until_lsn

    def _read(self, owed: Owed) -> list[SealedTx]:
        if owed.incarnation not in self._logs.incarnations():
            return []
        return list(self._logs.of(owed.incarnation).read(owed.after_lsn, _READ_BYTES))

    def _send_gone(self, sink: Sink, owed: Owed, until_lsn: int) -> None:
        """Say that the log does not have this any more: only a copy of the data brings the asker on."""
        gone = Gone(
            from_node=self._node.facts.node_id,
            to_node=owed.peer,
            incarnation=owed.incarnation,
            after_lsn=owed.after_lsn,
            until_lsn=until_lsn,
        )
        fields = _fields(replace(owed, until_lsn=until_lsn))
        self._seldom.tell(logging.ERROR, "answer.gone", owed.peer, **fields, remedy=A_COPY)
        sink.send(
            control_envelope(
                gone,
                gone.incarnation,
                gone.after_lsn,
                gone.until_lsn,
                f"gone-{gone.incarnation}-{gone.after_lsn}",
                self._packing.signer,
            )
        )


def _fields(owed: Owed) -> dict[str, str | int]:
    lsns = {"after_lsn": owed.after_lsn, "until_lsn": owed.until_lsn}
    return {"peer": owed.peer, "incarnation": owed.incarnation, **lsns}
