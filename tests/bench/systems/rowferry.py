"""Rowferry as its operator runs it: a node on each side, a process each, RabbitMQ with confirms between them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.pair import Pair
from tests.bench.processes import Workers
from tests.support.nodes import CliNode
from tests.support.rabbit_server import RabbitServer


class Rowferry:
    """`rowferry init`, `migrate` and `run` on each side, all settings at their defaults."""

    name = "rowferry"

    def __init__(self, broker: RabbitServer) -> None:
        self._broker = broker

    @contextmanager
    def replicating(self, pair: Pair) -> Iterator[Workers]:
        vhost = self._broker.create_vhost()
        options = ("--broker", self._broker.url(vhost), "--tables", ",".join(pair.tables))
        source = CliNode.init("source", pair.folder / "source", pair.source.url, "--role", "main", *options)
        target = CliNode.init("target", pair.folder / "target", pair.target.url, *options)
        try:
            for node in (source, target):
                node.ok("migrate")
            producer, consumer = source.start().process.pid, target.start().process.pid
            ours = {"source node": (producer,), "RabbitMQ": (self._broker.pid,), "target node": (consumer,)}
            roles = {**pair.servers(), **ours}
            yield Workers((producer, consumer), roles, own=(producer, consumer))
            for node in (source, target):
                code = node.runs[-1].stop()
                if code != 0:
                    raise RuntimeError(f"{node.node_id} ended with {code}:\n{node.runs[-1].tail()}")
        finally:
            for node in (source, target):
                node.close()
            self._broker.delete_vhost(vhost)
