"""Says now and then that this node is there, and how far its log goes: so that a lost last batch is missed too."""

import logging
import time
from collections.abc import Callable
from functools import partial

from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, OutageError
from common.periodic import Periodic
from common.runtime.node import Node
from common.runtime.transports import BROKER, OpenSink
from common.transports.control import control_envelope, say
from common.wire.control import Heartbeat
from producer.cursors import Cursors
from producer.heartbeat import NOBODY_KNOWS_SECONDS, own_heartbeat

log = logging.getLogger(__name__)

_FIRST_SECONDS = 5.0
"""After the start: `run --once` ends before, but for `AnnouncingToPeer`."""
_CONFIRM_SECONDS = 10.0


class Announcing(Periodic):
    """Sends heartbeats by one way. A `Service` of `run`; belongs to one thread.

    Each goes over a connection of its own: it is one small message a minute, and must not wait behind a backlog."""

    def __init__(
        self,
        node: Node,
        open_sink: OpenSink,
        cursors: Cursors,
        road: str = BROKER,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`road`: what the way is called whose cursor tells how far it has the log."""
        self.name = "heartbeat" if road == BROKER else f"heartbeat-{road}"
        super().__init__(monotonic)
        self._node = node
        self._open_sink = open_sink
        self._road = road
        self._sent = partial(cursors.load, road)
        self._signer = node.config.signer()
        self._every = node.config.limits.announce_seconds
        self.look_again_in(min(_FIRST_SECONDS, self._every))

    def look(self) -> bool:
        """Send a heartbeat. Never work that a drained node would wait for. Raises OutageError for the
        database alone."""
        self.look_again_in(self._every)
        self._say(self._every)
        return False

    def _say(self, every_seconds: float) -> None:
        heartbeat = own_heartbeat(self._node, self._sent, every_seconds)
        try:
            self._send(heartbeat)
        except (OutageError, ConfigError) as error:
            # The relay tells of a way that can't be used; that nobody listens is no outage of who has sent nothing.
            log.info("heartbeat.not_sent", extra={"to": self._road, "error": str(error)})

    def _send(self, heartbeat: Heartbeat) -> None:
        incarnation, lsn = heartbeat.incarnation, heartbeat.head_lsn
        envelope = control_envelope(heartbeat, incarnation, lsn, lsn, f"heartbeat-{incarnation}-{lsn}", self._signer)
        say(self._open_sink(self.wake), envelope, _CONFIRM_SECONDS)
        reach(CrashPoint.HEARTBEAT_SENT)


class AnnouncingToPeer(Announcing):
    """Sends heartbeats to one peer over HTTP, also at the end of `run --once`: nobody knows when it runs again."""

    def last_look(self) -> None:
        """Send a heartbeat. Raises OutageError for the database alone."""
        self._say(NOBODY_KNOWS_SECONDS)
