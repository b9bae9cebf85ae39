"""Says now and then that this node is there, and how far its log goes: so that a lost last batch is missed too."""

import logging
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, OutageError
from common.periodic import Periodic
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import BROKER, OpenSink
from common.schema import tables as rf
from common.transports.control import control_envelope, say
from common.wire.control import Heartbeat
from producer.cursors import Cursors
from producer.heartbeat import NOBODY_KNOWS_SECONDS, own_heartbeat

log = logging.getLogger(__name__)

_FIRST_SECONDS = 5.0
"""After the start: `run --once` ends before, with a last look."""
_SELDOM_US = 3_600_000_000
"""So often a node that only a schedule runs says on the broker that it is there: each lies in everybody's queue."""
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

    def last_look(self) -> None:
        """Send a heartbeat at the end of `run --once`: nobody knows when it runs again. Raises OutageError for the
        database alone."""
        if self._road != BROKER or self._is_seldom():
            self._say(NOBODY_KNOWS_SECONDS)

    def _is_seldom(self) -> bool:
        own = rf.node.c
        query = sa.select(own.first_seen_us, sa.func.coalesce(own.heartbeat_us, 0)).where(own.is_self)
        now_us = self._node.clock.now_us()
        first_us, said_us = in_transaction(self._node.database, lambda connection: connection.execute(query).one())
        # What was said later than now was said before the clock was set back.
        return now_us - first_us >= _SELDOM_US and not 0 <= now_us - said_us < _SELDOM_US

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
