"""A real PostgreSQL for the tests."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from typing import Any

from tests.support.container_engine import ContainerSpec
from tests.support.container_server import PASSWORD, USER, Server

_IN_MEMORY = "/var/lib/rowferry-test"


def shared_postgres_spec(kind: str, *, newest: bool = False) -> ContainerSpec:
    """Return a server that nobody kills: its files are in memory, since making and dropping a thousand databases waits
    for the disk most of the time. What asks for durability has a server of its own."""
    spec = postgres_spec(kind, newest=newest)
    place = ("PGDATA", f"{_IN_MEMORY}/data")
    return replace(spec, environment=(*spec.environment, place), tmpfs=((_IN_MEMORY, "size=4g"),))


def postgres_spec(kind: str, *, newest: bool = False) -> ContainerSpec:
    setting, official = ("NEW_POSTGRES", "postgres:18") if newest else ("POSTGRES", "postgres:15")
    return ContainerSpec(
        kind=kind,
        image=os.environ.get(f"ROWFERRY_TEST_{setting}_IMAGE", official),
        ports=(5432,),
        environment=(
            ("POSTGRES_USER", USER),
            ("POSTGRES_PASSWORD", PASSWORD),
            ("POSTGRES_DB", "postgres"),
            ("POSTGRES_INITDB_ARGS", "--encoding=UTF8 --locale=C.UTF-8"),
        ),
        # fsync stays on: tests that kill the server ask what it kept.
        command=("postgres", "-c", "max_connections=200", "-c", "shared_buffers=256MB"),
        shm_size="256m",
    )


class PostgresServer(Server):
    """A PostgreSQL cluster with a superuser account."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._made: set[str] = set()

    user = USER
    password = PASSWORD

    def url(self, dbname: str = "postgres") -> str:
        """SQLAlchemy URL of a database of this cluster."""
        return f"postgresql+psycopg://{USER}:{PASSWORD}@{self.host}:{self.port}/{dbname}"

    def dsn(self, dbname: str = "postgres") -> str:
        """The same place for psycopg itself."""
        return f"postgresql://{USER}:{PASSWORD}@{self.host}:{self.port}/{dbname}"

    def _execute(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.dsn(), autocommit=True, connect_timeout=10) as connection:
            connection.execute(statement.encode())

    def _is_ready(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def create_database(self) -> str:
        """Make a fresh database and return its URL; dropped by `drop_database`, else when the server's fixture ends."""
        name = f"test_{uuid.uuid4().hex[:16]}"
        self._execute(f'CREATE DATABASE "{name}"')
        self._made.add(name)
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop the database of this URL, ending the connections that a test left open."""
        name = url.rpartition("/")[2]
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        self._made.discard(name)

    def clean_up(self) -> None:
        for name in sorted(self._made):
            self.drop_database(self.url(name))
