"""The file fallback: while the broker can't be used, batches are also written into the shared folder."""

import logging
import threading

from common.crash_points import CrashPoint, reach
from common.errors import RowferryError
from common.runtime.transports import BROKER, DIRECTORY
from producer.cursors import Cursors
from producer.log import NodeLogs
from producer.relay import Relay
from producer.road import BrokerRoad

log = logging.getLogger(__name__)


class Fallback:
    """The folder's relay, at work from `after_seconds` of an unusable broker on until it is usable again. A `Service`.

    The files begin where the broker's cursor stands, and that cursor goes on by itself later: what travels both ways is
    recognised by the receivers."""

    name = "fallback"

    def __init__(self, relay: Relay, road: BrokerRoad, logs: NodeLogs, cursors: Cursors, after_seconds: float) -> None:
        self._relay = relay
        self._road = road
        self._logs = logs
        self._cursors = cursors
        self._after_seconds = after_seconds
        self._writes = False
        self._wake = threading.Event()

    def wake(self) -> None:
        """End a wait; also the folder's."""
        self._wake.set()
        self._relay.wake()

    def step(self, idle_seconds: float) -> bool:
        """Write what there is, while files are due. Raises OutageError where the folder can't be written."""
        if self._road.failing_seconds() <= self._after_seconds:
            if self._road.is_usable:
                self._end()
            self._wake.clear()
            self._wake.wait(idle_seconds)
            return False
        try:
            self._begin()
            worked = self._relay.step(idle_seconds)
        except RowferryError as error:
            self._road.files_failed(error)
            raise
        self._road.files_work()
        return worked

    def close(self) -> None:
        """Finish the file in hand. What is noted of the broker stays: the next process goes on with it."""
        self._relay.close()

    def _begin(self) -> None:
        if self._writes:
            return
        for incarnation in self._logs.incarnations():
            self._cursors.save(DIRECTORY, incarnation, self._cursors.load(BROKER, incarnation))
        self._road.files_begin()
        reach(CrashPoint.FALLBACK_BEGUN)
        self._writes = True
        log.warning("fallback.begins", extra={"after_seconds": self._after_seconds})

    def _end(self) -> None:
        """Also what a process before this one began."""
        self._relay.close()
        if self._road.files_end():
            log.warning("fallback.ends")
        self._writes = False
