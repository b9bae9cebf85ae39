"""What each kombu transport can and can't promise, as data. Nothing here connects."""

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from common.errors import ConfigError
from common.ports.sink import TransportFeatures


class Routing(StrEnum):
    """How a message finds the queues of all other nodes."""

    TOPIC = "topic"
    """A topic exchange whose bindings all processes see."""
    QUEUES = "queues"
    """kombu keeps the bindings inside one process, so the sender puts a copy into each node's queue itself."""


class Unacked(StrEnum):
    """Where a message is between its delivery and its acknowledgement."""

    KEPT = "kept"
    """Our own channel class keeps it where a later process finds it."""
    BROKER = "broker"
    """The broker keeps it and gives it out again when the connection ends."""
    MEMORY = "memory"
    """In this process's memory; `close` puts it back, a kill loses it or leaves it to a timeout."""


@dataclass(frozen=True, slots=True)
class Traits:
    """One transport."""

    features: TransportFeatures
    routing: Routing
    unacked: Unacked


_ONE_READER = "One process may read a node's queue at a time."
_A_GAP = "What is lost so is a gap, which `rowferry status` names with the commands that fill it."

_MEMORY = Traits(
    TransportFeatures(
        name="kombu memory",
        durable=False,
        ordered=True,
        confirms=False,
        redelivers=False,
        notices_unroutable=True,
        authenticated=False,
        max_message_bytes=None,
        notes=(
            "Reaches only nodes in the same process, and all messages die with it: for tests and trials.",
            "A message that is given back comes again after those already in the queue.",
        ),
    ),
    Routing.TOPIC,
    Unacked.MEMORY,
)

_FILESYSTEM = Traits(
    TransportFeatures(
        name="kombu filesystem",
        durable=True,
        ordered=True,
        confirms=True,
        redelivers=True,
        notices_unroutable=True,
        authenticated=False,
        max_message_bytes=None,
        notes=(
            "kombu's own channel writes messages in place without a sync, deletes them when they are read, and keeps "
            "them in memory until they are acknowledged. Rowferry replaces these two steps: messages are synced and "
            "renamed into place, and read ones wait in `held/` until they are acknowledged.",
            "Order is by the senders' clocks; for one sender it always holds.",
            "Whoever may write to the folder may write as any node.",
            _ONE_READER,
            "The queue of a node that no longer reads grows without bound. The directory transport is the better "
            "choice for a shared folder.",
        ),
    ),
    Routing.TOPIC,
    Unacked.KEPT,
)

_SQL = Traits(
    TransportFeatures(
        name="kombu SQLAlchemy",
        durable=True,
        ordered=True,
        confirms=True,
        redelivers=True,
        notices_unroutable=True,
        authenticated=False,
        max_message_bytes=None,
        notes=(
            "As durable as the database's commits. On SQLite writers wait for each other, at most five seconds.",
            "kombu hides a message when it is read and never deletes it. Rowferry shows hidden ones again when a "
            "reader starts, and deletes them when all are acknowledged.",
            "kombu keeps bindings inside one process, so a sender puts a copy into every node's queue in the "
            "database; receivers drop what they don't listen to.",
            "Whoever may write to the database may write as any node.",
            _ONE_READER,
            "The queue of a node that no longer reads grows without bound.",
        ),
    ),
    Routing.QUEUES,
    Unacked.KEPT,
)

_REDIS = Traits(
    TransportFeatures(
        name="kombu Redis",
        durable=False,
        ordered=True,
        confirms=True,
        redelivers=False,
        notices_unroutable=True,
        authenticated=False,
        max_message_bytes=None,
        notes=(
            "As durable as the server's `appendfsync` makes it: by default up to a second is lost with the server.",
            "What a killed reader held comes again after kombu's `visibility_timeout` (an hour), to all nodes; what it "
            "had just taken may be lost. " + _A_GAP,
            "Whoever may write to the server may write as any node.",
            _ONE_READER,
            "The queue of a node that no longer reads grows without bound.",
            "Not part of Rowferry's own test runs.",
        ),
    ),
    Routing.TOPIC,
    Unacked.MEMORY,
)

_AMQP = Traits(
    TransportFeatures(
        name="kombu AMQP",
        durable=True,
        ordered=True,
        confirms=True,
        redelivers=True,
        notices_unroutable=False,
        authenticated=False,
        max_message_bytes=None,
        notes=(
            "For AMQP brokers other than RabbitMQ. Use `amqp://` or `amqps://` for RabbitMQ: only that adapter has "
            "quorum queues, proven senders, unroutable messages and pipelined confirms.",
            "A message that nobody would get is lost. " + _A_GAP,
        ),
    ),
    Routing.TOPIC,
    Unacked.BROKER,
)

_UNKNOWN = Traits(
    TransportFeatures(
        name="kombu, any other",
        durable=False,
        ordered=False,
        confirms=False,
        redelivers=False,
        notices_unroutable=True,
        authenticated=False,
        max_message_bytes=None,
        notes=(
            "Nothing is known of it, so nothing is promised. " + _A_GAP,
            "The nodes to send to must be named, since kombu keeps the bindings of most transports in one process.",
            _ONE_READER,
        ),
    ),
    Routing.QUEUES,
    Unacked.MEMORY,
)

_BY_SCHEME = {
    "memory": _MEMORY,
    "filesystem": _FILESYSTEM,
    "sqla": _SQL,
    "sqlalchemy": _SQL,
    "redis": _REDIS,
    "rediss": _REDIS,
    "sentinel": _REDIS,
    "pyamqp": _AMQP,
    "librabbitmq": _AMQP,
}

KNOWN = (_MEMORY, _FILESYSTEM, _SQL, _REDIS, _AMQP, _UNKNOWN)
"""Each once, for the docs."""


def schemes_of(traits: Traits) -> tuple[str, ...]:
    """Return the URL schemes of a transport; none for all that are not listed."""
    return tuple(scheme for scheme, found in _BY_SCHEME.items() if found is traits)


def traits_for(url: str) -> Traits:
    """Return what is known of the transport that `url` names. Raises ConfigError for a URL without a scheme."""
    scheme = urlsplit(url).scheme.partition("+")[0].lower()
    if not scheme:
        raise ConfigError('broker.url: a URL like "redis://host:6379/0" or "filesystem:///srv/exchange" is needed')
    return _BY_SCHEME.get(scheme, _UNKNOWN)


def features_for(url: str) -> TransportFeatures:
    """Return what the transport that `url` names promises."""
    return traits_for(url).features
