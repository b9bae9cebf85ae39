"""The producer as the hosts see it: its commands, its services, its status."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import click

from common.ports.part import Service
from common.ports.row_history import RowAsked, RowEvent
from common.runtime.node import Node
from common.runtime.transports import sink_factories
from producer.cleaning import DirectoryCleaning
from producer.commands import export_change_log, push
from producer.cursors import Cursors
from producer.log import NodeLogs
from producer.packing import Sizes
from producer.relay import Relay
from producer.sealer import SealerService
from producer.status import producer_status


class ProducerPart:
    """This node's own changes, on their way out. A `Part`."""

    name = "producer"

    def commands(self) -> Sequence[click.Command]:
        return [export_change_log, push]

    def services(self, node: Node, stop: threading.Event) -> Sequence[Service]:
        """Build the sealer, a relay for each sink, and the housekeeping.

        Raises ConfigError when the changes would go nowhere."""
        logs, cursors = NodeLogs(node.database, node.facts), Cursors(node.database, node.clock)
        sizes = Sizes(node.config.limits.max_batch_bytes, node.config.limits.message_bytes)
        sinks = sink_factories(node, stop)
        relays = [Relay(name, open_sink, logs, cursors, sizes, stop) for name, open_sink in sinks.items()]
        services: list[Service] = [SealerService(node, [relay.wake for relay in relays], stop), *relays]
        if node.config.directory is not None:
            services.append(DirectoryCleaning(node, node.config.directory))
        return services

    def status(self, node: Node) -> Mapping[str, Any]:
        return producer_status(node)

    def row_events(self, node: Node, asked: RowAsked) -> Sequence[RowEvent]:
        """Return this node's own changes of a row, and how far they are."""
        from producer.row_events import own_events

        return own_events(node, asked)


part = ProducerPart()
