"""Small parts for tests that talk to a real RabbitMQ: settings, envelopes, and sources that are closed in time."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika

from common.ports.sink import Envelope
from common.ports.source import Delivery
from common.transports.rabbitmq import RabbitSettings, RabbitSink, RabbitSource, open_sink, open_source
from common.transports.rabbitmq.topology import permissions
from tests.support.rabbit_server import RabbitServer

WAIT_SECONDS = 30.0


def settings(url: str, node_id: str = "store-1", **changes: Any) -> RabbitSettings:
    """Settings with short patience: nothing in these tests should need more."""
    return RabbitSettings(url=url, node_id=node_id, **{"blocked_timeout_seconds": 10.0, **changes})


def envelope(number: int, source_node: str = "store-1", body: bytes | None = None, **changes: Any) -> Envelope:
    """The envelope of tx `number`, which is also its LSN."""
    fields: dict[str, Any] = {
        "body": b"body %d\n" % number if body is None else body,
        "source_node": source_node,
        "incarnation": "inc1",
        "from_lsn": number,
        "to_lsn": number,
        "tx_id": f"tx-{number}",
        "closes_lsn": number,
    }
    return Envelope(**{**fields, **changes})


@contextmanager
def sink(configured: RabbitSettings, **arguments: Any) -> Iterator[RabbitSink]:
    made = open_sink(configured, **arguments)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def source(configured: RabbitSettings) -> Iterator[RabbitSource]:
    made = open_source(configured)
    try:
        yield made
    finally:
        made.close()


def publish(configured: RabbitSettings, *numbers: int) -> None:
    """Publish and have confirmed one small envelope for each number."""
    with sink(configured) as made:
        for number in numbers:
            made.send(envelope(number, configured.node_id))
        made.flush(WAIT_SECONDS)


def receive(made: RabbitSource, count: int) -> list[Delivery]:
    """Receive exactly `count` deliveries, without acknowledging them."""
    return [one for some in _receiving(made, count) for one in some]


def drain(made: RabbitSource, count: int) -> list[str]:
    """Receive `count` deliveries, acknowledging as they come, and return their bodies."""
    got: list[str] = []
    for some in _receiving(made, count):
        made.ack(some)
        got.extend(one.body.decode().strip() for one in some)
    return got


def _receiving(made: RabbitSource, count: int) -> Iterator[list[Delivery]]:
    while count > 0:
        some = made.receive(count, WAIT_SECONDS)
        assert some, f"{count} more deliveries never came"
        count -= len(some)
        yield some


def bodies(first: int, last: int) -> list[str]:
    return [f"body {number}" for number in range(first, last + 1)]


@contextmanager
def raw_channel(url: str) -> Iterator[Any]:
    """A plain pika channel, to look at the broker or to disturb it."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def vhost_of(url: str) -> str:
    """The vhost as the management API's paths want it."""
    return urllib.parse.urlsplit(url).path.lstrip("/")


def queue(server: RabbitServer, url: str, name: str) -> Any:
    """One queue as the management API shows it."""
    return server.management("GET", f"/api/queues/{vhost_of(url)}/{name}")


def bindings(server: RabbitServer, url: str, name: str) -> set[tuple[str, str]]:
    """A queue's bindings as (exchange, routing key), the broker's own left out."""
    found = server.management("GET", f"/api/queues/{vhost_of(url)}/{name}/bindings")
    return {(one["source"], one["routing_key"]) for one in found if one["source"]}


def node_user(server: RabbitServer, url: str, node_id: str, channel: str = "default") -> str:
    """Make a user with a node's least rights; return the vhost's URL with it. The name is the node's id."""
    vhost = vhost_of(url)
    rights = permissions(node_id, channel)
    server.management("PUT", f"/api/users/{node_id}", {"password": "secret", "tags": ""})
    server.management(
        "PUT",
        f"/api/permissions/{vhost}/{node_id}",
        {"configure": rights.configure, "write": rights.write, "read": rights.read},
    )
    for exchange, write, read in rights.topics:
        server.management(
            "PUT",
            f"/api/topic-permissions/{vhost}/{node_id}",
            {"exchange": exchange, "write": write, "read": read},
        )
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=f"{node_id}:secret@{parts.hostname}:{parts.port}").geturl()
