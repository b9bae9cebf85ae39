"""One sink's way out: read the sealed log, send, take the confirmed prefix, then move the cursor. Never before."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from common.crash_points import CrashPoint, reach
from common.errors import RowferryError
from common.ports.dialect import SealedLog
from common.ports.sink import KnowsPlace, Sink
from producer.cursors import Cursors
from producer.inflight import InFlight
from producer.log import NodeLogs
from producer.packing import Packing, pack, read_packed

log = logging.getLogger(__name__)

OpenSink = Callable[[Callable[[], None]], Sink]
"""Opens a sink; it is given what to call, on any thread, when a confirm has come."""

_READ_BYTES, _MOST_READ_BYTES = 1024 * 1024, 4 * 1024 * 1024
"""So that the first of a backlog is on its way while the next is read; more where messages are large."""
_WINDOW_BYTES = 16 * 1024 * 1024
_SAVE_SECONDS = 0.1
"""What is confirmed within it is noted in one commit; after a kill so much comes twice, and dedup takes it."""
_CONFIRM_SECONDS = 0.25
_LAST_FLUSH_SECONDS = 1.5


@dataclass(slots=True)
class _Passage:
    """One opened sink, and where it stands in the log of one incarnation."""

    sink: Sink
    incarnation: str
    log: SealedLog
    read_lsn: int
    """Handed to the sink up to here."""
    confirmed_lsn: int
    """Durable at the other side up to here."""
    saved_lsn: int
    """The cursor as it stands in the database."""
    saved_at: float = 0.0
    in_flight: InFlight = field(default_factory=InFlight)


class Relay:
    """Carries the log to one sink, first what earlier incarnations left. A `Service`.

    A crash or an outage at any moment sends again what was under way: the receivers' dedup makes that harmless.
    Nothing is dead-lettered here. Memory is bounded by what is unconfirmed and by one read of the log.
    """

    def __init__(
        self,
        sink_name: str,
        open_sink: OpenSink,
        logs: NodeLogs,
        cursors: Cursors,
        packing: Packing,
        stop: threading.Event,
    ) -> None:
        self.name = f"relay-{sink_name}"
        self._sink_name = sink_name
        self._open_sink = open_sink
        self._logs = logs
        self._cursors = cursors
        self._packing = packing
        self._stop = stop
        self._wake = threading.Event()
        self._may_have_more = True
        """Whether something may have been sealed since the last look at the log: a confirm alone is no reason."""
        self._passage: _Passage | None = None
        self._begins_anew = False
        self._gone_through: set[str] = set()
        """Earlier incarnations whose logs were sent to their ends, and then not yet seen to be there."""

    def wake(self) -> None:
        """Something was sealed."""
        self._may_have_more = True
        self._wake.set()

    def begin_anew(self) -> None:
        """Let the next step open the sink again, and so begin where the other side ends. Any thread."""
        self._begins_anew = True
        self.wake()

    def step(self, idle_seconds: float) -> bool:
        """Send what there is and take what was confirmed. False when all is sealed, sent, confirmed and noted."""
        if self._stop.is_set():
            # A large tx may have been left in its middle: this sink must not be used any more.
            return False
        self._wake.clear()
        if self._begins_anew:
            self._begins_anew = False
            self._drop()
        passage = self._passage or self._opened()
        try:
            return self._round(passage, idle_seconds)
        except BaseException:
            # The sink's rule: after an error nothing of what is unconfirmed counts, and a new one begins at the cursor.
            self._drop()
            raise

    def close(self) -> None:
        """Wait a moment for what is under way, note it, and close the sink."""
        passage = self._passage
        try:
            if passage is not None:
                if passage.in_flight:
                    self._take(passage, passage.sink.flush(_LAST_FLUSH_SECONDS))
                self._save(passage)
        except RowferryError as error:
            fields = {"sink": self._sink_name, "error": str(error), "bytes": passage.in_flight.size if passage else 0}
            log.warning("relay.unconfirmed_at_stop", extra=fields)
        finally:
            self._drop()

    def _opened(self) -> _Passage:
        """Open a sink for the first incarnation of which something is left to send, else for the present one."""
        self._may_have_more = True
        sink = self._open_sink(self._wake.set)
        try:
            incarnation, after = self._where_to_begin(sink)
        except BaseException:
            # The database is away: each try would leave a connection and a thread behind.
            sink.close()
            raise
        sealed = self._logs.of(incarnation)
        if isinstance(sink, KnowsPlace) and incarnation == self._logs.facts.incarnation:
            # What the other side has lost since, by a backup of its own for example, is sent again.
            after = min(after, sink.known_lsn)
        self._passage = _Passage(sink, incarnation, sealed, after, after, after)
        log.info("relay.opened", extra={"sink": self._sink_name, "incarnation": incarnation, "after_lsn": after})
        return self._passage

    def _where_to_begin(self, sink: Sink) -> tuple[str, int]:
        *earlier, present = self._logs.incarnations()
        for incarnation in earlier:
            after = self._cursors.load(self._sink_name, incarnation)
            if isinstance(sink, KnowsPlace):
                after = self._known_again(incarnation, after, sink)
            if after < self._logs.of(incarnation).head().lsn:
                return incarnation, after
        return present, self._cursors.load(self._sink_name, present)

    def _known_again(self, incarnation: str, after: int, sink: KnowsPlace) -> int:
        """Return where to begin with an earlier log of which the other side may have lost something since.

        What it still has not after all was sent once more, since that is purged here, is left."""
        known = max((log.lsn for log in sink.known_logs if log.incarnation == incarnation), default=0)
        if known >= after:
            self._gone_through.discard(incarnation)
        elif incarnation not in self._gone_through:
            return known
        return after

    def _round(self, passage: _Passage, idle_seconds: float) -> bool:
        looked = self._may_have_more
        sent = looked and passage.in_flight.size < _WINDOW_BYTES and self._send(passage)
        moved = self._take(passage, passage.sink.confirmed())
        if sent or moved:
            if time.monotonic() - passage.saved_at >= _SAVE_SECONDS:
                self._save(passage)
            return True
        if passage.in_flight:
            # A confirm or a newly sealed tx ends the wait.
            self._wait(min(idle_seconds, _CONFIRM_SECONDS))
            return True
        due_seconds = passage.saved_at + _SAVE_SECONDS - time.monotonic()
        if passage.confirmed_lsn > passage.saved_lsn and min(idle_seconds, due_seconds) > 0:
            # More may come until then.
            self._wake.wait(min(idle_seconds, due_seconds))
            return True
        self._save(passage)
        if passage.incarnation != self._logs.facts.incarnation:
            # LSNs count within an incarnation, so the sink's `confirmed` can't go on with another one's.
            self._gone_through.add(passage.incarnation)
            self._drop()
            return True
        self._wait(idle_seconds)
        return not looked

    def _wait(self, seconds: float) -> None:
        """Wait to be woken. Whoever is not looks at the log all the same: another process may have sealed."""
        if not self._wake.wait(seconds):
            self._may_have_more = True

    def _send(self, passage: _Passage) -> bool:
        """Hand one read of the log to the sink; False when there was nothing."""
        # Before the look: what is sealed from now on asks for another one.
        self._may_have_more = False
        # All at once: a sink that blocks must not keep a transaction open here. Large txs come as promises.
        most_bytes = min(max(_READ_BYTES, 2 * self._packing.message_bytes), _MOST_READ_BYTES)
        txs = list(read_packed(passage.log, passage.read_lsn, most_bytes, self._packing))
        if txs:
            self._may_have_more = True
        for envelope in pack(txs, self._packing):
            passage.sink.send(envelope)
            reach(CrashPoint.SENT)
            passage.in_flight.add(envelope)
            if self._stop.is_set():
                break
            if envelope.closes_lsn is not None:
                passage.read_lsn = envelope.closes_lsn
                self._take(passage, passage.sink.confirmed())
        return bool(txs)

    def _take(self, passage: _Passage, confirmed_lsn: int) -> bool:
        """Let go of the confirmed prefix; True when something was in it."""
        before = passage.in_flight.size
        passage.in_flight.confirm(confirmed_lsn)
        passage.confirmed_lsn = max(passage.confirmed_lsn, confirmed_lsn)
        return passage.in_flight.size < before

    def _save(self, passage: _Passage) -> None:
        if passage.confirmed_lsn > passage.saved_lsn:
            reach(CrashPoint.CONFIRMED)
            self._cursors.save(self._sink_name, passage.incarnation, passage.confirmed_lsn)
            reach(CrashPoint.CURSOR_MOVED)
            passage.saved_lsn = passage.confirmed_lsn
        passage.saved_at = time.monotonic()

    def _drop(self) -> None:
        passage, self._passage = self._passage, None
        if passage is not None:
            passage.sink.close()
