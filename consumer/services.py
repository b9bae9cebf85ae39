"""What `run` runs of the consumer: an intake for each source, and what asks, tries again, follows up and cleans."""

import threading
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from common.ops.ages import look_at_clock
from common.ops.purging import PurgeService
from common.ops.stalls import Work
from common.ops.watchdog import Watchdog
from common.ports.dialect import LogHead
from common.ports.part import Service
from common.ports.retention import Purged
from common.ports.source import Source
from common.runtime.node import Node
from common.runtime.transports import (
    BROKER,
    DIRECTORY,
    OpenSource,
    direct_sink_factory,
    open_dead_letter_mirror,
    source_factories,
)
from common.tracing import open_tracing
from consumer.asking import GapAsking
from consumer.audit import APPLIER
from consumer.dead_letters.copies import BrokerCopies
from consumer.intake import Intake
from consumer.pulls import PullPlace
from consumer.purge import purge_received
from consumer.put_back import FolderWatch, look_into_folder
from consumer.reshaped import ReshapedRetries
from consumer.standing.refresh import RefreshService
from consumer.statements import reading
from consumer.waiting import others_work
from consumer.watermark import SourceKey, read_all

_NAME = "consumer"


def build_services(node: Node, stop: threading.Event) -> Sequence[Service]:
    """Build one intake for each configured source, what tries again what a new shape lets through, what follows up
    the node's own writes where rows have stepped back, what asks for what is missing, and a watchdog."""
    factories = source_factories(node, partial(passed, node), partial(PullPlace, node))
    if DIRECTORY in factories:
        factories = {**factories, DIRECTORY: _looking(node, factories[DIRECTORY])}
    tracing = open_tracing(node.config.tracing.enabled)
    intakes = [
        Intake(node, name, factory, _copies(node, stop) if name == BROKER else None, stop, tracing=tracing)
        for name, factory in factories.items()
    ]
    # What was set aside may have come to `serve`, so these are there without a source too.
    services: list[Service] = [*intakes, ReshapedRetries(node, _copies(node, stop), stop), RefreshService(node, stop)]
    open_direct = direct_sink_factory(node, stop)
    if open_direct is not None:
        services.append(GapAsking(node, open_direct, stop))
    services += _beside_pulls(node, stop)
    if node.config.directory is not None:
        services.append(FolderWatch(node))

    def look() -> Sequence[Work]:
        return others_work(node, [(one.source_name, one.holding) for one in intakes])

    services.append(Watchdog("watchdog-in", node.database, node.clock, node.config.limits.stall_seconds, look))
    if node.config.retention.every_hours:
        work = partial(_purge, node, stop)
        services.append(PurgeService(_NAME, node.database, node.clock, node.config.retention.every_hours, work))
    return services


def _purge(node: Node, stop: threading.Event) -> Sequence[Purged]:
    return purge_received(node, actor=APPLIER, stop=stop, ages=look_at_clock(node.database, node.clock))


def _beside_pulls(node: Node, stop: threading.Event) -> list[Service]:
    """Return what hears each HTTP peer, and what asks it once more for what is missing."""
    if not node.config.peers:
        return []
    # Not at the top: it imports the client.
    from consumer.again import AgainIntake
    from consumer.hearing import PeerHearing

    services: list[Service] = []
    for name, peer in node.config.peers.items():
        if node.config.limits.announce_seconds:
            services.append(PeerHearing(node, name, peer))
        services.append(AgainIntake(node, name, peer, stop))
    return services


def _looking(node: Node, open_source: OpenSource) -> OpenSource:
    """Return how to open the folder, once it was asked whether this database was put back: the reader's own acks go."""

    def look_and_open() -> Source:
        look_into_folder(node)
        return open_source()

    return look_and_open


def passed(node: Node, logs: Collection[SourceKey]) -> dict[SourceKey, LogHead]:
    """Return the watermarks of these logs; of this node's own their ends."""
    with reading(node.database) as connection:
        marks = {key: mark for key, (mark, _) in read_all(connection).items() if key in logs}
    found = {key: LogHead(mark.last_lsn, mark.last_tx_id) for key, mark in marks.items()}
    # Asked last: what was written before the others' changes had come lies below the own log's end then.
    for key in logs:
        if key[0] == node.facts.node_id:
            found[key] = node.database.log(replace(node.facts, incarnation=key[1])).head()
    return found


def _copies(node: Node, stop: threading.Event) -> BrokerCopies | None:
    mirror = open_dead_letter_mirror(node, stop)
    return BrokerCopies(node, mirror) if mirror is not None else None
