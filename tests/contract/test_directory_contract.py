"""The shared folder behind the sink and source ports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.transports.directory import FEATURES, DirectorySink, DirectorySource
from common.wire.compress import Encoding
from tests.contract.sink_source import SinkSourceContract, TransportCase


@pytest.fixture(params=[None, "gzip", "zstd"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TransportCase]:
    compression: Encoding | None = request.param
    made = TransportCase(
        FEATURES,
        make_sink=lambda node: DirectorySink(tmp_path, node, compression=compression),
        make_source=lambda node: DirectorySource(tmp_path, node, passed=made.passed),
    )
    yield made
    made.close()


class TestDirectory(SinkSourceContract):
    """The whole suite, plain and compressed."""
