"""What stands on the broker: names, arguments, bindings and least rights, as data. Nothing here talks to a broker."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from common.transports.rabbitmq.settings import RabbitSettings

CHANGES = "rowferry.changes"
DEAD = "rowferry.dead"
RETRY = "rowferry.retry"

EXCHANGES = (CHANGES, DEAD, RETRY)
"""All durable topic exchanges: topic permissions, which tie a user to its own routing key, exist for no other type."""

DELIVERY_LIMIT = 100_000
"""A last resort against a message that kills every consumer. Never -1: RabbitMQ 3.10 takes that and then destroys a
message at its first return; RabbitMQ 4 without the argument drops it after 20."""

RETRY_TTL_MS = 3_600_000
"""Nothing waits for a retry longer than this, whatever its own delay is."""
RETRY_MAX_BYTES = 256 * 1024 * 1024

_DEFAULT_EXCHANGE = ""


@dataclass(frozen=True, slots=True)
class Binding:
    """A way from an exchange into a queue."""

    exchange: str
    routing_key: str


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue as it must stand."""

    name: str
    arguments: Mapping[str, str | int | bool]
    bindings: tuple[Binding, ...]
    stale: tuple[Binding, ...] = ()
    """Bindings of another configuration, to be taken off."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """The least rights of one node's user, as `rabbitmqctl set_permissions` and `set_topic_permissions` take them."""

    configure: str
    write: str
    read: str
    topics: tuple[tuple[str, str, str], ...]
    """Exchange, write pattern, read pattern."""


def node_queue(node_id: str) -> str:
    """Return the queue that a node consumes."""
    return f"rowferry.node.{node_id}"


def dead_queue(node_id: str) -> str:
    """Return the queue with the broker's copies of a node's dead letters."""
    return f"{DEAD}.{node_id}"


def retry_queue(node_id: str) -> str:
    """Return the queue in which a node's delayed retries wait."""
    return f"{RETRY}.{node_id}"


def changes_key(channel: str, source_node: str) -> str:
    """Return the routing key of a node's batches for everybody."""
    return f"{channel}.{source_node}"


def control_key(channel: str, node_id: str) -> str:
    """Return the routing key of what is meant for one node alone."""
    return f"{channel}.ctl.{node_id}"


def binding_name(queue: str, binding: Binding) -> str:
    """Return a binding in words."""
    return f"{binding.exchange} to {queue} by {binding.routing_key}"


def queues(settings: RabbitSettings) -> tuple[QueueSpec, ...]:
    """Return the queues of one node."""
    return (_node(settings), _dead(settings.node_id), _retry(settings))


def permissions(node_id: str, channel: str) -> Permissions:
    """Return what a node's user may do once its queues stand: no declaring, in its own channel alone, and there only
    its own name as last word."""
    own, here = re.escape(node_id), re.escape(channel)
    dead_write = f"^{own}$"
    return Permissions(
        configure="^$",
        write=r"^rowferry\.(changes|dead|retry)$",
        read=rf"^rowferry\.(node|dead|retry)\.{own}$",
        topics=(
            (CHANGES, rf"^{here}\.({own}|ctl\.[A-Za-z0-9_-]+)$", "^.*$"),
            (DEAD, dead_write, "^$"),
            (RETRY, dead_write, "^$"),
        ),
    )


def _node(settings: RabbitSettings) -> QueueSpec:
    everybody = Binding(CHANGES, changes_key(settings.channel, "*"))
    peers = tuple(Binding(CHANGES, changes_key(settings.channel, peer)) for peer in settings.listen)
    control = Binding(CHANGES, control_key(settings.channel, settings.node_id))
    return QueueSpec(
        name=node_queue(settings.node_id),
        arguments={
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-expires": settings.queue_expires_ms,
            "x-max-length-bytes": settings.queue_max_bytes,
            # A full queue of one slow node must neither block nor refuse who publishes to all: the oldest message
            # goes, which is a gap that the node sees and asks for.
            "x-overflow": "drop-head",
            "x-delivery-limit": DELIVERY_LIMIT,
        },
        bindings=(*(peers or (everybody,)), control),
        stale=(everybody,) if peers else (),
    )


def _dead(node_id: str) -> QueueSpec:
    # No single active consumer: it refuses basic.get, which `remove` and `read_all` need. No bound, no expiry: a dead
    # letter stays until a person decides.
    return QueueSpec(
        name=dead_queue(node_id),
        arguments={"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT},
        bindings=(Binding(DEAD, node_id),),
    )


def _retry(settings: RabbitSettings) -> QueueSpec:
    # An expired message goes straight to the node's queue through the default exchange: over `rowferry.changes` it
    # would need a key that other nodes listen to as well. at-least-once keeps it here until the node's queue has it,
    # and RabbitMQ grants that only together with reject-publish. What is refused, or goes with the queue, is in the
    # node's table, whose clock tries it too.
    return QueueSpec(
        name=retry_queue(settings.node_id),
        arguments={
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": _DEFAULT_EXCHANGE,
            "x-dead-letter-routing-key": node_queue(settings.node_id),
            "x-dead-letter-strategy": "at-least-once",
            "x-message-ttl": RETRY_TTL_MS,
            "x-expires": settings.queue_expires_ms,
            "x-max-length-bytes": RETRY_MAX_BYTES,
            "x-overflow": "reject-publish",
            "x-delivery-limit": DELIVERY_LIMIT,
        },
        bindings=(Binding(RETRY, settings.node_id),),
    )
