"""What many integration tests begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.applying import DATABASES, World, close_world, open_world, world_on


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A migrated node on SQLite, and the same on PostgreSQL."""
    with world_on(request, tmp_path) as made:
        yield made


@pytest.fixture(params=DATABASES)
def by_hand(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The same, where installing capture is left to the operator."""
    with world_on(request, tmp_path, node={"auto_migrate": False}) as made:
        yield made


@pytest.fixture
def pg_world(pg_database: str) -> Iterator[World]:
    """A migrated node on PostgreSQL alone."""
    made = open_world(pg_database)
    try:
        yield made
    finally:
        close_world(made)
