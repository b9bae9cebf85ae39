"""What many integration tests begin with."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.dialects import open_database
from common.ports.dialect import Database
from common.schema.migrate import upgrade
from tests.support.applying import DATABASES, World, close_world, open_world, seal_all, world_on
from tests.support.either import KINDS, either_url
from tests.support.table_plans import Fresh


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


@pytest.fixture(params=DATABASES)
def sender(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A node whose log goes into a folder; three txs are sealed, and the clock is the machine's."""
    with world_on(request, tmp_path, directory={"path": str(tmp_path)}) as made:
        made.clock.us = time.time_ns() // 1000
        for number in range(1, 4):
            made.execute(f"INSERT INTO item VALUES ({number}, 'x', 1)")
            seal_all(made)
        yield made


@pytest.fixture(params=KINDS)
def main_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of either kind."""
    return either_url(request, tmp_path, "main.db")


@pytest.fixture(params=KINDS)
def shop_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Another one, so that all four pairs of kinds come."""
    return either_url(request, tmp_path, "shop.db")


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """Callable that returns an empty database of a kind."""
    opened: list[Database] = []

    def one(kind: str) -> Database:
        url = f"sqlite:///{tmp_path / f'{len(opened)}.db'}"
        if kind == "postgresql":
            url = request.getfixturevalue("pg_database_factory")()
        opened.append(open_database(url))
        upgrade(opened[-1].engine)
        return opened[-1]

    yield one
    for database in opened:
        database.close()
