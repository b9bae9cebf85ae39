"""Brokers that kombu drives behind the sink and source ports."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kombu.transport import memory

from common.transports.kombu_broker import KombuSettings, KombuSink, KombuSource, features_for
from tests.contract.sink_source import SinkSourceContract, TransportCase

# kombu's own models use a loader that SQLAlchemy 2.1 calls deprecated; nothing of ours depends on it.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader:sqlalchemy.exc.SADeprecationWarning")

MAX_MESSAGE_BYTES = 64 * 1024


def settings(url: str, node_id: str, **changes: Any) -> KombuSettings:
    return KombuSettings(url, node_id, **{"max_message_bytes": MAX_MESSAGE_BYTES, **changes})


@pytest.fixture
def _fresh_memory() -> Iterator[None]:
    """kombu's memory transport keeps queues and bindings for the whole process."""
    yield
    memory.Transport.global_state.clear()
    memory.Channel.queues.clear()


@pytest.fixture(params=["memory", "filesystem", "sqla+sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path, _fresh_memory: None) -> str:
    if request.param == "sqla+sqlite":
        return f"sqla+sqlite:///{tmp_path}/broker.db"
    return "memory://" if request.param == "memory" else f"filesystem://{tmp_path}"


@pytest.fixture
def case(url: str) -> Iterator[TransportCase]:
    made = TransportCase(
        replace(features_for(url), max_message_bytes=MAX_MESSAGE_BYTES),
        make_sink=lambda node: KombuSink(settings(url, node)),
        make_source=lambda node: KombuSource(settings(url, node)),
    )
    yield made
    made.close()


@pytest.fixture
def amqp_case(rabbitmq_url: str) -> Iterator[TransportCase]:
    url = rabbitmq_url.replace("amqp://", "pyamqp://")
    made = TransportCase(
        replace(features_for(url), max_message_bytes=MAX_MESSAGE_BYTES),
        make_sink=lambda node: KombuSink(settings(url, node)),
        make_source=lambda node: KombuSource(settings(url, node)),
    )
    yield made
    made.close()


class TestKombu(SinkSourceContract):
    """The whole suite on each transport that needs no server."""


@pytest.mark.containers
class TestKombuAMQP(SinkSourceContract):
    """The whole suite on an AMQP broker."""

    @pytest.fixture
    def case(self, amqp_case: TransportCase) -> TransportCase:
        return amqp_case
