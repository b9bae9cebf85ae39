"""`push --url`: everything that a peer lacks of this node's log, and of what is handed on, in one go."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import sqlalchemy as sa

from common.errors import OutageError
from common.ops.incarnation import settle_incarnation
from common.ops.sealing import seal_all
from common.ports.sink import Sink
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import peer_road
from common.schema import tables as rf
from common.transports.http.answers import PeerState, Pushed, PushedTx, Waiting
from common.transports.http.client import PeerClient, RefusedError
from common.transports.http.peer import asked_state, known_lsn, open_peer_sink
from common.transports.http.settings import PeerSettings
from common.wire.control import encode_control
from producer.clients import Clients, Given
from producer.cursors import Cursors
from producer.first_contact import looking
from producer.forwarding import hand_on_to
from producer.heartbeat import NOBODY_KNOWS_SECONDS, own_heartbeat
from producer.log import NodeLogs
from producer.packing import Packing, bulky
from producer.purge import log_begins
from producer.relay import Relay
from producer.road import works_for_a_command

log = logging.getLogger(__name__)


@dataclass(slots=True)
class PushReport:
    """What was pushed, and what it came to there."""

    url: str
    peer: str
    incarnation: str
    after_lsn: int
    to_lsn: int
    pull_due: bool
    gone_until_lsn: int | None = None
    """Up to here the peer lacks it, and the log has it no more."""
    outcomes: Counter[str] = field(default_factory=Counter)
    set_aside: list[PushedTx] = field(default_factory=list)
    met: dict[tuple[str, str], int] = field(default_factory=dict)
    """By source and tx, how many conflicts wait for a choice there."""
    _ended: str = ""
    """The tx that was counted last."""

    def count(self, pushed: Pushed) -> None:
        """Take in one answer."""
        for one in pushed.results:
            if one.waiting:
                self.met[one.source_node, one.tx_id] = one.waiting
            # Of a large tx each part is answered: `incomplete` until it ends, or `duplicate` where all of it is there.
            if one.outcome != "incomplete" and one.tx_id != self._ended:
                self.outcomes[one.outcome] += 1
                self._ended = one.tx_id
            if one.outcome == "dead-lettered":
                self.set_aside.append(one)

    def settle(self, told: Waiting) -> None:
        """Forget of what was met all that does not wait any more: the choice may have come in a later body."""
        still = {(one.source_node, one.tx_id): one.waiting for one in told.txs}
        if not told.has_more:
            self.met = {key: min(count, still[key]) for key, count in self.met.items() if key in still}

    def document(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        changes = max(0, self.to_lsn - self.after_lsn)
        return {
            "file": None,
            "url": self.url,
            "client": self.peer,
            "txs": sum(self.outcomes.values()),
            "changes": changes,
            "from_lsn": self.after_lsn + 1 if changes else None,
            "to_lsn": self.to_lsn if changes else None,
            "incarnation": self.incarnation,
            "pull_due": self.pull_due,
            "gone_until_lsn": self.gone_until_lsn,
            "outcomes": dict(self.outcomes),
            "set_aside": [one.model_dump() for one in self.set_aside],
        }


def push_to(node: Node, settings: PeerSettings, on_due: Callable[[], None]) -> PushReport:
    """Seal, push and note all that the peer lacks. `on_due`: called first where a pull is due.

    Raises OutageError, RefusedError, ConfigError. What was committed there is noted here also then."""
    node = replace(node, facts=settle_incarnation(node.database, node.facts, node.clock))
    seal_all(node.database, node.facts)
    logs, cursors = NodeLogs(node.database, node.facts), Cursors(node.database, node.clock)
    state = asked_state(settings, node.facts.node_id)
    due = _pull_is_due(node, state)
    if due:
        on_due()
    incarnation, head = node.facts.incarnation, logs.of(node.facts.incarnation).head()
    after = min(cursors.load(peer_road(state.node), incarnation), known_lsn(state, incarnation))
    begins_lsn = log_begins(node, incarnation)
    gone = begins_lsn if begins_lsn > after else None
    report = PushReport(settings.url, state.node, incarnation, after, head.lsn, due, gone)

    def open_sink(_on_confirmed: Callable[[], None]) -> Sink:
        return open_peer_sink(settings, node.facts, report.count)

    stop = threading.Event()
    open_checked = looking(node, state.node, open_sink)
    packing = bulky(Packing.of(node.config))
    relay = Relay(peer_road(state.node), open_checked, logs, cursors, packing, stop)
    try:
        while relay.step(0):
            pass
    finally:
        relay.close()
    if node.config.forwards:
        hand_on_to(node, state.node, open_sink, stop)
    Clients(node.database, node.clock).give(state.node, [Given(incarnation, head.lsn, head.tx_id)])
    works_for_a_command(node.database, node.clock, peer_road(state.node))
    _tell_of_oneself(node, settings, cursors, state.node)
    if report.met:
        _look_again(settings, report)
    return report


def _look_again(settings: PeerSettings, report: PushReport) -> None:
    """See what of the conflicts still waits, now that all is there."""
    client = PeerClient(settings)
    try:
        report.settle(client.waiting())
    except (OutageError, RefusedError) as error:
        # A release of before does not tell: what waited when it came counts then.
        log.info("push.waiting_not_told", extra={"peer": report.peer, "error": str(error)})
    finally:
        client.close()


def _tell_of_oneself(node: Node, settings: PeerSettings, cursors: Cursors, peer: str) -> None:
    """Say what a heartbeat says: who calls this from a schedule says it at no other time."""
    heartbeat = own_heartbeat(node, partial(cursors.load, peer_road(peer)), NOBODY_KNOWS_SECONDS)
    client = PeerClient(settings)
    try:
        client.say(encode_control(heartbeat, node.config.signer()))
    except (OutageError, RefusedError) as error:
        # What was pushed is there; a release of before takes no heartbeats.
        log.info("heartbeat.not_sent", extra={"to": peer, "error": str(error)})
    finally:
        client.close()


def _pull_is_due(node: Node, state: PeerState) -> bool:
    """Tell whether the peer has changes of its own that have not come here."""
    mark = rf.sync_state.c
    query = sa.select(mark.last_lsn).where(
        mark.peer == state.node, mark.direction == "in", mark.incarnation == state.incarnation
    )
    known = in_transaction(node.database, lambda connection: connection.execute(query).scalar()) or 0
    return state.head_lsn > known


def tell_set_aside(report: PushReport) -> Sequence[str]:
    """Return a sentence for each tx that was set aside there."""
    return [f"{one.tx_id} is {one.state} at {report.peer} ({one.reason}): {one.error}" for one in report.set_aside]
