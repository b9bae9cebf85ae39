"""What many integration tests begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.applying import DATABASES, World, world_on


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A migrated node on SQLite, and the same on PostgreSQL."""
    with world_on(request, tmp_path) as made:
        yield made
