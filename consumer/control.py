"""Takes in what other nodes say beside batches. It is stored before its message is let go of."""

import logging
from collections.abc import Mapping
from typing import Literal

import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.ops.rewinding import Seen
from common.ports.source import Delivery
from common.runtime.node import Node
from common.seldom import Seldom
from common.wire.control import MOST_SEEN, Control, Gone, Heartbeat, Request, Said, Unknown
from common.wire.signing import Purpose
from consumer.heartbeats import TooManyNodesError, note_heartbeat
from consumer.own_seen import note_seen
from consumer.peers import PeerIds
from consumer.requests import note_request, take_gone
from consumer.statements import writing
from consumer.verify import IDENTITY_ERROR

log = logging.getLogger(__name__)


class Controls:
    """Belongs to whoever reads deliveries."""

    def __init__(self, node: Node, peers: PeerIds, seldom: Seldom | None = None) -> None:
        """`seldom`: what tells of what is refused, where several of these are to share one."""
        self._node = node
        self._seldom = seldom or Seldom(log)
        self._peers = peers
        self._trust = node.config.trust()

    def take(self, said: Said, delivery: Delivery) -> str | None:
        """Store what is for this node. What can't be believed, or understood, is told in the log and left; returns why
        it can't be believed, None where it can."""
        control = said.what
        if isinstance(control, Unknown):
            self._leave(control, delivery)
            return None
        if control.sender == self._node.facts.node_id:
            return None
        problem = self._problem(control, delivery, said) or self._unproven(control, said)
        if problem is not None:
            what = control.sender, problem
            self._seldom.warn(
                "control_refused", *what, source_node=control.sender, origin=delivery.origin, error=problem
            )
            return problem
        if self._is_stored(control, said.line):
            # Not of those for whom there is no room: who makes up names shall fill no memory either.
            self._peers.met(control.sender)
        reach(CrashPoint.SAYING_STORED)
        return None

    def _is_stored(self, control: Request | Gone | Heartbeat, line: bytes) -> bool:
        match control:
            case Request():
                named, now_us = self._node.config.named_nodes, self._node.clock.now_us()
                if not writing(
                    self._node.database, lambda connection: note_request(connection, control, now_us, named)
                ):
                    return self._tell_full("request_refused", control.sender)
            case Gone():
                take_gone(self._node, control)
            case Heartbeat():
                return self._hear(control, line)
        return True

    def _tell_full(self, event: str, sender: str) -> Literal[False]:
        """Say loudly that there is no room: somebody makes up names, or one node asks for ever more.

        Returns False: it was not stored."""
        remedy = "see who writes to the broker in whose name: broker.verify_user = true, or signatures"
        self._seldom.tell(logging.ERROR, event, source_node=sender, error="there are too many", remedy=remedy)
        return False

    def _hear(self, heartbeat: Heartbeat, line: bytes) -> bool:
        now_us, config = self._node.clock.now_us(), self._node.config
        is_main, is_named = heartbeat.source_node == config.node.main, heartbeat.source_node in config.named_nodes

        def note_it(connection: sa.Connection) -> Mapping[str, object] | None:
            return note_heartbeat(connection, heartbeat, now_us, is_main=is_main, is_named=is_named, raw=line)

        try:
            news = writing(self._node.database, note_it)
        except TooManyNodesError:
            return self._tell_full("heartbeat_refused", heartbeat.source_node)
        self._hear_of_myself(heartbeat)
        if news is not None:
            fields = {"source_node": heartbeat.source_node, "remedy": "rowferry rejoin"}
            log.error("node_rewound", extra=fields | dict(news))
        return True

    def _hear_of_myself(self, heartbeat: Heartbeat) -> None:
        """See whether the sender has more of this node's logs than this node itself."""
        for seen in _logs_of(self._node.facts.node_id, heartbeat):
            note_seen(self._node, seen)

    def _problem(self, control: Control, delivery: Delivery, said: Said) -> str | None:
        """Return what speaks against it being from whom it says; None where nothing does."""
        refused = delivery.headers.get(IDENTITY_ERROR)
        if refused is not None:
            return str(refused)
        sender = control.sender
        is_other = delivery.source_node is not None and delivery.source_node != sender
        if is_other and not self._may_hand_on(control, delivery, said):
            return f"{delivery.source_node!r} sent what is said to be from {sender!r}"
        if not isinstance(control, Heartbeat) and control.to_node != self._node.facts.node_id:
            return f"it is meant for {control.to_node!r}"
        clash = self._peers.clash(sender)
        return None if clash is None else str(clash)

    def _may_hand_on(self, control: Control, delivery: Delivery, said: Said) -> bool:
        """Tell whether the sender may say what another one has said: a hub does, over HTTP, or it is signed."""
        if not isinstance(control, Heartbeat) or not delivery.verified or delivery.may_forward is None:
            return False
        return delivery.may_forward or self._trust.proves(control.sender, Purpose.SAYING, said.sha256, said.proof)

    def _unproven(self, control: Control, said: Said) -> str | None:
        """Return why it can't be believed by its signature; None where it can, or nobody has to sign."""
        fault = self._trust.fault(control.sender, Purpose.SAYING, said.sha256, said.proof)
        return None if fault is None else str(fault)

    def _leave(self, control: Unknown, delivery: Delivery) -> None:
        what = control.type, control.format
        fields = {"type": control.type, "format": control.format, "source_node": delivery.source_node}
        self._seldom.tell(logging.INFO, "control_unknown", *what, **fields)


def _logs_of(node_id: str, heartbeat: Heartbeat) -> list[Seen]:
    """Return up to where the sender has this node's logs: the newest by what it has seen, others by what it has passed.

    Who may not say how far it has them says nothing of what it has seen; then neither counts."""
    newest = heartbeat.seen.get(node_id)
    if newest is None:
        return []
    by = heartbeat.source_node
    others = [
        Seen(by, incarnation, lsn, None)
        for origin, incarnation, lsn in heartbeat.passed or ()
        if origin == node_id and incarnation != newest.incarnation
    ]
    return [Seen(by, newest.incarnation, newest.lsn, newest.tx_id), *others[:MOST_SEEN]]
