"""A running node that can't take what others send says so, also where nothing of it is to be seen here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import CliNode
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import raw_channel, vhost_of
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers
_QUEUE = "rowferry.node.a"


@pytest.fixture
def node(rabbitmq: RabbitServer, rabbitmq_url: str, tmp_path: Path) -> Iterator[CliNode]:
    made = CliNode.init("a", tmp_path / "a", f"sqlite:///{tmp_path / 'a.db'}", "--broker", rabbitmq_url)
    made.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    with (made.folder / "rowferry.toml").open("a") as file:
        file.write("\n[limits]\nstall_seconds = 2\n")
    made.ok("migrate")
    yield made
    made.close()


def delete_queue(server: RabbitServer, url: str) -> None:
    server.management("DELETE", f"/api/queues/{vhost_of(url)}/{_QUEUE}")


def test_a_queue_that_is_another_one_is_told_of_while_it_is_empty(
    node: CliNode, rabbitmq: RabbitServer, rabbitmq_url: str
) -> None:
    delete_queue(rabbitmq, rabbitmq_url)
    with raw_channel(rabbitmq_url) as channel:
        channel.queue_declare(_QUEUE, durable=True)
    node.start()
    wait_for(lambda: node.call("status", "--check").returncode == 1, 90, "status to tell")
    assert "way in takes nothing from the broker" in node.ok("status")
    delete_queue(rabbitmq, rabbitmq_url)
    wait_for(lambda: node.call("status", "--check").returncode == 0, 120, "the node to take messages again")
