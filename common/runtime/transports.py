"""From the configuration to transports: which sinks and sources a node has, and how each is opened.

With a broker configured it carries the node's batches, and a directory beside it is only read. Without one the
directory does both. The transports' modules are imported where they are opened: pika and kombu take a large part of a
second, which `status` and the other short commands need not pay.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from common.config.model import BrokerSection, DirectorySection, PeerSection
from common.errors import ConfigError
from common.ports.dialect import LogHead
from common.ports.sink import Sink
from common.ports.source import Place, Source
from common.runtime.node import Node
from common.wire.compress import Encoding

if TYPE_CHECKING:
    from common.transports.http.answers import Missing
    from common.transports.kombu_broker import KombuSettings
    from common.transports.rabbitmq import RabbitDeadLetters, RabbitSettings

BROKER = "broker"
DIRECTORY = "directory"
"""What sinks and sources are called in `rf_cursor`, in `status` and in logs."""

OpenSink = Callable[[Callable[[], None]], Sink]
"""Opens a sink. It is given what to call, on any thread and quickly, when confirms have come."""
OpenDirect = Callable[[str], Sink]
"""Opens a sink to one node alone."""
OpenSource = Callable[[], Source]
Passed = Callable[[Collection[tuple[str, str]]], Mapping[tuple[str, str], LogHead]]
"""Of some logs (origin, incarnation) the highest LSN up to which this node has seen everything, and the tx that ends
there; nothing of a log that it has seen nothing of."""


def sink_factories(node: Node, stop: threading.Event | None = None) -> Mapping[str, OpenSink]:
    """Return how to open each sink, by name: the broker, or without one the directory, and each peer. Opens nothing.

    Once `stop` is set, no sink waits longer than a moment for its other side, where it can help it.

    Raises ConfigError when there is none and nobody can come to fetch: the node's changes would go nowhere."""
    config = node.config
    factories: dict[str, OpenSink] = {}
    if config.broker is not None:
        factories[BROKER] = partial(_open_broker_sink, node, config.broker, stop)
    elif config.directory is not None:
        factories[DIRECTORY] = partial(_open_directory_sink, node, config.directory)
    for name, peer in config.peers.items():
        factories[peer_road(name)] = partial(_open_peer_sink, node, name, peer)
    if not factories and "server" not in config.model_fields_set:
        raise ConfigError(
            "neither [broker] nor [directory], [peers] or [server] is configured: set broker.url or directory.path"
        )
    return factories


def peer_road(name: str) -> str:
    """Return what the way to and from an HTTP peer is called in `rf_cursor`, in `status` and in logs."""
    return f"http-{name}"


def peer_sink_factory(node: Node, name: str, peer: PeerSection) -> OpenSink:
    """Return how to open a sink to one HTTP peer."""
    return partial(_open_peer_sink, node, name, peer)


def saying_factory(
    node: Node, name: str, peer: PeerSection, on_missing: "Callable[[Missing | None], None]"
) -> OpenSink:
    """Return how to open a way to tell one HTTP peer what is said beside batches; see `HttpSaying`."""
    return partial(_open_saying, node, name, peer, on_missing)


def directory_sink_factory(node: Node) -> OpenSink | None:
    """Return how to open the shared folder where it is a sink; None where it is none."""
    directory = node.config.directory
    if directory is None or node.config.broker is not None:
        return None
    return partial(_open_directory_sink, node, directory)


def fallback_factory(node: Node) -> OpenSink | None:
    """Return how to open the folder that takes the broker's place; None where there are not both."""
    broker, directory = node.config.broker, node.config.directory
    return None if broker is None or directory is None else partial(_open_directory_sink, node, directory)


def direct_sink_factory(node: Node, stop: threading.Event | None = None) -> OpenDirect | None:
    """Return how to open a way to one node alone; None where there is none: RabbitMQ has it.

    A folder keeps its files, and what it has lost is seen by what its readers say (`producer.refilling`)."""
    broker = node.config.broker
    return None if broker is None or not broker.is_rabbitmq else partial(_open_direct_sink, node, broker, stop)


def source_factories(node: Node, passed: Passed, place: Callable[[str], Place]) -> Mapping[str, OpenSource]:
    """Return how to open each source, by name: the broker, the directory and each peer, as far as they are configured.

    `place`: where this node is in a peer's answers."""
    factories: dict[str, OpenSource] = {}
    if node.config.broker is not None:
        factories[BROKER] = partial(_open_broker_source, node, node.config.broker)
    if node.config.directory is not None:
        factories[DIRECTORY] = partial(_open_directory_source, node, node.config.directory, passed)
    for name, peer in node.config.peers.items():
        factories[peer_road(name)] = partial(_open_peer_source, node, name, peer, place(name))
    return factories


def open_dead_letter_mirror(node: Node, stop: threading.Event | None = None) -> "RabbitDeadLetters | None":
    """Return the broker's own copies of dead letters, which it alone keeps on RabbitMQ; connects at its first call."""
    broker = node.config.broker
    if broker is None or not broker.is_rabbitmq:
        return None
    from common.transports.rabbitmq import RabbitDeadLetters

    return RabbitDeadLetters(rabbit_settings(node, broker), stop)


def rabbit_settings(node: Node, broker: BrokerSection) -> "RabbitSettings":
    """Return what the RabbitMQ transport needs to know of this node."""
    from common.transports.rabbitmq import settings_from

    return settings_from(node.facts.node_id, broker)


def make_queue(node: Node) -> None:
    """Make the node's queue on its broker, so that nothing is missed that others send from now on.

    Does nothing without a broker. Raises OutageError, ConfigError."""
    broker = node.config.broker
    if broker is None:
        return
    if broker.is_rabbitmq:
        from common.transports.rabbitmq.declare import declare_for_consumer

        declare_for_consumer(rabbit_settings(node, broker))
        return
    from common.transports.kombu_broker import declare_queue

    declare_queue(_kombu_settings(node, broker))


def _kombu_settings(node: Node, broker: BrokerSection) -> "KombuSettings":
    from common.transports.kombu_broker import KombuSettings

    return KombuSettings(
        url=broker.url,
        node_id=node.facts.node_id,
        channel=broker.channel,
        listen=broker.listen,
        peers=broker.peers,
        max_message_bytes=broker.max_message_bytes,
        compression=_encoding(broker.compression),
    )


def _open_broker_sink(
    node: Node, broker: BrokerSection, stop: threading.Event | None, on_confirmed: Callable[[], None]
) -> Sink:
    if broker.is_rabbitmq:
        from common.transports.rabbitmq import open_sink

        return open_sink(rabbit_settings(node, broker), on_confirmed, stop=stop)
    from common.transports.kombu_broker import KombuSink

    # What its `send` returns from is as confirmed as such a broker gets, so nothing is confirmed later.
    return KombuSink(_kombu_settings(node, broker))


def _open_direct_sink(node: Node, broker: BrokerSection, stop: threading.Event | None, to_node: str) -> Sink:
    from common.transports.rabbitmq import open_sink

    return open_sink(rabbit_settings(node, broker), to_node=to_node, stop=stop)


def _open_broker_source(node: Node, broker: BrokerSection) -> Source:
    if broker.is_rabbitmq:
        from common.transports.rabbitmq import open_source

        return open_source(rabbit_settings(node, broker))
    from common.transports.kombu_broker import KombuSource

    return KombuSource(_kombu_settings(node, broker))


def _open_directory_sink(node: Node, directory: DirectorySection, _on_confirmed: Callable[[], None]) -> Sink:
    """Open the sink; what its `send` returns from is durable, so nothing is confirmed later."""
    from common.transports.directory import DirectorySink

    return DirectorySink(directory.path, node.facts.node_id, compression=_encoding(directory.compression))


def _open_directory_source(node: Node, directory: DirectorySection, passed: Passed) -> Source:
    from common.transports.directory import DirectorySource

    return DirectorySource(
        directory.path,
        node.facts.node_id,
        passed=passed,
        incarnation=node.facts.incarnation,
        settle_seconds=directory.settle,
        poll_seconds=directory.poll_seconds,
        clock=node.clock,
        signer=node.config.signer(),
    )


def _open_peer_sink(node: Node, name: str, peer: PeerSection, _on_confirmed: Callable[[], None]) -> Sink:
    """Open the sink; what its `send` returned from is committed there, so nothing is confirmed later."""
    from common.transports.http.peer import open_peer_sink
    from common.transports.http.settings import settings_of

    return open_peer_sink(settings_of(name, peer), node.facts)


def _open_saying(
    node: Node,
    name: str,
    peer: PeerSection,
    on_missing: "Callable[[Missing | None], None]",
    _on_confirmed: Callable[[], None],
) -> Sink:
    from common.transports.http.peer import open_saying
    from common.transports.http.settings import settings_of

    return open_saying(settings_of(name, peer), node.facts.node_id, on_missing)


def _open_peer_source(node: Node, name: str, peer: PeerSection, place: Place) -> Source:
    from common.transports.http.peer import open_peer_source
    from common.transports.http.settings import settings_of

    return open_peer_source(settings_of(name, peer), node.config, place, node.main())


def _encoding(chosen: str) -> Encoding | None:
    match chosen:
        case "gzip":
            return "gzip"
        case "zstd":
            return "zstd"
        case _:
            return None
