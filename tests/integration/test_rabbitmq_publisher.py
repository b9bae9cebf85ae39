"""The RabbitMQ sink: what is confirmed is there, what is not is never counted, and every refusal is seen."""

from __future__ import annotations

import dataclasses
import threading
import time

import pytest

from common.config.model import BrokerSection
from common.errors import ConfigError, OutageError, PoisonError, Reason
from common.transports.rabbitmq import RabbitSettings, RabbitSink, open_sink
from common.transports.rabbitmq.configured import settings_from
from common.wire.compress import decompress
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import (
    WAIT_SECONDS,
    bodies,
    drain,
    envelope,
    node_user,
    publish,
    raw_channel,
    receive,
    settings,
    sink,
    source,
)
from tests.support.waiting import wait_for


def declare(url: str, node_id: str = "store-2") -> RabbitSettings:
    """Have a node's queue stand without anybody consuming it."""
    configured = settings(url, node_id)
    with source(configured):
        return configured


@pytest.mark.containers
@pytest.mark.parametrize("fixture", ["rabbitmq_url", "rabbitmq310_url"])
def test_messages_carry_the_properties_of_the_wire_format(request: pytest.FixtureRequest, fixture: str) -> None:
    url = request.getfixturevalue(fixture)
    configured = declare(url)
    with sink(settings(url)) as publisher:
        publisher.send(envelope(2**62, txs=7, from_lsn=5, closes_lsn=None))
        assert publisher.flush(WAIT_SECONDS) == 0
    with raw_channel(url) as channel:
        channel.queue_bind("rowferry.node.store-2", "rowferry.changes", "unused.key")
    with source(configured) as consumer:
        [got] = receive(consumer, 1)
        assert got.body == b"body %d\n" % 2**62
        assert (got.source_node, got.origin, got.content_encoding) == ("store-1", "rowferry.node.store-2", None)
        wanted = {"source_node": "store-1", "from_lsn": 5, "to_lsn": 2**62, "incarnation": "inc1", "txs": 7}
        assert {key: got.headers[key] for key in wanted} == wanted


def test_persistent_with_type_id_and_user(rabbitmq_url: str) -> None:
    with raw_channel(rabbitmq_url) as channel:
        channel.exchange_declare("rowferry.changes", "topic", durable=True)
        channel.queue_declare("spy", exclusive=True)
        channel.queue_bind("spy", "rowferry.changes", "default.store-1")
        publish(settings(rabbitmq_url), 1)
        _, properties, _ = channel.basic_get("spy", auto_ack=True)
    assert properties.delivery_mode == 2
    assert properties.message_id == "tx-1"
    assert properties.content_type == "application/x-ndjson"
    assert properties.user_id == "rowferry_test"


def test_flush_confirms_everything_in_order(rabbitmq_url: str) -> None:
    configured = declare(rabbitmq_url)
    with sink(settings(rabbitmq_url)) as publisher:
        for number in range(1, 2_001):
            publisher.send(envelope(number))
        assert publisher.flush(WAIT_SECONDS) == 2_000
        assert publisher.confirmed() == 2_000
    with source(configured) as consumer:
        assert drain(consumer, 2_000) == bodies(1, 2_000)


def test_position_moves_only_where_a_tx_closes(rabbitmq_url: str) -> None:
    declare(rabbitmq_url)
    with sink(settings(rabbitmq_url)) as publisher:
        publisher.send(envelope(1))
        publisher.send(envelope(2, closes_lsn=None))
        assert publisher.flush(WAIT_SECONDS) == 1
        publisher.send(envelope(2, closes_lsn=2))
        assert publisher.flush(WAIT_SECONDS) == 2


def test_the_hook_is_called_when_confirms_come(rabbitmq_url: str) -> None:
    declare(rabbitmq_url)
    told = threading.Event()
    with sink(settings(rabbitmq_url), on_confirmed=told.set) as publisher:
        publisher.send(envelope(1))
        assert told.wait(WAIT_SECONDS)
        wait_for(lambda: publisher.confirmed() == 1, WAIT_SECONDS, "the position")


def test_a_small_window_still_lets_a_larger_message_through(rabbitmq_url: str) -> None:
    configured = declare(rabbitmq_url)
    with sink(settings(rabbitmq_url, window_messages=2, window_bytes=100)) as publisher:
        for number in range(1, 51):
            publisher.send(envelope(number, body=b"x" * (200 if number % 10 == 0 else 20)))
        assert publisher.flush(WAIT_SECONDS) == 50
    with source(configured) as consumer:
        assert len(drain(consumer, 50)) == 50


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_compressed_bodies_say_so(rabbitmq_url: str, encoding: str) -> None:
    configured = declare(rabbitmq_url)
    with sink(settings(rabbitmq_url, compression=encoding)) as publisher:
        publisher.send(envelope(1, body=b"a" * 50_000))
        publisher.flush(WAIT_SECONDS)
    with source(configured) as consumer:
        [got] = receive(consumer, 1)
        assert got.content_encoding == encoding
        assert len(got.body) < 1_000


def test_by_itself_it_compresses_what_a_backlog_makes(rabbitmq_url: str) -> None:
    """Neither what a person may want to read in the queue, nor what a receiver could take for a bomb."""
    declare(rabbitmq_url)
    configured = settings_from("store-1", BrokerSection(url=rabbitmq_url))
    sizes = {1: 31 * 1024, 2: 33 * 1024, 3: 7 * 1024 * 1024, 4: 9 * 1024 * 1024}
    with sink(configured) as publisher:
        for number, size in sizes.items():
            publisher.send(envelope(number, body=b"a" * size))
        assert publisher.flush(WAIT_SECONDS) == 4
    with source(settings(rabbitmq_url, "store-2")) as consumer:
        got = receive(consumer, 4)
    assert [one.content_encoding for one in got] == [None, "zstd", "zstd", None]
    assert [len(decompress(one.body, one.content_encoding)) for one in got] == list(sizes.values())


@pytest.mark.parametrize(("chosen", "expected"), [("none", [None, None]), ("gzip", ["gzip", "gzip"])])
def test_what_is_chosen_is_done(rabbitmq_url: str, chosen: str, expected: list[str | None]) -> None:
    declare(rabbitmq_url)
    section = BrokerSection.model_validate({"url": rabbitmq_url, "compression": chosen})
    with sink(settings_from("store-1", section)) as publisher:
        for number, size in ((1, 2_000), (2, 100_000)):
            publisher.send(envelope(number, body=b"a" * size))
        publisher.flush(WAIT_SECONDS)
    with source(settings(rabbitmq_url, "store-2")) as consumer:
        assert [one.content_encoding for one in receive(consumer, 2)] == expected


def test_unroutable_is_seen_and_nothing_after_it_counts(rabbitmq_url: str) -> None:
    with sink(settings(rabbitmq_url)) as publisher:
        publisher.send(envelope(1))
        with pytest.raises(OutageError, match=r"tx-1 came back.*default\.store-1.*sent again"):
            publisher.flush(WAIT_SECONDS)
        declare(rabbitmq_url)
        with pytest.raises(OutageError, match="came back"):
            publisher.send(envelope(2))
        with pytest.raises(OutageError, match="came back"):
            publisher.confirmed()


def test_oversize_is_seen_before_it_is_sent(rabbitmq_url: str) -> None:
    configured = declare(rabbitmq_url)
    with sink(settings(rabbitmq_url, max_message_bytes=1_000)) as publisher:
        with pytest.raises(PoisonError, match="max_message_bytes") as caught:
            publisher.send(envelope(1, body=b"x" * 1_001))
        assert caught.value.reason is Reason.LIMIT
        publisher.send(envelope(2))
        assert publisher.flush(WAIT_SECONDS) == 2
    with source(configured) as consumer:
        assert drain(consumer, 1) == ["body 2"]


def test_the_largest_message_that_rabbitmq_4_takes_by_default(rabbitmq_url: str) -> None:
    configured = declare(rabbitmq_url)
    limit = configured.max_message_bytes
    with sink(settings(rabbitmq_url)) as publisher:
        publisher.send(envelope(1, body=b"x" * limit))
        assert publisher.flush(WAIT_SECONDS) == 1
    with sink(settings(rabbitmq_url, max_message_bytes=2 * limit)) as publisher:
        publisher.send(envelope(2, body=b"x" * (limit + 1)))
        with pytest.raises(ConfigError, match=r"lower \[broker\] max_message_bytes"):
            publisher.flush(WAIT_SECONDS)


def test_another_nodes_user_id_is_refused_by_the_broker(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(rabbitmq_url)
    monkeypatch.setattr("common.transports.rabbitmq.publisher.user_of", lambda _: "somebody-else")
    with sink(settings(rabbitmq_url)) as publisher:
        publisher.send(envelope(1))
        with pytest.raises(ConfigError, match="user_id property set to 'somebody-else'"):
            publisher.flush(WAIT_SECONDS)


def test_a_nack_is_an_outage(rabbitmq_url: str) -> None:
    declare(rabbitmq_url)
    with raw_channel(rabbitmq_url) as channel:
        # Somebody bound a queue of their own, which refuses what it has no room for.
        full = {"x-max-length": 1, "x-overflow": "reject-publish"}
        channel.queue_declare("full", arguments=full, exclusive=True)
        channel.queue_bind("full", "rowferry.changes", "#")
        with sink(settings(rabbitmq_url)) as publisher:
            publisher.send(envelope(1))
            assert publisher.flush(WAIT_SECONDS) == 1
            publisher.send(envelope(2))
            with pytest.raises(OutageError, match="nack"):
                publisher.flush(WAIT_SECONDS)


def test_wrong_password_is_an_outage_that_says_so(rabbitmq_url: str) -> None:
    wrong = rabbitmq_url.replace("rowferry_test_password", "guess")
    with pytest.raises(OutageError, match="refuses user 'rowferry_test' or its password") as caught:
        open_sink(settings(wrong))
    assert "guess" not in str(caught.value)


def test_a_missing_vhost_is_an_outage_that_names_it(rabbitmq_url: str) -> None:
    with pytest.raises(OutageError, match="no-such-vhost"):
        open_sink(settings(rabbitmq_url.rpartition("/")[0] + "/no-such-vhost"))


def test_no_broker_is_an_outage() -> None:
    with pytest.raises(OutageError, match=r"127\.0\.0\.1:1.*out of reach"):
        open_sink(settings("amqp://u:p@127.0.0.1:1/"))


@pytest.mark.parametrize("url", ["amqp://host:port/", "amqp://u:p@host/?no_such_option=1", "http+x://host"])
def test_a_url_that_cannot_be_used_is_a_config_error(url: str) -> None:
    with pytest.raises(ConfigError, match="url"):
        open_sink(settings(url))


def test_close_twice_and_use_afterwards(rabbitmq_url: str) -> None:
    declare(rabbitmq_url)
    publisher = open_sink(settings(rabbitmq_url))
    publisher.close()
    publisher.close()
    with pytest.raises(OutageError, match="closed"):
        publisher.send(envelope(1))


def test_to_node_reaches_that_node_alone(rabbitmq_url: str) -> None:
    second, third = declare(rabbitmq_url, "store-2"), declare(rabbitmq_url, "store-3")
    with sink(settings(rabbitmq_url), to_node="store-2") as publisher:
        publisher.send(envelope(1))
        publisher.flush(WAIT_SECONDS)
    publish(settings(rabbitmq_url), 2)
    with source(second) as consumer:
        assert drain(consumer, 2) == bodies(1, 2)
    with source(third) as consumer:
        assert drain(consumer, 1) == ["body 2"]


def test_proven_sources_are_verified_and_others_are_flagged(rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    second = dataclasses.replace(declare(rabbitmq_url), verify_user=True)
    honest = settings(node_user(rabbitmq, rabbitmq_url, "store-1"), "store-1")
    publish(honest, 1)
    with sink(honest, to_node="store-2") as publisher:
        publisher.send(envelope(2))
        publisher.flush(WAIT_SECONDS)
    with sink(honest) as publisher:
        publisher.send(envelope(3, incarnation="inc1", source_node="store-1"))
        publisher.flush(WAIT_SECONDS)
    # The test's own user, who is no node, says that it is one.
    publish(settings(rabbitmq_url, "store-1"), 4)
    with source(second) as consumer:
        got = receive(consumer, 4)
        assert [one.verified for one in got] == [True, True, True, False]
        assert "its user_id is 'rowferry_test'" in str(got[3].headers["rowferry_identity_error"])
        assert consumer.features.authenticated


# A broker that is killed, or that blocks publishers -------------------------------------------------------------------


def _publish_until_it_fails(publisher: RabbitSink, halfway: threading.Event) -> int:
    """Send without end; return the highest position that was seen confirmed."""
    confirmed = number = 0
    while True:
        number += 1
        try:
            publisher.send(envelope(number, body=b"body %d\n" % number))
            confirmed = publisher.confirmed()
        except OutageError:
            return confirmed
        if confirmed > 500:
            halfway.set()


@pytest.mark.heavy
@pytest.mark.containers
@pytest.mark.parametrize("fixture", ["private_rabbitmq", "private_rabbitmq310"])
def test_what_was_confirmed_survives_a_killed_broker(request: pytest.FixtureRequest, fixture: str) -> None:
    server: RabbitServer = request.getfixturevalue(fixture)
    url = server.url(server.create_vhost())
    configured = declare(url)
    server.flush_declarations()
    halfway = threading.Event()

    def kill() -> None:
        assert halfway.wait(WAIT_SECONDS)
        server.kill()

    killer = threading.Thread(target=kill)
    with sink(settings(url)) as publisher:
        killer.start()
        confirmed = _publish_until_it_fails(publisher, halfway)
        killer.join()
    server.start()

    assert confirmed > 500
    with source(configured) as consumer:
        assert drain(consumer, confirmed) == bodies(1, confirmed)


@pytest.mark.heavy
def test_a_frozen_broker_is_an_outage_and_close_does_not_wait_for_it(private_rabbitmq: RabbitServer) -> None:
    url = private_rabbitmq.url(private_rabbitmq.create_vhost())
    declare(url)
    with sink(settings(url, blocked_timeout_seconds=2.0)) as publisher:
        private_rabbitmq.pause()
        try:
            publisher.send(envelope(1))
            with pytest.raises(OutageError, match="confirms nothing for more than 2 s"):
                publisher.flush(WAIT_SECONDS)
            started = time.monotonic()
            publisher.close()
            assert time.monotonic() - started < 5
        finally:
            private_rabbitmq.unpause()


@pytest.mark.heavy
def test_a_frozen_broker_is_noticed_by_its_missing_heartbeats(private_rabbitmq: RabbitServer) -> None:
    url = private_rabbitmq.url(private_rabbitmq.create_vhost())
    declare(url)
    with sink(settings(url, heartbeat_seconds=1)) as publisher:
        private_rabbitmq.pause()
        try:
            with pytest.raises(OutageError, match="heartbeat"):
                # Nothing is under way, so nothing but the heartbeat can tell.
                wait_for(lambda: publisher.confirmed() > 0, WAIT_SECONDS, "the outage")
        finally:
            private_rabbitmq.unpause()


@pytest.mark.heavy
def test_a_blocked_publisher_is_an_outage_while_the_consumer_goes_on(private_rabbitmq: RabbitServer) -> None:
    url = private_rabbitmq.url(private_rabbitmq.create_vhost())
    configured = declare(url)
    publish(settings(url), 1, 2, 3)
    with sink(settings(url, blocked_timeout_seconds=2.0)) as publisher, source(configured) as consumer:
        private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.0001")
        publisher.send(envelope(4))
        with pytest.raises(OutageError, match=r"blocks publishers .*more than 2 s"):
            publisher.flush(WAIT_SECONDS)
        assert drain(consumer, 3) == bodies(1, 3)

    with sink(settings(url)) as publisher:
        publisher.send(envelope(5))
        started = time.monotonic()
        publisher.close()
        assert time.monotonic() - started < 5

    stop = threading.Event()
    patient = settings(url, blocked_timeout_seconds=600.0, window_messages=1)
    publisher = open_sink(patient, stop=stop)
    publisher.send(envelope(6))
    failures: list[str] = []

    def send_more() -> None:
        try:
            publisher.send(envelope(7))
        except OutageError as error:
            failures.append(str(error))

    waiting = threading.Thread(target=send_more, daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive(), "there is no room in the window, and the broker confirms nothing"
    stop.set()
    waiting.join(WAIT_SECONDS)
    assert not waiting.is_alive()
    assert "the node stops" in failures[0]
    with pytest.raises(OutageError):
        publisher.flush(600)
    publisher.close()

    private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.6")
    publish(settings(url), 8)


def test_printed_not_judged_small_messages_a_second(rabbitmq_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    configured = declare(rabbitmq_url)
    count = 10_000
    with sink(settings(rabbitmq_url)) as publisher:
        started = time.monotonic()
        for number in range(1, count + 1):
            publisher.send(envelope(number))
        publisher.flush(60)
        published = time.monotonic() - started
    with source(configured) as consumer:
        started = time.monotonic()
        drain(consumer, count)
        consumed = time.monotonic() - started
    with capsys.disabled():
        print(f"\npublished {count / published:,.0f}, consumed {count / consumed:,.0f} small messages a second")
