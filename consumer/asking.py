"""Asks a source once more for what its log has and this node has not. A gap so heals by itself."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from common.clock import to_iso
from common.crash_points import CrashPoint, reach
from common.errors import OutageError
from common.periodic import Periodic
from common.runtime.node import Node
from common.runtime.transports import OpenDirect
from common.schema import tables as rf
from common.transports.control import control_envelope, say
from common.wire.control import Request
from consumer import audit
from consumer.gaps import Gap, find_gaps
from consumer.requests import forget_asked, note_asked
from consumer.statements import reading, writing
from consumer.watermark import SourceKey

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 600.0
_MOST_DOUBLINGS = 16
_NOTE_SECONDS = 20.0
_CONFIRM_SECONDS = 10.0


@dataclass(slots=True)
class _Watched:
    """A source of which something is missing. Instants are of the monotonic clock."""

    gap: Gap
    since: float
    moved: float
    """When the gap last became another one: something came."""
    asked: float | None = None
    asks: int = 0
    """Since then."""


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
        self._signer = node.config.signer()
        self._patience = node.config.limits.gap_seconds
        self._look_seconds = min(_LOOK_SECONDS, self._patience / 2)
        self._note_at = monotonic() + _NOTE_SECONDS
        """Not at once: what waited in the queue while this node was stopped has to be heard first."""
        self._watched: dict[SourceKey, _Watched] = {}

    def look(self) -> bool:
        """Look, and ask for what is due; True when something was asked for. Raises OutageError for the database."""
        self.look_again_in(self._look_seconds)
        now = self._monotonic()
        self._note_listening(now)
        with reading(self._node.database) as connection:
            gaps = find_gaps(connection)
        self._watch(gaps, now)
        due = [one for one in self._watched.values() if self._is_due(one, now)]
        for one in due:
            if self._stop.is_set():
                break
            self._ask(one, now)
        return bool(due)

    def _note_listening(self, now: float) -> None:
        """Note now and then that this node listens: whoever was heard long before that is silent."""
        if now < self._note_at:
            return
        self._note_at = now + _NOTE_SECONDS
        values = {"heard_us": self._node.clock.now_us()}
        note = sa.update(rf.node).where(rf.node.c.is_self).values(values)
        writing(self._node.database, lambda connection: connection.execute(note))

    def _watch(self, gaps: Sequence[Gap], now: float) -> None:
        found = {gap.key: gap for gap in gaps}
        for key in self._watched.keys() - found.keys():
            was = self._watched.pop(key)
            if was.asked is not None:
                writing(self._node.database, partial(forget_asked, peer=was.gap.peer, incarnation=was.gap.incarnation))
                fields = {"source_node": was.gap.peer, "incarnation": was.gap.incarnation}
                log.info("gap_closed", extra=fields | {"until_lsn": was.gap.until_lsn})
        for key, gap in found.items():
            watched = self._watched.get(key)
            if watched is None:
                self._watched[key] = _Watched(gap, since=now, moved=now)
                continue
            if gap.after_lsn != watched.gap.after_lsn or gap.until_lsn < watched.gap.until_lsn:
                watched.moved, watched.asks = now, 0
            watched.gap = gap

    def _is_due(self, one: _Watched, now: float) -> bool:
        if now - one.since < self._patience:
            return False
        if one.asks == 0:
            # It comes, so let it; what still stands apart of it after a moment is another gap.
            return now - one.moved >= min(self._patience, 5.0)
        pause = self._patience * 2.0 ** min(one.asks, _MOST_DOUBLINGS)
        return one.asked is None or now - one.asked >= min(pause, max(_LONGEST_PAUSE_SECONDS, self._patience))

    def _ask(self, one: _Watched, now: float) -> None:
        gap, node = one.gap, self._node
        request = Request(
            from_node=node.facts.node_id,
            to_node=gap.peer,
            incarnation=gap.incarnation,
            after_lsn=gap.after_lsn,
            until_lsn=gap.until_lsn,
            asked_at=to_iso(node.clock.now_us()),
        )
        one.asked, one.asks = now, one.asks + 1
        fields = {"source_node": gap.peer, "incarnation": gap.incarnation}
        lsns = {"after_lsn": gap.after_lsn, "until_lsn": gap.until_lsn}
        error = self._send(request)
        reach(CrashPoint.GAP_ASKED)
        # Also in vain: `status` tells a person after some times.
        asked = writing(node.database, lambda connection: self._note(connection, request, error))
        if error is None:
            log.warning("gap_asked", extra=fields | lsns | {"asked": asked})
        else:
            log.warning("gap_not_asked", extra=fields | lsns | {"asked": asked, "error": str(error)})

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
