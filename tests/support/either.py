"""Databases of either kind, for what has to hold between them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.applying import sqlite_url

KINDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.containers))


def either_url(request: pytest.FixtureRequest, folder: Path, name: str) -> str:
    """Return an empty database of the kind that the fixture's parameter names; `name`: of a file."""
    if request.param == "sqlite":
        return sqlite_url(folder, name)
    factory = request.getfixturevalue("pg_database_factory")
    return str(factory(request.getfixturevalue("postgres_server")))
