"""What `run` runs of the producer: the sealer, a relay for each sink, and what answers, tells and cleans."""

import threading
from collections.abc import Mapping, Sequence
from functools import partial

from common.ops.ages import look_at_clock
from common.ops.purging import PurgeService
from common.ops.watchdog import Watchdog
from common.ports.part import Service
from common.ports.retention import Purged
from common.runtime.node import Node
from common.runtime.transports import (
    BROKER,
    DIRECTORY,
    direct_sink_factory,
    directory_sink_factory,
    fallback_factory,
    peer_road,
    saying_factory,
    sink_factories,
)
from common.tracing import open_tracing
from producer.announcing import Announcing
from producer.answering import Answering
from producer.cleaning import DirectoryCleaning
from producer.cursors import Cursors
from producer.fallback import Fallback
from producer.first_contact import looking
from producer.forwarding import forwarding
from producer.log import NodeLogs
from producer.packing import Packing, bulky
from producer.purge import purge_log
from producer.refilling import Refilling
from producer.relay import Relay
from producer.road import BrokerRoad, observed
from producer.sealer import SealerService
from producer.tracing import traced
from producer.waiting import work_of_run

_NAME = "producer"
_BY_ITSELF = "rowferry"
"""The actor where nobody asked for it."""


def build_services(node: Node, stop: threading.Event) -> Sequence[Service]:
    """Build the sealer, a relay for each sink, the file fallback, what answers others, heartbeats, a watchdog,
    housekeeping.

    Raises ConfigError when the changes would go nowhere."""
    logs, cursors = NodeLogs(node.database, node.facts), Cursors(node.database, node.clock)
    packing = Packing.of(node.config)
    road = BrokerRoad(node.database, node.clock)
    services: list[Service] = []
    relays: dict[str, Relay] = {}
    tracing = open_tracing(node.config.tracing.enabled)
    for name, plain_sink in sink_factories(node, stop).items():
        open_sink = traced(plain_sink, name, tracing)
        if name in (BROKER, DIRECTORY):
            own_road = road if name == BROKER else BrokerRoad(node.database, node.clock, DIRECTORY)
            services.append(Relay(name, observed(open_sink, own_road, stop), logs, cursors, packing, stop))
            continue
        own_road = BrokerRoad(node.database, node.clock, name)
        watched = observed(looking(node, name.removeprefix("http-"), open_sink), own_road, stop)
        services.append(relay := Relay(name, watched, logs, cursors, bulky(packing), stop))
        relays[name] = relay
    spare = fallback_factory(node)
    if spare is not None:
        files = Relay(DIRECTORY, spare, logs, cursors, packing, stop)
        services.append(Fallback(files, road, logs, cursors, node.config.fallback.after))
    services.insert(0, SealerService(node, [service.wake for service in services], stop))
    open_direct = direct_sink_factory(node, stop)
    if open_direct is not None:
        services.append(Answering(node, open_direct, logs, packing, stop))
        if node.config.limits.announce_seconds:
            services.append(Announcing(node, sink_factories(node, stop)[BROKER], cursors))
    services += _telling_peers(node, relays, cursors)
    patience = node.config.limits.stall_seconds
    services.append(Watchdog("watchdog-out", node.database, node.clock, patience, lambda: work_of_run(node)))
    if node.config.directory is not None:
        services.append(DirectoryCleaning(node, node.config.directory, _refilling(node, logs, cursors, packing, stop)))
    every_hours = node.config.retention.every_hours
    if every_hours:
        work = partial(_purge, node, stop)
        services.append(PurgeService(_NAME, node.database, node.clock, every_hours, work))
    return [*services, *forwarding(node, stop)]


def _refilling(
    node: Node, logs: NodeLogs, cursors: Cursors, packing: Packing, stop: threading.Event
) -> Refilling | None:
    open_sink = directory_sink_factory(node)
    if open_sink is None or node.config.directory is None:
        return None
    return Refilling(node.config.directory.path, logs, cursors, packing, open_sink, stop)


def _purge(node: Node, stop: threading.Event) -> Sequence[Purged]:
    return [purge_log(node, actor=_BY_ITSELF, stop=stop, ages=look_at_clock(node.database, node.clock))]


def _telling_peers(node: Node, relays: Mapping[str, Relay], cursors: Cursors) -> list[Service]:
    """Return what sends heartbeats to each peer, and lets its relay send once more what it lacks."""
    if not node.config.peers or not node.config.limits.announce_seconds:
        return []
    # Not at the top: it imports the client.
    from producer.resending import Resending

    return [
        Announcing(
            node, saying_factory(node, name, peer, Resending(name, relays[peer_road(name)])), cursors, peer_road(name)
        )
        for name, peer in node.config.peers.items()
    ]
