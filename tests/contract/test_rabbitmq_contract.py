"""RabbitMQ behind the sink and source ports, on each version that is supported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from common.transports.rabbitmq import open_sink, open_source
from common.transports.rabbitmq.messages import features
from tests.contract.sink_source import SinkSourceContract, TransportCase
from tests.support.rabbitmq import settings


@pytest.fixture(params=["rabbitmq_url", "rabbitmq310_url"])
def case(request: pytest.FixtureRequest) -> Iterator[TransportCase]:
    url = str(request.getfixturevalue(request.param))
    made = TransportCase(
        features(settings(url)),
        make_sink=lambda node: open_sink(settings(url, node)),
        make_source=lambda node: open_source(settings(url, node)),
    )
    yield made
    made.close()


@pytest.mark.containers
class TestRabbit(SinkSourceContract):
    """The whole suite."""
