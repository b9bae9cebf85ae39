"""Whether the broker, the shared folder or a peer can be used: what its sink says, kept where `status` and the file
fallback find it."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from common.clock import Clock
from common.errors import RowferryError
from common.logs import masked
from common.ops.sending import is_running
from common.ports.dialect import Database
from common.ports.sink import Envelope, KnowsPlace, Sink, TransportFeatures
from common.retry import in_transaction
from common.runtime.transports import BROKER, OpenSink
from common.schema import tables as rf

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoadState:
    """The row of `rf_road`. Instants are microseconds since the epoch."""

    failing_since_us: int | None = None
    """None: the broker can be used, as far as is known."""
    error: str | None = None
    fallback_since_us: int | None = None
    """Since when files are written in the broker's place."""
    fallback_error: str | None = None
    """Why they can't be either."""


class BrokerRoad:
    """What is known of the broker. Any thread; a row is written only where something changes."""

    def __init__(self, database: Database, clock: Clock, sink: str = BROKER) -> None:
        self._database = database
        self._clock = clock
        self._sink = sink
        self._lock = threading.Lock()
        self._stored: RoadState | None = None
        """As it stands in the database; None before the first look. What a process before this one saw goes on."""
        self._now = RoadState()
        self._needs_confirm = False
        self._was_usable = False

    @property
    def is_usable(self) -> bool:
        """Whether this process has seen the broker work, and not fail since."""
        return self._was_usable and self._now.failing_since_us is None

    def failing_seconds(self) -> float:
        """Return for how long the broker has not been usable; 0 where it is."""
        since_us = self._now.failing_since_us
        return 0.0 if since_us is None else max(0.0, (self._clock.now_us() - since_us) / 1e6)

    def failed(self, error: Exception, *, opening: bool) -> None:
        """Note that the sink could not be opened, or did not take what it was given."""
        with self._lock:
            self._needs_confirm = self._needs_confirm or not opening
            now_us = self._clock.now_us()
            # A clock that was ahead when it began would keep the fallback waiting for as long.
            since_us = min(self._known().failing_since_us or now_us, now_us)
            self._note(failing_since_us=since_us, error=masked(str(error)))

    def opened(self) -> None:
        """Note that the sink could be opened. One that took nothing before has to confirm something first."""
        with self._lock:
            if not self._needs_confirm:
                self._works()

    def confirmed(self) -> None:
        """Note that the other side has confirmed something."""
        if self.is_usable and not self._needs_confirm:
            return
        with self._lock:
            self._needs_confirm = False
            self._works()

    def files_begin(self) -> None:
        """Note that files are written from now on."""
        with self._lock:
            since_us = self._known().fallback_since_us or self._clock.now_us()
            self._note(fallback_since_us=since_us, fallback_error=None)

    def files_failed(self, error: Exception) -> None:
        """Note that files can't be written either."""
        with self._lock:
            self._note(fallback_error=masked(str(error)))

    def files_work(self) -> None:
        """Note that files can be written again."""
        if self._now.fallback_error is not None:
            self.files_begin()

    def files_end(self) -> bool:
        """Note that no files are written any more; False where none were."""
        if self._now.fallback_since_us is None:
            return False
        with self._lock:
            self._note(fallback_since_us=None, fallback_error=None)
        return True

    def _works(self) -> None:
        self._was_usable = True
        self._note(failing_since_us=None, error=None)

    def _note(self, **changes: Any) -> None:
        self._now = replace(self._known(), **changes)
        self._store()

    def _known(self) -> RoadState:
        if self._stored is None:
            try:
                self._stored = read_road(self._database, self._sink)
            except RowferryError as error:
                # The database is away too; what is noted meanwhile is stored with the next note.
                log.debug("road.unread", extra={"error": str(error)})
                return self._now
            self._now = self._stored
        return self._now

    def _store(self) -> None:
        if self._stored is None or self._now == self._stored:
            return
        try:
            _write(self._database, self._sink, self._now, self._clock.now_us())
        except RowferryError as error:
            log.debug("road.unwritten", extra={"error": str(error)})
            return
        self._stored = self._now


def observed(open_sink: OpenSink, road: BrokerRoad, stop: threading.Event) -> OpenSink:
    """Return how to open the broker's sink so that `road` learns how it fares."""

    def open_and_watch(on_confirmed: Callable[[], None]) -> Sink:
        try:
            sink = open_sink(on_confirmed)
        except RowferryError as error:
            # Also a peer's no: a token that it does not take.
            if not stop.is_set():
                road.failed(error, opening=True)
            raise
        road.opened()
        return _ObservedPeer(sink, road, stop) if isinstance(sink, KnowsPlace) else _Observed(sink, road, stop)

    return open_and_watch


class _Observed:
    """A sink that tells how it fares."""

    def __init__(self, sink: Sink, road: BrokerRoad, stop: threading.Event) -> None:
        self._sink = sink
        self._road = road
        self._stop = stop
        self._confirmed = sink.confirmed()

    @property
    def features(self) -> TransportFeatures:
        return self._sink.features

    def send(self, envelope: Envelope) -> None:
        with self._watching():
            self._sink.send(envelope)

    def confirmed(self) -> int:
        with self._watching():
            return self._seen(self._sink.confirmed())

    def flush(self, timeout_seconds: float) -> int:
        with self._watching():
            return self._seen(self._sink.flush(timeout_seconds))

    def close(self) -> None:
        self._sink.close()

    def _seen(self, lsn: int) -> int:
        if lsn > self._confirmed:
            self._confirmed = lsn
            self._road.confirmed()
        return lsn

    @contextmanager
    def _watching(self) -> Iterator[None]:
        try:
            yield
        except RowferryError as error:
            # A node that stops gives up on what is not confirmed: that says nothing of the broker.
            if not self._stop.is_set():
                self._road.failed(error, opening=False)
            raise


class _ObservedPeer(_Observed):
    """One whose other side has said what it has."""

    def __init__(self, sink: Sink, road: BrokerRoad, stop: threading.Event) -> None:
        super().__init__(sink, road, stop)
        if not isinstance(sink, KnowsPlace):
            raise TypeError("this sink knows nothing of its other side")
        self.known_lsn = sink.known_lsn
        self.known_logs = sink.known_logs


def read_road(database: Database, sink: str = BROKER) -> RoadState:
    """Return what is known of the broker, or of a peer by its sink's name. Raises OutageError."""
    columns = (rf.road.c.failing_since_us, rf.road.c.error, rf.road.c.fallback_since_us, rf.road.c.fallback_error)
    query = sa.select(*columns).where(rf.road.c.sink == sink)
    row = in_transaction(database, lambda connection: connection.execute(query).one_or_none())
    return RoadState() if row is None else RoadState(*row)


def works_for_a_command(database: Database, clock: Clock, sink: str) -> None:
    """Note that a command has just used what `run` found unusable when it last ran; one that is running says so
    itself."""
    state = read_road(database, sink)
    runs = in_transaction(database, lambda connection: is_running(connection, clock.now_us()))
    if state.failing_since_us is not None and not runs:
        _write(database, sink, replace(state, failing_since_us=None, error=None), clock.now_us())


def _write(database: Database, sink: str, state: RoadState, now_us: int) -> None:
    values = {
        "failing_since_us": state.failing_since_us,
        "error": state.error,
        "fallback_since_us": state.fallback_since_us,
        "fallback_error": state.fallback_error,
        "updated_us": now_us,
    }

    def write(connection: sa.Connection) -> None:
        if not connection.execute(sa.update(rf.road).where(rf.road.c.sink == sink).values(values)).rowcount:
            connection.execute(sa.insert(rf.road).values(sink=sink, **values))

    in_transaction(database, write)
