"""Compares what stands on the broker with what should, through AMQP, changing nothing.

A passive declaration tells whether a thing exists; a plain one of a thing that exists compares its arguments, and
changes nothing either (it renews a queue's expiry, as any use does). Only what exists is declared plainly.
"""

from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions

from common.transports.rabbitmq.connection import (
    difference,
    is_different,
    is_missing,
    is_refused,
    short_connection,
)
from common.transports.rabbitmq.findings import NOT_THERE, Finding, State
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import EXCHANGES, QueueSpec, binding_name, queues

_MANAGEMENT = "compare it with `rowferry topology check --management URL`"
_Declare = Callable[[Any, bool], object]


def look(settings: RabbitSettings, user: str | None) -> list[Finding]:
    """Return how each thing of one node stands. `user`: whose rights matter. Raises OutageError, ConfigError."""
    specs = queues(settings)
    with short_connection(settings, "check") as connection:
        found = [_exchange(connection, name) for name in EXCHANGES]
        found += [_queue(connection, spec) for spec in specs]
    names = [("binding", binding_name(spec.name, binding)) for spec in specs for binding in spec.bindings]
    names += [("permissions", user)] if user else []
    return found + [Finding(kind, name, State.UNCHECKED, "AMQP doesn't show it", _MANAGEMENT) for kind, name in names]


def _exchange(connection: pika.BlockingConnection, name: str) -> Finding:
    def declare(channel: Any, passive: bool) -> object:
        return channel.exchange_declare(name, exchange_type="topic", durable=True, passive=passive)

    return _compared(connection, "exchange", name, declare)


def _queue(connection: pika.BlockingConnection, spec: QueueSpec) -> Finding:
    def declare(channel: Any, passive: bool) -> object:
        return channel.queue_declare(spec.name, durable=True, arguments=dict(spec.arguments), passive=passive)

    return _compared(connection, "queue", spec.name, declare)


def _compared(connection: pika.BlockingConnection, kind: str, name: str, declare: _Declare) -> Finding:
    try:
        for passive in (True, False):
            _on_own_channel(connection, declare, passive)
    except pika.exceptions.ChannelClosedByBroker as error:
        return _refusal(error, kind, name)
    return Finding(kind, name, State.OK)


def _refusal(error: pika.exceptions.ChannelClosedByBroker, kind: str, name: str) -> Finding:
    if is_missing(error):
        return Finding(kind, name, State.MISSING, "it doesn't exist", NOT_THERE)
    if is_refused(error):
        detail = "it exists; this account may not declare it, so its arguments can't be compared"
        return Finding(kind, name, State.UNCHECKED, detail, f"{_MANAGEMENT}, or with an administrator's [broker] url")
    different = difference(str(error.reply_text)) if is_different(error) else None
    if different is None:
        raise error
    return Finding(kind, name, State.DIFFERS, f"{different.argument}: {different.values}", different.remedy)


def _on_own_channel(connection: pika.BlockingConnection, declare: _Declare, passive: bool) -> None:
    """The broker closes the channel of a step that it refuses."""
    channel = connection.channel()
    declare(channel, passive)
    channel.close()
