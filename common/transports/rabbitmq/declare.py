"""Makes the topology stand, or checks that it does where the account may not declare."""

import logging
from collections.abc import Callable
from typing import Any

import pika
import pika.exceptions

from common.errors import OutageError
from common.transports.rabbitmq.connection import is_missing, is_refused, place, short_connection
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import (
    CHANGES,
    EXCHANGES,
    QueueSpec,
    dead_queue,
    node_queue,
    queues,
    retry_queue,
)

_logger = logging.getLogger(__name__)


def declare_for_publisher(settings: RabbitSettings) -> None:
    """Make the exchange stand that a publisher needs, and nothing else.

    Raises OutageError when it is missing and may not be declared, ConfigError when it is of another kind."""
    with short_connection(settings, "topology") as connection:
        _Declarer(connection, settings).exchange(CHANGES)


def declare_for_consumer(settings: RabbitSettings, *, tell: bool = True) -> None:
    """Make a node's exchanges, queues and bindings stand.

    Raises ConfigError when a queue has other arguments. Where the account may not declare, only existence can be
    checked (a passive declare looks at no argument): with `tell` that is a warning in the log."""
    with short_connection(settings, "topology") as connection:
        declarer = _Declarer(connection, settings)
        for name in EXCHANGES:
            declarer.exchange(name)
        for spec in queues(settings):
            declarer.queue(spec)
        if tell:
            declarer.warn_of_refusals()


def queue_depths(settings: RabbitSettings) -> dict[str, int | None]:
    """Return how many messages are ready in the node's queues, by queue name; None for a queue that doesn't stand."""
    names = (node_queue(settings.node_id), dead_queue(settings.node_id), retry_queue(settings.node_id))
    with short_connection(settings, "status") as connection:
        return {name: _depth(connection, name) for name in names}


def _depth(connection: pika.BlockingConnection, name: str) -> int | None:
    try:
        answer = _on_own_channel(connection, lambda channel: channel.queue_declare(name, passive=True))
    except pika.exceptions.ChannelClosedByBroker as error:
        if not is_missing(error):
            raise
        return None
    return int(answer.method.message_count)


def _on_own_channel(connection: pika.BlockingConnection, step: Callable[[Any], Any]) -> Any:
    """Run one step on a throw-away channel: the broker closes the channel of a step that it refuses."""
    channel = connection.channel()
    answer = step(channel)
    channel.close()
    return answer


class _Declarer:
    def __init__(self, connection: pika.BlockingConnection, settings: RabbitSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._refused: list[str] = []

    def exchange(self, name: str) -> None:
        def declare(channel: Any, *, passive: bool) -> None:
            channel.exchange_declare(name, exchange_type="topic", durable=True, passive=passive)

        self._declare_or_check(name, declare)

    def queue(self, spec: QueueSpec) -> None:
        def declare(channel: Any, *, passive: bool) -> None:
            arguments = None if passive else dict(spec.arguments)
            channel.queue_declare(spec.name, durable=True, arguments=arguments, passive=passive)

        if self._declare_or_check(spec.name, declare):
            self._bind(spec)

    def warn_of_refusals(self) -> None:
        if self._refused:
            _logger.warning(
                "broker_topology_not_checked: the account may not declare these, so their arguments and bindings are "
                "taken as they are; compare them with `rowferry topology check`",
                extra={"names": sorted(set(self._refused)), "node": self._settings.node_id},
            )

    def _declare_or_check(self, name: str, declare: Callable[..., None]) -> bool:
        """Whether `name` could be declared; if not, it stands."""
        try:
            _on_own_channel(self._connection, lambda channel: declare(channel, passive=False))
        except pika.exceptions.ChannelClosedByBroker as error:
            if not is_refused(error):
                raise
            self._refused.append(name)
            self._check(name, declare)
            return False
        return True

    def _check(self, name: str, declare: Callable[..., None]) -> None:
        try:
            _on_own_channel(self._connection, lambda channel: declare(channel, passive=True))
        except pika.exceptions.ChannelClosedByBroker as error:
            if not is_missing(error):
                raise
            raise OutageError(
                f"{place(self._settings)}: {name!r} doesn't exist and this account may not declare it: "
                "import `rowferry topology export` on the broker"
            ) from error

    def _bind(self, spec: QueueSpec) -> None:
        def bind(channel: Any) -> None:
            for binding in spec.bindings:
                channel.queue_bind(spec.name, binding.exchange, binding.routing_key)
            for binding in spec.stale:
                channel.queue_unbind(spec.name, binding.exchange, binding.routing_key)

        try:
            _on_own_channel(self._connection, bind)
        except pika.exceptions.ChannelClosedByBroker as error:
            if not is_refused(error):
                raise
            self._refused.append(spec.name)
