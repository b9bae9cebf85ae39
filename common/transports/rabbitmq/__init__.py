"""RabbitMQ through pika: the sink, the source, dead letters, delayed retries and the topology."""

import threading
from collections.abc import Callable

from common.transports.rabbitmq.configured import settings_from
from common.transports.rabbitmq.dead_letters import RabbitDeadLetters
from common.transports.rabbitmq.declare import queue_depths
from common.transports.rabbitmq.publisher import RabbitSink
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.subscriber import RabbitSource

__all__ = [
    "RabbitDeadLetters",
    "RabbitSettings",
    "RabbitSink",
    "RabbitSource",
    "open_sink",
    "open_source",
    "queue_depths",
    "settings_from",
]


def open_sink(
    settings: RabbitSettings,
    on_confirmed: Callable[[], None] | None = None,
    to_node: str | None = None,
    stop: threading.Event | None = None,
) -> RabbitSink:
    """Return a connected sink; `to_node` sends to one node alone. Raises OutageError and ConfigError."""
    return RabbitSink(settings, on_confirmed, to_node, stop)


def open_source(settings: RabbitSettings) -> RabbitSource:
    """Return a consuming source. Raises OutageError and ConfigError."""
    return RabbitSource(settings)
