"""Envelopes to AMQP properties, and AMQP messages to deliveries. Pure: no connection."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import pika

from common.ports.sink import Envelope, TransportFeatures
from common.ports.source import Delivery
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import control_key, node_queue

CONTENT_TYPE = "application/x-ndjson"
PERSISTENT = 2

OWN_PREFIX = "rowferry_"
"""Headers that Rowferry itself adds. Taken off what comes from others, so that nobody can send them."""
IDENTITY_ERROR = "rowferry_identity_error"
"""Set on a delivery whose sender is not proven although that is demanded: what is wrong. It must be dead-lettered."""
ROUTING_KEY = "rowferry_routing_key"
MESSAGE_ID = "rowferry_message_id"
RETRIES = "rowferry_retries"
"""How often this node has put the message into its retry queue."""
RETRY_OF_VERIFIED = "rowferry_retry_of_verified"
RETRY_ORIGIN = "rowferry_retry_origin"

_WIRE_HEADERS = ("source_node", "from_lsn", "to_lsn", "incarnation", "txs", "traceparent", "tracestate")
_MOST_CHARACTERS = 2_000


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message on its way to an exchange."""

    exchange: str
    routing_key: str
    body: bytes
    properties: Any


def features(settings: RabbitSettings) -> TransportFeatures:
    """Return what this transport promises with these settings."""
    return TransportFeatures(
        name="rabbitmq",
        durable=True,
        ordered=True,
        confirms=True,
        redelivers=True,
        notices_unroutable=True,
        authenticated=settings.verify_user,
        max_message_bytes=settings.max_message_bytes,
        notes=(
            "a node's queue that is full drops its oldest messages: a gap",
            "a publisher's own queue takes its messages too, so unroutable says that no node at all listens",
            "a message given back comes again before later ones of the queue, but after those already prefetched",
        ),
    )


def envelope_properties(envelope: Envelope, *, user_id: str, encoding: str | None) -> Any:
    """Return the properties that every message has."""
    return pika.BasicProperties(
        content_type=CONTENT_TYPE,
        content_encoding=encoding,
        delivery_mode=PERSISTENT,
        message_id=envelope.tx_id,
        user_id=user_id,
        headers={
            "source_node": envelope.source_node,
            "from_lsn": envelope.from_lsn,
            "to_lsn": envelope.to_lsn,
            "incarnation": envelope.incarnation,
            "txs": envelope.txs,
            **(envelope.trace.headers() if envelope.trace else {}),
        },
    )


def retry_properties(origin: Delivery, *, user_id: str, encoding: str | None, delay_seconds: float) -> Any:
    """Return the properties of a message that goes into this node's retry queue.

    The user is now this node's own, so what was known about the sender goes along in headers that only this node's
    user can have sent."""
    # Nothing else: a stranger's headers may fill a frame already, and ours would break it.
    known = {name: origin.headers.get(name) for name in _WIRE_HEADERS}
    kept = {name: clipped(value) for name, value in known.items() if isinstance(value, str | int)}
    kept[RETRIES] = _count(origin.headers.get(RETRIES)) + 1
    kept[RETRY_OF_VERIFIED] = origin.verified
    kept[RETRY_ORIGIN] = origin.origin
    return pika.BasicProperties(
        content_type=CONTENT_TYPE,
        content_encoding=encoding,
        delivery_mode=PERSISTENT,
        message_id=text_or_none(origin.headers.get(MESSAGE_ID)),
        user_id=user_id,
        expiration=str(max(0, round(delay_seconds * 1000))),
        headers=kept,
    )


def source_of(properties: Any) -> str | None:
    """Return the node that the message's header names."""
    return text_or_none((properties.headers or {}).get("source_node"))


def delivery(
    method: Any, properties: Any, body: bytes, *, token: object, settings: RabbitSettings, user: str
) -> Delivery:
    """Return one message as the port knows it. `user`: this node's own user on the broker."""
    sent = plain_headers(properties)
    retried = _is_own_retry(method, properties, sent, user)
    headers = sent if retried else {key: value for key, value in sent.items() if not key.startswith(OWN_PREFIX)}
    problem = None
    if settings.verify_user:
        problem = _retry_problem(sent) if retried else identity_problem(_text(method.routing_key), properties, settings)
    if problem:
        headers[IDENTITY_ERROR] = problem
    headers[ROUTING_KEY] = _text(method.routing_key)
    headers[MESSAGE_ID] = _text(properties.message_id)
    return Delivery(
        body=body,
        origin=node_queue(settings.node_id),
        token=token,
        content_encoding=_text(properties.content_encoding).lower() or None,
        source_node=source_of(properties),
        verified=settings.verify_user and problem is None,
        redelivered=bool(method.redelivered),
        attempts=_attempts(sent, redelivered=bool(method.redelivered), retried=retried),
        headers=headers,
    )


def identity_problem(routing_key: str, properties: Any, settings: RabbitSettings) -> str | None:
    """Return what speaks against the sender being who the header says; None when it is proven.

    The broker lets a user send no `user_id` but its own, and none at all. The routing key is what topic permissions
    guard; a message for this node alone has this node in its key, and rests on `user_id`."""
    source = source_of(properties)
    if source is None:
        return "the message has no source_node header"
    if properties.user_id is None:
        return f"the message says it is from {source!r} and carries no user_id to prove it"
    if properties.user_id != source:
        return f"the message says it is from {source!r}, its user_id is {properties.user_id!r}"
    if routing_key == control_key(settings.channel, settings.node_id):
        return None
    last_word = routing_key.rpartition(".")[2]
    if last_word != source:
        return f"the message says it is from {source!r}, its routing key is {routing_key!r}"
    return None


def plain_headers(properties: Any) -> dict[str, object]:
    """Return a message's headers, whole numbers as plain `int`: pika's own kind of int prints and encodes otherwise.

    A name that is not UTF-8 is left out: pika gives it as bytes, and nobody here asks for it."""
    headers: dict[object, object] = dict(properties.headers or {})
    return {key: int(value) if _is_whole(value) else value for key, value in headers.items() if isinstance(key, str)}


def clipped(value: object) -> object:
    """Return a header's value, text cut to 2,000 characters: all headers of a message must fit one frame (128 KiB)."""
    return value[:_MOST_CHARACTERS] if isinstance(value, str) else value


def text_or_none(value: object) -> str | None:
    """Return `value` where it is text; a sender may put anything into a header."""
    return value if isinstance(value, str) else None


def _text(value: object) -> str:
    """pika gives what is not UTF-8 as bytes; nothing is, for what was not sent."""
    return value if isinstance(value, str) else repr(value) if value else ""


def _is_own_retry(method: Any, properties: Any, headers: Mapping[str, object], user: str) -> bool:
    """Whether this node's user sent it and the broker moved it here: forged headers would carry the forger's user."""
    return RETRIES in headers and method.exchange == "" and properties.user_id == user


def _retry_problem(headers: Mapping[str, object]) -> str | None:
    return None if headers.get(RETRY_OF_VERIFIED) is True else "the sender was not proven before this retry"


def _attempts(headers: Mapping[str, object], *, redelivered: bool, retried: bool) -> int:
    """RabbitMQ up to 4.2 counts every return in one header; from 4.3 on not-now is counted in the other alone.

    On a first delivery both can only be what the sender wrote there."""
    counted = max(1, _count(headers.get("x-delivery-count")), _count(headers.get("x-acquired-count")))
    return (counted if redelivered else 0) + (_count(headers.get(RETRIES)) if retried else 0)


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
