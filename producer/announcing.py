"""Says now and then that this node is there, and how far its log goes: so that a lost last batch is missed too."""

import logging
import time
from collections.abc import Callable
from importlib.metadata import version

import sqlalchemy as sa

from common.clock import from_us
from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, OutageError
from common.ops.agreement import agreement
from common.ops.passed import own_passed
from common.periodic import Periodic
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import BROKER, OpenSink
from common.schema import tables as rf
from common.transports.control import control_envelope, say
from common.wire.control import MOST_SEEN, Heartbeat, SeenLog
from common.wire.records import UNDERSTOOD_FEATURES
from producer.cursors import Cursors
from producer.log import NodeLogs

log = logging.getLogger(__name__)

_FIRST_SECONDS = 5.0
"""After the start: `run --once` ends before."""
_CONFIRM_SECONDS = 10.0


class Announcing(Periodic):
    """Sends heartbeats. A `Service` of `run`; belongs to one thread.

    Each goes over a connection of its own: it is one small message a minute, and must not wait behind a backlog."""

    name = "heartbeat"

    def __init__(
        self,
        node: Node,
        open_sink: OpenSink,
        logs: NodeLogs,
        cursors: Cursors,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(monotonic)
        self._node = node
        self._open_sink = open_sink
        self._logs = logs
        self._cursors = cursors
        self._signer = node.config.signer()
        self._every = node.config.limits.announce_seconds
        self.look_again_in(min(_FIRST_SECONDS, self._every))

    def look(self) -> bool:
        """Send a heartbeat. Never work that a drained node would wait for. Raises OutageError for the
        database alone."""
        self.look_again_in(self._every)
        heartbeat = self._heartbeat()
        try:
            self._send(heartbeat)
        except (OutageError, ConfigError) as error:
            # The relay tells of a broker that is away; that nobody listens is no outage of who has sent nothing.
            log.info("heartbeat.not_sent", extra={"error": str(error)})
        return False

    def _heartbeat(self) -> Heartbeat:
        node, facts = self._node, self._node.facts
        # In this order: whatever this says that it has was there at that moment, and nothing was sent that it lacks.
        at = from_us(node.clock.now_us())
        passed = in_transaction(node.database, own_passed)
        sent_lsn = self._cursors.load(BROKER, facts.incarnation)
        head = self._logs.of(facts.incarnation).head()
        agreed = agreement(node.config, node.captured_tables().values())
        return Heartbeat(
            source_node=facts.node_id,
            incarnation=facts.incarnation,
            head_lsn=head.lsn,
            head_tx_id=head.tx_id,
            sent_lsn=min(sent_lsn, head.lsn),
            every_seconds=self._every,
            at=at,
            release=version("rowferry"),
            features=tuple(sorted(UNDERSTOOD_FEATURES)),
            schema_sha256=agreed.schema_sha256,
            policies_sha256=agreed.policies_sha256,
            passed=tuple((origin, incarnation, lsn) for (origin, incarnation), lsn in passed.items()),
            seen=in_transaction(node.database, seen_logs),
        )

    def _send(self, heartbeat: Heartbeat) -> None:
        incarnation, lsn = heartbeat.incarnation, heartbeat.head_lsn
        envelope = control_envelope(heartbeat, incarnation, lsn, lsn, f"heartbeat-{incarnation}-{lsn}", self._signer)
        say(self._open_sink(self._wake.set), envelope, _CONFIRM_SECONDS)
        reach(CrashPoint.HEARTBEAT_SENT)


def seen_logs(connection: sa.Connection) -> dict[str, SeenLog]:
    """Return up to where this node has each source's log, of each its newest incarnation here; the last moved first."""
    state = rf.sync_state.c
    query = sa.select(rf.sync_state).where(state.direction == "in").order_by(state.updated_us.desc(), state.peer)
    found: dict[str, SeenLog] = {}
    for row in connection.execute(query):
        if row.peer not in found and len(found) < MOST_SEEN:
            found[row.peer] = SeenLog(incarnation=row.incarnation, lsn=row.last_lsn, tx_id=row.last_tx_id)
    return found
