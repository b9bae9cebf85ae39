"""The producer as the hosts see it: its commands, its services, its status.

What does the work is imported where it is asked for: no command waits for what the others need."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from common.ops.progress import OwnProgress
from common.ports.http_part import HttpShare
from common.ports.part import Commands, Service, commands_of
from common.ports.retention import Purged
from common.ports.row_history import RowAsked, RowEvent
from common.runtime.node import Node


class ProducerPart:
    """This node's own changes, on their way out. A `Part`."""

    name = "producer"

    def commands(self) -> Commands:
        return commands_of("producer.commands", "export-change-log", "push")

    def services(self, node: Node, stop: threading.Event) -> Sequence[Service]:
        """Build the sealer, a relay for each sink, the file fallback, what answers others, heartbeats, a watchdog,
        housekeeping.

        Raises ConfigError when the changes would go nowhere."""
        from producer.services import build_services

        return build_services(node, stop)

    def http(self, node: Node, stop: threading.Event) -> HttpShare:
        """Return `/sync/pull`, `/sync/again`, `/sync/heartbeat`, and what looks for news for those who wait there."""
        from producer.pull_watch import PullWatch
        from producer.relay_cleaning import RelayCleaning
        from producer.serve_again import again_routes
        from producer.serve_heartbeat import heartbeat_routes
        from producer.serve_pull import Answers, pull_routes

        watch = PullWatch(node, stop)
        answers = Answers()
        routers = [pull_routes(node, watch, answers), again_routes(node, answers), heartbeat_routes(node)]
        return HttpShare(routers, [watch, RelayCleaning(node, stop)])

    def purge(self, node: Node, actor: str, *, dry_run: bool) -> Sequence[Purged]:
        """Take away what of the log is old enough."""
        from producer.purge import purge_log

        return [purge_log(node, actor=actor, dry_run=dry_run)]

    def status(self, node: Node) -> Mapping[str, Any]:
        """Return what waits to be sent."""
        from producer.status import producer_status

        return producer_status(node)

    def progress(self, node: Node) -> OwnProgress:
        """Return how far this node's own changes are."""
        from producer.progress import own_progress

        return own_progress(node)

    def row_events(self, node: Node, asked: RowAsked) -> Sequence[RowEvent]:
        """Return this node's own changes of a row, and how far they are."""
        from producer.row_events import own_events

        return own_events(node, asked)


part = ProducerPart()
