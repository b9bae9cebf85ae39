"""What the consumer offers to the hosts: its commands, the intake of each source, its share of the status.

What does the work is imported where it is asked for: no command waits for what the others need."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from common.errors import OutageError
from common.ops.progress import OthersProgress
from common.ports.http_part import HttpShare
from common.ports.part import Commands, Service, commands_of
from common.ports.retention import Purged
from common.ports.row_history import RowAsked, RowEvent
from common.runtime.node import Node


class ConsumerPart:
    """Applies other nodes' batches."""

    name = "consumer"

    def commands(self) -> Commands:
        """Return `import-change-log`, `pull`, `dlq`, `conflicts`, `audit`, `snapshot`, `rejoin`, `verify`, `adopt`."""
        return {
            **commands_of("consumer.commands", "import-change-log", "pull"),
            **commands_of("consumer.dlq_commands", "dlq"),
            **commands_of("consumer.conflict_commands", "conflicts"),
            **commands_of("consumer.audit_commands", "audit"),
            **commands_of("consumer.snapshot_commands", "snapshot"),
            **commands_of("consumer.rejoin_commands", "rejoin"),
            **commands_of("consumer.verify_commands", "verify"),
            **commands_of("consumer.adopt_commands", "adopt"),
        }

    def services(self, node: Node, stop: threading.Event) -> Sequence[Service]:
        """Build one intake for each configured source, what tries again what a new shape lets through, what follows up
        the node's own writes where rows have stepped back, what asks for what is missing, and a watchdog."""
        from consumer.services import build_services

        return build_services(node, stop)

    def before_run(self, node: Node) -> None:
        """Ask the shared folder whether this database was put back; where it is away its reader asks later."""
        from consumer.put_back import look_into_folder

        with suppress(OutageError):
            look_into_folder(node)

    def http(self, node: Node, stop: threading.Event) -> HttpShare:
        """Return `/sync/push`, the intake behind it, `/sync/digests`, `/sync/rows`, `/sync/adopt`, and `/dead-letters`,
        `/conflicts`, `/audit` with their pages."""
        from consumer.hearing import Listening
        from consumer.page.routes import PAGES, TEMPLATES, page_routes
        from consumer.push_queue import PushIntake, PushQueue
        from consumer.serve_adopt import adopt_routes
        from consumer.serve_audit import audit_routes
        from consumer.serve_conflicts import conflict_routes
        from consumer.serve_digests import digest_routes
        from consumer.serve_heartbeat import heartbeat_routes
        from consumer.serve_letters import letter_routes
        from consumer.serve_push import push_routes
        from consumer.serve_waiting import waiting_routes

        pushes = PushQueue()
        routers = [
            push_routes(node, pushes),
            heartbeat_routes(node),
            digest_routes(node),
            adopt_routes(node),
            waiting_routes(node),
        ]
        routers += [letter_routes(node), conflict_routes(node), audit_routes(node), *page_routes(node)]
        # A broker's heartbeats are heard by `run` alone.
        # Where `run` hears others itself, it notes that: with it stopped, this node hears nobody.
        hears_itself = node.config.broker is not None or node.config.peers
        listening = [] if hears_itself else [Listening(node)]
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
        from consumer.incoming import Outcome
        from consumer.reshaped import Reshaped

        return sum(result.outcome is Outcome.APPLIED for result in Reshaped(node).retry())


part = ConsumerPart()
