"""The dialect contract on SQLite, on real files, the application on a plain sqlite3 connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.dialects import open_database
from common.ports.dialect import Database
from common.schema.migrate import upgrade
from tests.contract.dialect import SCHEMA, DialectContract
from tests.contract.guards import GuardContract, KeyContract
from tests.contract.pausing import PauseContract
from tests.contract.row_history import RowHistoryContract
from tests.contract.standing import StandingContract


class SqliteCase:
    """Databases in a folder; the application has foreign keys on, as most do."""

    NUMBERED = "CREATE TABLE sale (id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT)"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._databases: list[Database] = []

    def fresh(self, schema: Sequence[str] = SCHEMA) -> Database:
        path = self._folder / f"{len(self._databases)}.db"
        with closing(sqlite3.connect(path)) as connection, connection:
            for statement in schema:
                connection.execute(statement)
        database = open_database(f"sqlite:///{path}")
        self._databases.append(database)
        upgrade(database.engine)
        return database

    def execute(self, database: Database, *statements: str) -> None:
        with closing(self._connect(database)) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def query(self, database: Database, sql: str) -> list[tuple[Any, ...]]:
        with closing(self._connect(database)) as connection:
            return connection.execute(sql).fetchall()

    def close(self) -> None:
        for database in self._databases:
            database.close()

    def _connect(self, database: Database) -> sqlite3.Connection:
        connection = sqlite3.connect(str(database.engine.url.database))
        connection.execute("PRAGMA foreign_keys = ON")
        return connection


@pytest.fixture
def case(tmp_path: Path) -> Iterator[SqliteCase]:
    case = SqliteCase(tmp_path)
    yield case
    case.close()


class TestSqliteDialect(
    DialectContract, PauseContract, GuardContract, KeyContract, RowHistoryContract, StandingContract
):
    """The suite, and nothing left out."""
