"""How a message finds the queues of the other nodes."""

from typing import Any

from common.errors import ConfigError, OutageError
from common.transports.kombu_broker.connecting import (
    EXCHANGE,
    QUEUE_PREFIX,
    KombuSettings,
    node_queue,
    open_connection,
    outages,
    release,
    shown,
)
from common.transports.kombu_broker.traits import Routing, Traits, traits_for
from common.transports.kombu_broker.untyped import Exchange, Queue, binding


class Routes:
    """Tells a sink where to publish, and makes a source's queue and bindings.

    `targets` gives (exchange, routing key) pairs. Names and keys are those of RabbitMQ's topology.
    """

    def __init__(self, settings: KombuSettings, channel: Any) -> None:
        self._settings = settings
        self._channel = channel
        self._traits: Traits = traits_for(settings.url)
        self._exchange = Exchange(EXCHANGE, type="topic", durable=True, channel=channel)
        if self._traits.routing is Routing.TOPIC:
            self._exchange.declare()

    def targets(self, to_node: str | None) -> list[tuple[str, str]]:
        """Return where to publish, for everybody or for one node alone. OutageError when nobody would get it."""
        if self._traits.routing is Routing.QUEUES:
            return [("", queue) for queue in self._queues(to_node) if queue != node_queue(self._settings.node_id)]
        channel = self._settings.channel
        key = f"{channel}.ctl.{to_node}" if to_node else f"{channel}.{self._settings.node_id}"
        if self._traits.features.notices_unroutable:
            self._check_routed(key)
        return [(EXCHANGE, key)]

    def declare_queue(self) -> Any:
        """Make this node's queue and return it."""
        settings = self._settings
        name = node_queue(settings.node_id)
        if self._traits.routing is Routing.QUEUES:
            queue = Queue(name, durable=True, channel=self._channel)
            queue.queue_declare()
            return queue
        keys = [f"{settings.channel}.{peer}" for peer in settings.listen or ("*",)]
        keys.append(f"{settings.channel}.ctl.{settings.node_id}")
        bindings = [binding(self._exchange, routing_key=key) for key in keys]
        queue = Queue(name, exchange=self._exchange, bindings=bindings, durable=True, channel=self._channel)
        queue.declare()
        return queue

    def _queues(self, to_node: str | None) -> list[str]:
        if to_node:
            return [node_queue(to_node)]
        if self._settings.peers:
            return [node_queue(peer) for peer in self._settings.peers]
        if not hasattr(self._channel, "queue_names"):
            raise ConfigError(
                f"broker.url: over {shown(self._settings.url)} the nodes can't find each other: name them as peers, "
                "or use RabbitMQ"
            )
        found: list[str] = self._channel.queue_names(QUEUE_PREFIX)
        if not found:
            raise OutageError(_nobody(self._settings.url))
        return found

    def _check_routed(self, key: str) -> None:
        table = self._channel.get_table(EXCHANGE)
        if not self._channel.typeof(EXCHANGE).lookup(table, EXCHANGE, key, None):
            raise OutageError(_nobody(self._settings.url))


def declare_queue(settings: KombuSettings) -> None:
    """Make the node's queue stand without reading it; a reader may go on meanwhile. Raises OutageError, ConfigError."""
    connection = open_connection(settings)
    try:
        with outages(settings.url, "making the queue on", connection):
            Routes(settings, connection.channel()).declare_queue()
    finally:
        release(settings, connection)


def _nobody(url: str) -> str:
    return f"no node has made its queue on {shown(url)} yet: start the receiving nodes"
