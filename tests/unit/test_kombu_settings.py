"""kombu URLs, what is known of each transport, and what goes wrong when one is opened."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from common.errors import ConfigError, OutageError, PoisonError, Reason
from common.transports.kombu_broker import KombuSettings, KombuSink, KombuSource, features_for
from common.transports.kombu_broker.connecting import outages, shown
from tests.contract.sink_source import collect, plain, send_all, single

# kombu's own models use a loader that SQLAlchemy 2.1 calls deprecated; nothing of ours depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("memory://", "kombu memory"),
        ("filesystem:///srv/exchange", "kombu filesystem"),
        ("sqla+sqlite:///broker.db", "kombu SQLAlchemy"),
        ("sqla+postgresql+psycopg://host/db", "kombu SQLAlchemy"),
        ("rediss://host:6379/0", "kombu Redis"),
        ("pyamqp://host", "kombu AMQP"),
        ("sqs://", "kombu, any other"),
    ],
)
def test_features_by_url(url: str, name: str) -> None:
    assert features_for(url).name == name


def test_an_unknown_transport_promises_nothing() -> None:
    features = features_for("carrier-pigeon://loft")
    promises = (features.durable, features.ordered, features.confirms, features.redelivers)
    assert not any(promises)


@pytest.mark.parametrize("url", ["carrier-pigeon://loft", "no-scheme", "filesystem://", "zookeeper://host"])
def test_a_url_that_can_t_be_used_names_the_setting(url: str) -> None:
    """The library for zookeeper is not installed here."""
    with pytest.raises(ConfigError, match=r"broker\.url"):
        KombuSink(KombuSettings(url, "a"))


def test_secrets_are_not_shown() -> None:
    settings = KombuSettings("redis://user:secret@host:6379/0?password=secret", "a")
    assert "secret" not in repr(settings)
    assert shown(settings.url) == "redis://host:6379/0"


def test_a_folder_that_is_not_mounted_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(OutageError, match="mount the share"):
        KombuSource(KombuSettings(f"filesystem://{tmp_path}/share", "a"))


def test_a_folder_on_a_full_disk_is_told_with_what_helps(tmp_path: Path) -> None:
    url = f"filesystem://{tmp_path}"
    with pytest.raises(OutageError, match="free space there"), outages(url, "publishing to"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(OutageError, match="mount it for writing"), outages(url, "publishing to"):
        raise OperationalError("can't lock") from OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_broker_that_is_away_is_an_outage(tmp_path: Path) -> None:
    with pytest.raises(OutageError, match="check that the broker runs"):
        KombuSource(KombuSettings(f"sqla+sqlite:///{tmp_path}/missing/broker.db", "a"))


@pytest.fixture(params=["filesystem", "sqla+sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"filesystem://{tmp_path}" if request.param == "filesystem" else f"sqla+sqlite:///{tmp_path}/broker.db"


def test_without_any_queue_sending_is_an_outage_and_not_a_loss(url: str) -> None:
    sink = KombuSink(KombuSettings(url, "a"))
    with pytest.raises(OutageError, match="start the receiving nodes"):
        sink.send(single("a", 1))
    assert sink.confirmed() == 0
    with pytest.raises(OutageError, match="open a new one"):
        sink.send(single("a", 1))


def test_channels_are_apart_and_listen_chooses_peers(url: str) -> None:
    wanted = KombuSource(KombuSettings(url, "b", listen=("a",)))
    elsewhere = KombuSource(KombuSettings(url, "c", channel="other"))
    everybody = KombuSource(KombuSettings(url, "d"))
    sent = single("a", 1)
    for node in ("z", "a"):
        sink = KombuSink(KombuSettings(url, node))
        send_all(sink, single(node, 1))
        sink.close()
    assert [plain(one) for one in collect(wanted, len(sent.body))] == [sent.body]
    assert wanted.receive(10, 0.2) == elsewhere.receive(10, 0.2) == []
    collect(everybody, 2 * len(sent.body))
    for source in (wanted, elsewhere, everybody):
        source.close()


def test_a_sink_for_one_node_reaches_that_node_alone(url: str) -> None:
    asker, other = (KombuSource(KombuSettings(url, node)) for node in ("b", "c"))
    sink = KombuSink(KombuSettings(url, "a"), to_node="b")
    sent = single("a", 1)
    send_all(sink, sent)
    assert [plain(one) for one in collect(asker, len(sent.body))] == [sent.body]
    assert other.receive(10, 0.2) == []
    for one in (asker, other, sink):
        one.close()


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_compressed_messages_say_so(url: str, compression: str) -> None:
    source = KombuSource(KombuSettings(url, "b"))
    sink = KombuSink(KombuSettings(url, "a", compression="gzip" if compression == "gzip" else "zstd"))
    sent = single("a", 1, size=5000)
    send_all(sink, sent)
    (got,) = collect(source, len(sent.body))
    assert got.content_encoding == compression
    assert len(got.body) < len(sent.body) / 4
    assert got.headers["from_lsn"] == 1
    source.close()
    sink.close()


def test_the_limit_counts_what_travels(url: str) -> None:
    source = KombuSource(KombuSettings(url, "b"))
    sink = KombuSink(KombuSettings(url, "a", max_message_bytes=3000, compression="gzip"))
    send_all(sink, single("a", 1, size=5000))
    plain_sink = KombuSink(KombuSettings(url, "a", max_message_bytes=3000))
    with pytest.raises(PoisonError) as raised:
        plain_sink.send(single("a", 2, size=5000))
    assert raised.value.reason is Reason.LIMIT
    for one in (source, sink, plain_sink):
        one.close()


def test_attempts_are_counted(url: str) -> None:
    source, sink = KombuSource(KombuSettings(url, "b")), KombuSink(KombuSettings(url, "a"))
    sent = single("a", 1)
    send_all(sink, sent)
    for attempts in (0, 1, 2):
        got = collect(source, len(sent.body))
        assert [(one.attempts, one.redelivered) for one in got] == [(attempts, attempts > 0)]
        source.give_back(got, failed=True)
    source.close()
    sink.close()


def test_a_damaged_message_is_set_aside_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = f"filesystem://{tmp_path}"
    source, sink = KombuSource(KombuSettings(url, "b")), KombuSink(KombuSettings(url, "a"))
    send_all(sink, single("a", 1), single("a", 2))
    first = min((tmp_path / "messages").iterdir())
    first.write_bytes(first.read_bytes()[:50])
    with caplog.at_level(logging.ERROR):
        (got,) = source.receive(10, 0.2)
    assert plain(got) == single("a", 2).body
    assert "kombu.message-broken" in caplog.text
    assert len(list(tmp_path.rglob("*.broken"))) == 1
    source.close()
    sink.close()


def test_what_was_acknowledged_leaves_nothing_behind(tmp_path: Path) -> None:
    url = f"filesystem://{tmp_path}"
    source, sink = KombuSource(KombuSettings(url, "b")), KombuSink(KombuSettings(url, "a"))
    sent = [single("a", lsn) for lsn in range(1, 6)]
    send_all(sink, *sent)
    source.ack(collect(source, sum(len(one.body) for one in sent)))
    assert list(tmp_path.rglob("*.msg")) == []
    source.close()
    sink.close()
