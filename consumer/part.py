"""What the consumer offers to the hosts: its commands, the intake of each source, its share of the status."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import click

from common.ops.progress import OthersProgress
from common.ops.purging import PurgeService
from common.ops.stalls import Work
from common.ops.watchdog import Watchdog
from common.ports.http_part import HttpShare
from common.ports.part import Service
from common.ports.retention import Purged
from common.ports.row_history import RowAsked, RowEvent
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
from consumer.dead_letters.copies import BrokerCopies
from consumer.incoming import Outcome
from consumer.pulls import PullPlace
from consumer.statements import reading
from consumer.watermark import read_mark


class ConsumerPart:
    """Applies other nodes' batches."""

    name = "consumer"

    def commands(self) -> Sequence[click.Command]:
        """Return `import-change-log`, `pull`, `dlq`, `conflicts` and `audit`."""
        from consumer.commands import COMMANDS

        return COMMANDS

    def services(self, node: Node, stop: threading.Event) -> Sequence[Service]:
        """Build one intake for each configured source, what tries again what a new shape lets through, what follows up
        the node's own writes where rows have stepped back, what asks for what is missing, and a watchdog."""
        from consumer.asking import GapAsking
        from consumer.audit import APPLIER
        from consumer.intake import Intake
        from consumer.purge import purge_received
        from consumer.reshaped import ReshapedRetries
        from consumer.standing.refresh import RefreshService
        from consumer.waiting import others_work

        factories = source_factories(
            node, lambda origin, incarnation: passed(node, origin, incarnation), lambda peer: PullPlace(node, peer)
        )
        if DIRECTORY in factories:
            factories = {**factories, DIRECTORY: _looking(node, factories[DIRECTORY])}
        tracing = open_tracing(node.config.tracing.enabled)
        intakes = [
            Intake(node, name, factory, _copies(node, stop) if name == BROKER else None, stop, tracing=tracing)
            for name, factory in factories.items()
        ]
        services: list[Service] = [*intakes]
        if intakes:
            services.append(ReshapedRetries(node, _copies(node, stop), stop))
        services.append(RefreshService(node, stop))
        open_direct = direct_sink_factory(node, stop)
        if open_direct is not None:
            services.append(GapAsking(node, open_direct, stop))
        services += _beside_pulls(node, stop)
        if intakes:

            def look() -> Sequence[Work]:
                return others_work(node, [(one.source_name, one.holding) for one in intakes])

            patience = node.config.limits.stall_seconds
            services.append(Watchdog("watchdog-in", node.database, node.clock, patience, look))
        if node.config.retention.every_hours:
            work = partial(purge_received, node, actor=APPLIER, stop=stop)
            services.append(PurgeService(self.name, node.database, node.clock, node.config.retention.every_hours, work))
        return services

    def http(self, node: Node, stop: threading.Event) -> HttpShare:
        """Return `/sync/push`, the intake behind it, `/dead-letters`, `/conflicts`, `/audit` and their pages."""
        # Not at the top: other commands need no web framework.
        from consumer.hearing import Listening
        from consumer.page.routes import PAGES, TEMPLATES, page_routes
        from consumer.push_queue import PushIntake, PushQueue
        from consumer.serve_audit import audit_routes
        from consumer.serve_conflicts import conflict_routes
        from consumer.serve_heartbeat import heartbeat_routes
        from consumer.serve_letters import letter_routes
        from consumer.serve_push import push_routes

        pushes = PushQueue()
        routers = [push_routes(node, pushes), heartbeat_routes(node)]
        routers += [letter_routes(node), conflict_routes(node), audit_routes(node), *page_routes(node)]
        # A broker's heartbeats are heard by `run` alone.
        listening = [Listening(node)] if node.config.broker is None else []
        return HttpShare(routers, [PushIntake(node, pushes, stop), *listening], PAGES, TEMPLATES)

    def purge(self, node: Node, actor: str, *, dry_run: bool) -> Sequence[Purged]:
        """Take away what of the received is old enough."""
        from consumer.purge import purge_received

        return purge_received(node, actor=actor, dry_run=dry_run)

    def status(self, node: Node) -> Mapping[str, Any]:
        """Return what waits on this side."""
        from consumer.status import read_status

        return read_status(node)

    def progress(self, node: Node) -> OthersProgress:
        """Return how far other nodes' changes are here."""
        from consumer.progress import others_progress

        return others_progress(node)

    def row_events(self, node: Node, asked: RowAsked) -> Sequence[RowEvent]:
        """Return what other nodes' changes of a row came to."""
        from consumer.row_events import others_events

        return others_events(node, asked)

    def after_migrate(self, node: Node) -> int:
        """Try again what another shape of the tables may let through; return how many txs were applied."""
        from consumer.reshaped import Reshaped

        return sum(result.outcome is Outcome.APPLIED for result in Reshaped(node).retry())


def _beside_pulls(node: Node, stop: threading.Event) -> list[Service]:
    """Return what hears each HTTP peer, and what asks it once more for what is missing."""
    if not node.config.peers:
        return []
    # Not at the top: it imports the client.
    from consumer.again import again_from
    from consumer.hearing import PeerHearing
    from consumer.intake import Intake

    services: list[Service] = []
    for name, peer in node.config.peers.items():
        if node.config.limits.announce_seconds:
            services.append(PeerHearing(node, name, peer))
        services.append(Intake(node, f"again-{name}", partial(again_from, node, name, peer), None, stop))
    return services


def _looking(node: Node, open_source: OpenSource) -> OpenSource:
    """Return how to open the folder, once it was asked whether this database was put back: the reader's own acks go."""

    def look_and_open() -> Source:
        from consumer.put_back import look_into_folder

        look_into_folder(node)
        return open_source()

    return look_and_open


def passed(node: Node, origin: str, incarnation: str) -> int:
    """Return the watermark of one incarnation of a source; of this node itself the end of its log."""
    if origin == node.facts.node_id:
        return node.database.log(replace(node.facts, incarnation=incarnation)).head().lsn
    with reading(node.database) as connection:
        return read_mark(connection, origin, incarnation).last_lsn


def _copies(node: Node, stop: threading.Event) -> BrokerCopies | None:
    mirror = open_dead_letter_mirror(node, stop)
    return BrokerCopies(node, mirror) if mirror is not None else None


part = ConsumerPart()
