"""The dialect contract on PostgreSQL, the application on a plain psycopg connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
import pytest

from common.dialects import open_database
from common.ports.dialect import Database
from common.schema.migrate import upgrade
from tests.contract.dialect import SCHEMA, DialectContract
from tests.contract.guards import GuardContract, KeyContract
from tests.contract.pausing import PauseContract
from tests.contract.row_history import RowHistoryContract
from tests.contract.standing import StandingContract
from tests.fixtures.containers import DatabaseFactory

pytestmark = pytest.mark.containers


class PostgresCase:
    """Databases on the shared cluster."""

    NUMBERED = "CREATE TABLE sale (id serial PRIMARY KEY, what text)"

    def __init__(self, new_url: Callable[[], str]) -> None:
        self._new_url = new_url
        self._databases: list[Database] = []

    def fresh(self, schema: Sequence[str] = SCHEMA) -> Database:
        database = open_database(self._new_url())
        self._databases.append(database)
        self.execute(database, *schema)
        upgrade(database.engine)
        return database

    def execute(self, database: Database, *statements: str) -> None:
        with self._connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def query(self, database: Database, sql: str) -> list[tuple[Any, ...]]:
        with self._connect(database) as connection:
            return connection.execute(sql.encode()).fetchall()

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def _connect(self, database: Database) -> psycopg.Connection[tuple[Any, ...]]:
        url = database.engine.url.set(drivername="postgresql")
        return psycopg.connect(url.render_as_string(hide_password=False))


@pytest.fixture(params=["postgres_server", "postgres_server_b"], ids=["oldest", "newest"])
def case(request: pytest.FixtureRequest, pg_database_factory: DatabaseFactory) -> Iterator[PostgresCase]:
    server = request.getfixturevalue(request.param)
    case = PostgresCase(lambda: pg_database_factory(server))
    yield case
    case.close()


class TestPostgresDialect(
    DialectContract, PauseContract, GuardContract, KeyContract, RowHistoryContract, StandingContract
):
    """The suite, and nothing left out."""
