"""What stands on the broker after a node declared it, and what is said when something else stands there."""

from __future__ import annotations

import dataclasses
import logging
import re

import pytest

from common.errors import ConfigError, OutageError
from common.transports.rabbitmq import open_sink, open_source, queue_depths
from common.transports.rabbitmq.topology import DELIVERY_LIMIT, queues
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import (
    bindings,
    envelope,
    node_user,
    publish,
    queue,
    raw_channel,
    receive,
    settings,
    sink,
    source,
    vhost_of,
)
from tests.support.waiting import wait_for


@pytest.fixture(params=["rabbitmq", "rabbitmq310"])
def broker(request: pytest.FixtureRequest) -> tuple[RabbitServer, str]:
    """Each version that is supported, with a vhost of the test's own."""
    return request.getfixturevalue(request.param), request.getfixturevalue(f"{request.param}_url")


@pytest.mark.containers
def test_queues_and_bindings_stand_as_specified(broker: tuple[RabbitServer, str]) -> None:
    server, url = broker
    with source(settings(url)):
        node = queue(server, url, "rowferry.node.store-1")
        assert node["durable"] is True
        assert node["arguments"] == {
            "x-queue-type": "quorum",
            "x-single-active-consumer": True,
            "x-expires": 14 * 24 * 3600 * 1000,
            "x-max-length-bytes": 8 * 1024**3,
            "x-overflow": "drop-head",
            "x-delivery-limit": DELIVERY_LIMIT,
        }
        assert bindings(server, url, "rowferry.node.store-1") == {
            ("rowferry.changes", "default.*"),
            ("rowferry.changes", "default.ctl.store-1"),
        }
        assert bindings(server, url, "rowferry.dead.store-1") == {("rowferry.dead", "store-1")}
        assert bindings(server, url, "rowferry.retry.store-1") == {("rowferry.retry", "store-1")}
        for name in ("rowferry.changes", "rowferry.dead", "rowferry.retry"):
            exchange = server.management("GET", f"/api/exchanges/{vhost_of(url)}/{name}")
            assert (exchange["type"], exchange["durable"]) == ("topic", True)


@pytest.mark.containers
def test_declaring_again_changes_nothing(broker: tuple[RabbitServer, str]) -> None:
    server, url = broker
    with source(settings(url)):
        before = queue(server, url, "rowferry.node.store-1")["arguments"]
    with source(settings(url)):
        assert queue(server, url, "rowferry.node.store-1")["arguments"] == before


def test_listen_takes_the_binding_to_everybody_off(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "main")
    with source(configured):
        pass
    with source(dataclasses.replace(configured, listen=("store-1", "store-2"))):
        assert bindings(rabbitmq, rabbitmq_url, "rowferry.node.main") == {
            ("rowferry.changes", "default.store-1"),
            ("rowferry.changes", "default.store-2"),
            ("rowferry.changes", "default.ctl.main"),
        }


@pytest.mark.containers
@pytest.mark.parametrize(
    ("change", "argument"),
    [({"queue_max_bytes": 10**6}, "x-max-length-bytes"), ({"queue_expires_ms": 10**7}, "x-expires")],
)
def test_other_arguments_are_an_error_that_says_how_to_mend_it(
    broker: tuple[RabbitServer, str], change: dict[str, int], argument: str
) -> None:
    server, url = broker
    with source(settings(url)):
        pass
    with pytest.raises(ConfigError) as caught:
        open_source(settings(url, **change))
    message = str(caught.value)
    assert f"'rowferry.node.store-1' exists with another '{argument}'" in message
    assert str(next(iter(change.values()))) in message
    assert "rowferry_test_password" not in message
    run_the_command_in(message, server)
    if argument == "x-expires":
        with pytest.raises(ConfigError, match=r"rowferry\.retry\.store-1") as caught:
            open_source(settings(url, **change))
        run_the_command_in(str(caught.value), server)
    with source(settings(url, **change)):
        assert queue(server, url, "rowferry.node.store-1")["arguments"][argument] == next(iter(change.values()))


def run_the_command_in(message: str, server: RabbitServer) -> None:
    """Delete the queue as `message` says, word for word."""
    command = re.search(r"`(rabbitmqctl delete_queue [^`]*)`", message)
    assert command is not None, message
    server.exec("sh", "-c", command[1])


@pytest.mark.containers
def test_no_setting_mends_a_queue_without_the_argument(broker: tuple[RabbitServer, str]) -> None:
    _, url = broker
    with raw_channel(url) as channel:
        channel.queue_declare("rowferry.node.store-1", durable=True)
    with pytest.raises(ConfigError) as caught:
        open_source(settings(url))
    assert "but current is none): delete the queue on the broker" in str(caught.value)


@pytest.mark.containers
@pytest.mark.parametrize("name", ["node", "dead", "retry"])
def test_a_delivery_limit_that_drops_messages_is_noticed(broker: tuple[RabbitServer, str], name: str) -> None:
    _, url = broker
    spec = next(one for one in queues(settings(url)) if f".{name}." in one.name)
    with raw_channel(url) as channel:
        channel.queue_declare(spec.name, durable=True, arguments={**spec.arguments, "x-delivery-limit": 20})
    with pytest.raises(ConfigError, match=f"{spec.name}.*x-delivery-limit"):
        open_source(settings(url))


def test_an_exchange_of_another_type_is_an_error(rabbitmq_url: str) -> None:
    with raw_channel(rabbitmq_url) as channel:
        channel.exchange_declare("rowferry.changes", "fanout", durable=True)
    with pytest.raises(ConfigError, match=r"exchange 'rowferry\.changes' exists with another 'type'"):
        open_sink(settings(rabbitmq_url))


def test_a_classic_queue_in_the_place_of_a_quorum_queue_is_an_error(rabbitmq_url: str) -> None:
    with raw_channel(rabbitmq_url) as channel:
        channel.queue_declare("rowferry.node.store-1", durable=True)
    with pytest.raises(ConfigError, match=r"rowferry\.node\.store-1"):
        open_source(settings(rabbitmq_url))


def test_depths_count_what_is_ready_and_know_what_is_missing(rabbitmq_url: str) -> None:
    configured = settings(rabbitmq_url, "store-2")
    assert set(queue_depths(configured).values()) == {None}
    with source(configured):
        pass
    publish(settings(rabbitmq_url, "store-1"), 1, 2, 3)
    wait_for(lambda: queue_depths(configured)["rowferry.node.store-2"] == 3, 60, "three messages")
    assert queue_depths(configured)["rowferry.dead.store-2"] == 0


def test_a_full_queue_drops_its_oldest_and_refuses_no_publisher(rabbitmq_url: str) -> None:
    small = settings(rabbitmq_url, "store-2", queue_max_bytes=20_000)
    with source(small):
        pass
    with sink(settings(rabbitmq_url)) as publisher:
        for number in range(1, 31):
            publisher.send(envelope(number, body=b"%02d" % number * 1000))
        assert publisher.flush(20) == 30
    with source(small) as consumer:
        left: list[str] = []

        def newest_came() -> bool:
            left.extend(one.body[:2].decode() for one in consumer.receive(100, 0.2))
            return "30" in left

        wait_for(newest_came, 60, "the newest message")
        assert left == [str(number) for number in range(31 - len(left), 31)]
        assert 5 <= len(left) <= 10


@pytest.mark.containers
def test_least_rights_are_enough_once_the_topology_stands(
    broker: tuple[RabbitServer, str], caplog: pytest.LogCaptureFixture
) -> None:
    server, url = broker
    for node in ("store-1", "store-2"):
        with source(settings(url, node)):
            pass
    first = settings(node_user(server, url, "store-1"), "store-1", verify_user=True)
    second = settings(node_user(server, url, "store-2"), "store-2", verify_user=True)
    caplog.set_level(logging.WARNING)

    publish(first, 1, 2)
    with source(second) as consumer:
        got = receive(consumer, 2)
        assert [(one.source_node, one.verified) for one in got] == [("store-1", True)] * 2
        consumer.ack(got)

    assert [one.getMessage() for one in caplog.records if "topology_not_checked" in one.getMessage()]


def test_without_rights_and_topology_the_error_says_what_to_import(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    least = settings(node_user(rabbitmq, rabbitmq_url, "store-9"), "store-9")
    with pytest.raises(OutageError, match="topology export"):
        open_sink(least)
    with pytest.raises(OutageError, match="topology export"):
        open_source(least)


@pytest.mark.parametrize("forged", ["default.store-2", "default.x.store-1", "default.store-1.x"])
def test_least_rights_refuse_another_nodes_key(rabbitmq: RabbitServer, rabbitmq_url: str, forged: str) -> None:
    with source(settings(rabbitmq_url, "store-2")):
        pass
    channel_name, _, node = forged.rpartition(".")
    url = node_user(rabbitmq, rabbitmq_url, "store-1")
    with sink(settings(url, "store-1", channel=channel_name)) as publisher:
        publisher.send(envelope(1, node))
        with pytest.raises(OutageError, match="right"):
            publisher.flush(10)
