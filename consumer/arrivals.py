"""From what a transport or a file gives to whole txs: own batches dropped, senders checked, broken bytes named."""

import io
from collections.abc import Iterator
from dataclasses import replace

import msgspec

from common.errors import PoisonError, Reason
from common.ids import NODE_ID
from common.ports.source import Delivery
from common.runtime.node import Node
from common.wire.compress import decompress, decompress_at_once, is_wrapped, open_decompressed
from common.wire.control import control_lines, said_in
from common.wire.decode import Broken, parts_in, read_parts, split_batches
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.proving import is_proven, part_fault
from common.wire.records import BatchHeader, Part
from consumer.control import Controls
from consumer.dead_letters.table_store import bytes_id
from consumer.inbox import Inbox
from consumer.incoming import Incoming
from consumer.own_seen import OwnSeen
from consumer.peers import PeerIds
from consumer.verify import IDENTITY_ERROR, sender_error

UNKNOWN_SENDER = "unknown"
_MOST_BROKEN = 10_000
"""Of one delivery. What comes above is set aside as one: nobody shall make a million dead letters of one message."""
RETRIES = "rowferry_retries"
"""A header that RabbitMQ's transport alone can set (`common.transports.rabbitmq.messages`)."""


class Arrivals:
    """Reads deliveries. Parts of large txs are stored on the way."""

    def __init__(self, node: Node, inbox: Inbox, limits: Limits = DEFAULT_LIMITS, own: OwnSeen | None = None) -> None:
        """`own`: what has looked at own batches already, where something has."""
        self._node = node
        self._own = own or OwnSeen(node)
        self._inbox = inbox
        self._limits = limits
        self._peers = PeerIds(node)
        self._controls = Controls(node, self._peers)
        self._trust = node.config.trust()

    def read(self, delivery: Delivery) -> Iterator[Incoming]:
        """Yield the whole txs of a delivery, and what is broken in it, in order; store what stands beside batches."""
        retries = _retries(delivery)
        try:
            broken, holds_something = 0, False
            for item in self._parts(delivery):
                holds_something = True
                broken += isinstance(item, Broken)
                if broken > _MOST_BROKEN:
                    raise PoisonError(Reason.LIMIT, f"more than {_MOST_BROKEN} stretches of it are no batches")
                if isinstance(item, Broken) and self._is_control(item, delivery):
                    continue
                found = self.take(item, delivery)
                if found is not None:
                    yield msgspec.structs.replace(found, retries=retries) if retries else found
            if delivery.fault is not None and not holds_something:
                raise PoisonError(Reason.CHECKSUM, f"it is torn: {delivery.fault}")
        except PoisonError as error:
            yield _unreadable(delivery, delivery.body, error)

    def _parts(self, delivery: Delivery) -> Iterator[Part | Broken]:
        at_once = decompress_at_once(delivery.body, delivery.content_encoding)
        if at_once is not None:
            return parts_in(at_once, self._limits)
        raw = io.BytesIO(delivery.body)
        body = open_decompressed(raw, delivery.content_encoding, len(delivery.body), _of_message(self._limits))
        return read_parts(body, self._limits)

    def _is_control(self, item: Broken, delivery: Delivery) -> bool:
        """Take what is no batch and needs to be none; False where it is broken."""
        lines = said_in(item.raw) if item.header is None else None
        for line in lines or ():
            self._controls.take(line, delivery)
        return lines is not None

    def take(self, item: Part | Broken, delivery: Delivery) -> Incoming | None:
        """Return a whole tx; None for this node's own, and while parts are missing."""
        header = item.header
        if header is None:
            return _unreadable(delivery, item.raw, _error_of(item))
        if header.source_node == self._node.facts.node_id:
            self._see_own(item, header, delivery)
            return None
        error = sender_error(delivery, header.source_node, self._node.config)
        if error is not None and self._speaks_for_itself(item, delivery):
            error = None
        if error is None and isinstance(item, Part):
            # Damaged bytes may spell a node's id in any way; they make nobody known.
            error = self._peers.clash(header.source_node)
        if error is not None:
            sender = sender_of(delivery) if delivery.verified else UNKNOWN_SENDER
            return Incoming(
                sender,
                header.tx_id,
                delivery.origin,
                None,
                item.raw,
                error=error,
                claims_source=header.source_node,
            )
        if isinstance(item, Broken):
            if self._trust.asks(header.source_node):
                # Its header is no more proven than the rest of it.
                return _unproven(header, item.raw, delivery.origin, item.error)
            return Incoming(header.source_node, header.tx_id, delivery.origin, header, item.raw, error=item.error)
        fault = part_fault(item, self._trust)
        if fault is not None:
            return _unproven(header, item.raw, delivery.origin, fault)
        self._peers.met(header.source_node)
        return self._whole(item, delivery.origin)

    def _see_own(self, item: Part | Broken, header: BatchHeader, delivery: Delivery) -> None:
        """See whether this node's log goes as far as its batch says. What may be made up says nothing."""
        if not isinstance(item, Part) or part_fault(item, self._trust) is not None:
            return
        may_speak = sender_error(delivery, header.source_node, self._node.config) is None
        if may_speak or self._speaks_for_itself(item, delivery):
            self._own.take(header, delivery.origin)

    def _speaks_for_itself(self, item: Part | Broken, delivery: Delivery) -> bool:
        """Tell whether a batch that another node hands on is signed by its source: then nobody has to be trusted."""
        handed_on = IDENTITY_ERROR not in delivery.headers
        return handed_on and isinstance(item, Part) and is_proven(item, self._trust)

    def _whole(self, part: Part, origin: str) -> Incoming | None:
        if part.header.parts > 1:
            return self._inbox.take(part, origin)
        return whole(part, origin)


def sender_of(delivery: Delivery) -> str:
    """Return who sent it as far as that can be a node's id: a sender may write anything into a header."""
    said = None if IDENTITY_ERROR in delivery.headers else delivery.source_node
    return said if said is not None and NODE_ID.match(said) else UNKNOWN_SENDER


def is_talk(delivery: Delivery) -> bool:
    """Tell whether a delivery is nothing but what nodes say beside batches (heartbeats, requests), as we send it."""
    return not is_wrapped(delivery.content_encoding) and control_lines(delivery.body) is not None


def pieces(delivery: Delivery) -> list[Delivery]:
    """Cut a delivery into its batches, so that each can be read alone. What can't be unwrapped, or holds nothing, stays
    whole."""
    try:
        body = decompress(delivery.body, delivery.content_encoding, _of_message(DEFAULT_LIMITS))
    except PoisonError:
        return [delivery]
    return [replace(delivery, body=piece, content_encoding=None) for piece in split_batches(body)] or [delivery]


def _of_message(limits: Limits) -> Limits:
    """Return the limits of what a message may unwrap to: a file is read piece by piece, a message is held whole."""
    return replace(limits, max_stream_bytes=limits.max_message_bytes)


def whole(part: Part, origin: str, replayed_by: str | None = None) -> Incoming:
    """Return the tx of a batch that is not in parts."""
    header: BatchHeader = part.header
    return Incoming(header.source_node, header.tx_id, origin, header, part.raw, part.payload, replayed_by=replayed_by)


def _unproven(header: BatchHeader, raw: bytes, origin: str, error: PoisonError) -> Incoming:
    """Return what says to be from a node and can't show it: under a name of its own, so that it neither stands in the
    way of the real tx nor moves a watermark."""
    return Incoming(header.source_node, bytes_id(raw), origin, None, raw, error=error, claims=header.tx_id)


def _retries(delivery: Delivery) -> int:
    said = delivery.headers.get(RETRIES)
    return said if isinstance(said, int) else 0


def _error_of(item: Part | Broken) -> PoisonError:
    if isinstance(item, Broken):
        return item.error
    raise TypeError("a verified part always has a header")


def _unreadable(delivery: Delivery, raw: bytes, error: PoisonError) -> Incoming:
    return Incoming(sender_of(delivery), bytes_id(raw), delivery.origin, None, raw, error=error)
