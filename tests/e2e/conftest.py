"""What whole runs share: nodes that end with their test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, MakeNode


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[MakeNode]:
    """Make nodes, each in a folder of its own; what still runs in them ends with the test."""
    made: list[CliNode] = []

    def make(node_id: str, database: str, *options: str) -> CliNode:
        made.append(CliNode.init(node_id, tmp_path / node_id, database, *options))
        return made[-1]

    yield make
    for node in made:
        node.close()
