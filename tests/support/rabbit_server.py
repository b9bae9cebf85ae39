"""A real RabbitMQ for the tests: 4, and 3.10, the oldest version supported."""

from __future__ import annotations

import base64
import functools
import json
import os
import urllib.error
import urllib.parse
import urllib.request
import uuid
from typing import Any

from tests.support.container_engine import REPOSITORY, ContainerSpec
from tests.support.container_server import PASSWORD, USER, Server


def _rabbitmq_spec(kind: str, image: str) -> ContainerSpec:
    configuration = REPOSITORY / "infra" / "rabbitmq"
    return ContainerSpec(
        kind=kind,
        image=image,
        ports=(5672, 15672),
        environment=(("RABBITMQ_DEFAULT_USER", USER), ("RABBITMQ_DEFAULT_PASS", PASSWORD)),
        files=(
            (configuration / "test.conf", "/etc/rabbitmq/conf.d/50-rowferry-test.conf"),
            (configuration / "enabled_plugins", "/etc/rabbitmq/enabled_plugins"),
        ),
    )


def rabbitmq4_spec(kind: str = "rabbitmq4") -> ContainerSpec:
    return _rabbitmq_spec(kind, os.environ.get("ROWFERRY_TEST_RABBITMQ_IMAGE", "rabbitmq:4-management"))


def rabbitmq310_spec(kind: str = "rabbitmq310") -> ContainerSpec:
    return _rabbitmq_spec(kind, os.environ.get("ROWFERRY_TEST_RABBITMQ310_IMAGE", "rabbitmq:3.10"))


@functools.cache
def _direct_opener() -> urllib.request.OpenerDirector:
    # The broker is on this machine: a proxy of the environment has no business in between.
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


class RabbitServer(Server):
    """A RabbitMQ broker with an administrator account and the management API."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._made: set[str] = set()

    user = USER
    password = PASSWORD

    def url(self, vhost: str = "/") -> str:
        """AMQP URL of a vhost."""
        return f"amqp://{USER}:{PASSWORD}@{self.host}:{self.port}/{urllib.parse.quote(vhost, safe='')}"

    @property
    def management_url(self) -> str:
        return f"http://{self.host}:{self._ports[15672]}"

    def management(self, method: str, path: str, body: object = None) -> Any:
        """Call the management API, as in `management("GET", "/api/queues/" + quote(vhost, safe=""))`."""
        credentials = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            self.management_url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        )
        with _direct_opener().open(request, timeout=30) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    def _is_ready(self) -> bool:
        import pika
        import pika.exceptions

        parameters = pika.URLParameters(self.url())
        parameters.socket_timeout = 2
        parameters.stack_timeout = 5
        parameters.connection_attempts = 1
        # Docker's proxy accepts for a broker that does not listen yet; only a finished handshake tells.
        try:
            with _direct_opener().open(self.management_url, timeout=2) as response:
                response.read()
            pika.BlockingConnection(parameters).close()
        except (pika.exceptions.AMQPError, OSError):
            return False
        return True

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl inside the container."""
        return self.exec("rabbitmqctl", *arguments)

    def flush_declarations(self) -> None:
        """Make the broker write to its disk what was declared so far; call it between declaring and `kill()`.

        RabbitMQ answers a declaration, and even confirms persistent messages, before its lists of queues are on the
        disk; that takes up to some seconds.  Killed in between, it comes back without the queue (seen with a durable
        classic queue of 4.0) or with one that has no leader and answers nothing (seen with quorum queues of 3.10, 4.0).
        """
        # Mnesia keeps the definitions, and a dets table of the Raft library tells which quorum queues live here.
        # A broker that keeps its definitions in Khepri has no running Mnesia, and needs none of this.
        self.ctl("eval", "catch mnesia:sync_log(), [ok = dets:sync(Table) || Table <- dets:all()], ok.")

    def create_vhost(self, name: str | None = None) -> str:
        """Make a fresh vhost with all permissions for the account of `url`; return its name."""
        name = name or f"test-{uuid.uuid4().hex[:16]}"
        quoted = urllib.parse.quote(name, safe="")
        self.management("PUT", f"/api/vhosts/{quoted}")
        self.management("PUT", f"/api/permissions/{quoted}/{USER}", {"configure": ".*", "write": ".*", "read": ".*"})
        self._made.add(name)
        return name

    def delete_vhost(self, name: str) -> None:
        """Delete a vhost with all that is in it; its connections are closed by the broker."""
        try:
            self.management("DELETE", f"/api/vhosts/{urllib.parse.quote(name, safe='')}")
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
        self._made.discard(name)

    def clean_up(self) -> None:
        for name in sorted(self._made):
            self.delete_vhost(name)
