"""Asks a source once more for what its log has and this node has not. A gap so heals by itself."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.errors import OutageError
from common.periodic import Periodic
from common.runtime.node import Node
from common.runtime.transports import OpenDirect
from common.seldom import Seldom
from common.transports.control import control_envelope, say
from common.wire.control import Request
from consumer import audit
from consumer.gap_watch import GapWatch, Watched, pause_seconds
from consumer.gaps import Gap, find_gaps
from consumer.heard import note_listening
from consumer.requests import asked_for, forget_asked, note_asked, request_for
from consumer.statements import reading, writing

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_NOTE_SECONDS = 20.0
_CONFIRM_SECONDS = 10.0


class GapAsking(Periodic):
    """Looks for gaps now and then. A `Service` of `run`; belongs to one thread.

    Nothing is asked for before it had time to come by itself, nor while it comes; then after longer and longer pauses.
    """

    name = "gaps"

    def __init__(
        self,
        node: Node,
        open_direct: OpenDirect,
        stop: threading.Event,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(monotonic)
        self._node = node
        self._open_direct = open_direct
        self._stop = stop
        self._seldom = Seldom(log)
        self._signer = node.config.signer()
        self._patience = node.config.limits.gap_seconds
        self._look_seconds = min(_LOOK_SECONDS, self._patience / 2)
        self._note_at = monotonic() + _NOTE_SECONDS
        """Not at once: what waited in the queue while this node was stopped has to be heard first."""
        self._watch = GapWatch(self._patience)

    def look(self) -> bool:
        """Look, and ask for what is due; True when something was asked for. Raises OutageError for the database."""
        self.look_again_in(self._look_seconds)
        now = self._monotonic()
        self._note_listening(now)
        with reading(self._node.database) as connection:
            gaps = find_gaps(connection)
        for was in self._watch.look(gaps, now):
            self._forget(was.gap)
        due = self._watch.due(now)
        for one in due:
            if self._stop.is_set():
                break
            self._ask(one, now)
        return bool(due)

    def last_look(self) -> None:
        """Ask for what is missing, as often as a process would that goes on: a later one begins to wait anew.

        Raises OutageError for the database."""
        now, now_us = self._monotonic(), self._node.clock.now_us()
        with reading(self._node.database) as connection:
            asked = [(gap, *asked_for(connection, gap)) for gap in find_gaps(connection)]
        for gap, times, last_us in asked:
            if now_us - last_us >= pause_seconds(self._patience, times) * 1_000_000:
                self._ask(Watched(gap, since=now, moved=now), now)

    def _note_listening(self, now: float) -> None:
        """Note now and then that this node listens: whoever was heard long before that is silent."""
        if now < self._note_at:
            return
        self._note_at = now + _NOTE_SECONDS
        note_listening(self._node)

    def _forget(self, gap: Gap) -> None:
        writing(self._node.database, partial(forget_asked, peer=gap.peer, incarnation=gap.incarnation))
        fields = {"source_node": gap.peer, "incarnation": gap.incarnation}
        log.info("gap_closed", extra=fields | {"until_lsn": gap.until_lsn})

    def _ask(self, one: Watched, now: float) -> None:
        gap, node = one.gap, self._node
        request = request_for(node, gap)
        one.note_asked(now)
        fields = {"source_node": gap.peer, "incarnation": gap.incarnation}
        lsns = {"after_lsn": gap.after_lsn, "until_lsn": gap.until_lsn}
        error = self._send(request)
        reach(CrashPoint.GAP_ASKED)
        # Also in vain: `status` tells a person after some times.
        asked = writing(node.database, lambda connection: self._note(connection, request, error))
        if error is None:
            log.warning("gap_asked", extra=fields | lsns | {"asked": asked})
        else:
            self._seldom.warn("gap_not_asked", gap.peer, **fields, **lsns, asked=asked, error=str(error))

    def _note(self, connection: sa.Connection, request: Request, error: OutageError | None) -> int:
        now_us = self._node.clock.now_us()
        asked = note_asked(connection, request, now_us)
        if asked == 1:
            detail = {"incarnation": request.incarnation, "after_lsn": request.after_lsn}
            detail |= {"until_lsn": request.until_lsn} | ({} if error is None else {"error": str(error)})
            audit.write(connection, [audit.Line("gap-asked", request.to_node, None, detail=detail)], now_us)
        return asked

    def _send(self, request: Request) -> OutageError | None:
        """Send a request and have it confirmed; return what was in the way.

        The node that is to answer may be away for days, or not on this broker at all: nobody's outage but its own."""
        mine, about = self._node.facts.incarnation, f"request-{request.incarnation}-{request.after_lsn}"
        envelope = control_envelope(request, mine, request.after_lsn, request.until_lsn, about, self._signer)
        try:
            say(self._open_direct(request.to_node), envelope, _CONFIRM_SECONDS)
        except OutageError as error:
            return error
        return None
