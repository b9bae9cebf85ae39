"""What the application writes while things break, and the journal that it keeps of it outside of everything.

Each transaction writes its number with it, in as many rows as it says it has, whose amounts come to nothing; moves
money between accounts of its node, whose sum is nothing at any time; and now and then writes a row that others write
too. So a reader sees at any moment whether something is there in part, and in the end whether anything is lost or
doubled."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
import sqlalchemy as sa

TABLES = ("entry", "account", "shared")
ACCOUNTS = 4
SHARED_ROWS = 5
SCHEMA = (
    "CREATE TABLE entry (id TEXT PRIMARY KEY, node TEXT NOT NULL, number INTEGER NOT NULL, parts INTEGER NOT NULL,"
    " amount INTEGER NOT NULL)",
    "CREATE TABLE account (id TEXT PRIMARY KEY, node TEXT NOT NULL, amount INTEGER NOT NULL)",
    "CREATE TABLE shared (id INTEGER PRIMARY KEY, node TEXT NOT NULL, number INTEGER NOT NULL)",
)
WITNESS = (
    # Sees what is applied as well, and counts each time: a row that comes twice is seen although an upsert hides it.
    "CREATE TABLE witness (id TEXT NOT NULL)",
    "CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN INSERT INTO witness VALUES (NEW.id); RETURN NULL; END $$",
    "CREATE TRIGGER witness AFTER INSERT OR UPDATE ON entry FOR EACH ROW EXECUTE FUNCTION witness()",
    "ALTER TABLE entry ENABLE ALWAYS TRIGGER witness",
)
HALVES = (
    "SELECT node, number FROM entry GROUP BY node, number HAVING count(*) <> min(parts) OR sum(amount) <> 0",
    # In their order the transactions of a node leave nothing. One that is late may come after others: then not yet.
    "SELECT node, sum(amount) FROM account"
    " WHERE node NOT IN (SELECT peer FROM rf_sync_state WHERE direction = 'in' AND highest_lsn > last_lsn)"
    " GROUP BY node HAVING sum(amount) <> 0",
)
"""What must find nothing at any moment."""

_PARTS = (1, 2, 3, 3, 4)
_MANY_PARTS = 150
"""More than fits one message of these nodes."""


@dataclass
class Journal:
    """What one node's application knows of its own transactions."""

    node: str
    tried: dict[int, int] = field(default_factory=dict)
    """How many rows of `entry` each transaction has, by number."""
    committed: set[int] = field(default_factory=set)
    """Those whose commit was answered. Of the others the database alone knows."""
    refused: set[int] = field(default_factory=set)
    """Those that surely never were committed."""

    @property
    def unsure(self) -> set[int]:
        """Those whose commit was asked for and not answered."""
        return self.tried.keys() - self.committed - self.refused


class NotTakenError(Exception):
    """The database did not take the transaction; `unsure`: or took it, and could not say so."""

    def __init__(self, unsure: bool, cause: Exception) -> None:
        super().__init__(str(cause))
        self.unsure = unsure


class Application(Protocol):
    """A connection of the application, made anew when it is lost. For one thread."""

    def run(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        """Run one transaction. Raises NotTakenError."""

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query. Raises NotTakenError."""

    def close(self) -> None:
        """Give back what is open."""


class SqliteApplication:
    """A connection for each transaction."""

    def __init__(self, path: str) -> None:
        self._path = path

    def run(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        at_commit = False
        try:
            with self._connection() as connection:
                connection.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    connection.execute(statement, values)
                at_commit = True
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise NotTakenError(at_commit, error) from error

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            with self._connection() as connection:
                return connection.execute(statement).fetchall()
        except sqlite3.Error as error:
            raise NotTakenError(False, error) from error

    def close(self) -> None:
        """Nothing stays open."""

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, isolation_level=None, timeout=2)) as connection:
            yield connection


class PostgresApplication:
    """One connection, until it fails."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def run(self, statements: Sequence[tuple[str, tuple[Any, ...]]]) -> None:
        at_commit = False
        try:
            connection = self._opened()
            for statement, values in statements:
                connection.execute(statement.replace("?", "%s").encode(), values)
            at_commit = True
            connection.commit()
        except psycopg.Error as error:
            self.close()
            raise NotTakenError(at_commit, error) from error

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        try:
            connection = self._opened()
            found = connection.execute(statement.encode()).fetchall()
            connection.rollback()
        except psycopg.Error as error:
            self.close()
            raise NotTakenError(False, error) from error
        return found

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _opened(self) -> psycopg.Connection[tuple[Any, ...]]:
        if self._connection is None:
            options = "-c lock_timeout=2s -c statement_timeout=20s"
            self._connection = psycopg.connect(self._dsn, connect_timeout=3, options=options)
        return self._connection


def application(url: str) -> Application:
    """Return a connection to the database behind an SQLAlchemy URL."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return SqliteApplication(str(parsed.database))
    return PostgresApplication(parsed.set(drivername="postgresql").render_as_string(hide_password=False))


class Author(threading.Thread):
    """Writes until it is stopped; what the database refuses is written down and left."""

    def __init__(self, node: str, url: str, journal: Journal, seed: int, a_second: float) -> None:
        super().__init__(name=f"author-{node}", daemon=True)
        self._node = node
        self._application = application(url)
        self._journal = journal
        self._dice = random.Random(seed)
        self._pause_seconds = 1 / a_second
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.wait(self._dice.uniform(0.5, 1.5) * self._pause_seconds):
            self.write(_MANY_PARTS if self._dice.random() < 0.02 else self._dice.choice(_PARTS))
        self._application.close()

    def write(self, parts: int) -> bool:
        """Write one transaction; False when the database did not say that it has it."""
        journal, number = self._journal, len(self._journal.tried) + 1
        journal.tried[number] = parts
        try:
            self._application.run(list(self._statements(number, parts)))
        except NotTakenError as error:
            if not error.unsure:
                journal.refused.add(number)
            return False
        journal.committed.add(number)
        return True

    def close(self) -> None:
        """Give back what is open, where it was never started."""
        self._application.close()

    def stop(self) -> None:
        """End."""
        self._stop_asked.set()
        self.join(60)
        assert not self.is_alive(), f"{self.name} hangs"

    def _statements(self, number: int, parts: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
        node, amounts = self._node, [self._dice.randint(-50, 50) for _ in range(parts - 1)]
        for part, amount in enumerate([*amounts, -sum(amounts)]):
            yield (
                "INSERT INTO entry (id, node, number, parts, amount) VALUES (?, ?, ?, ?, ?)",
                (f"{node}-{number}-{part}", node, number, parts, amount),
            )
        moved = self._dice.randint(1, 99)
        for account, amount in zip(sorted(self._dice.sample(range(ACCOUNTS), 2)), (moved, -moved), strict=True):
            yield (
                "INSERT INTO account (id, node, amount) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET amount = account.amount + excluded.amount",
                (f"{node}-{account}", node, amount),
            )
        if self._dice.random() < 0.3:
            yield (
                "INSERT INTO shared (id, node, number) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET node = excluded.node, number = excluded.number",
                (self._dice.randint(1, SHARED_ROWS), node, number),
            )


class Watcher(threading.Thread):
    """Reads a node's tables all the time, and keeps what it saw in part."""

    def __init__(self, node: str, url: str) -> None:
        super().__init__(name=f"watcher-{node}", daemon=True)
        self._node = node
        self._application = application(url)
        self._stop_asked = threading.Event()
        self.seen: list[str] = []
        self.looks = 0

    def run(self) -> None:
        while not self._stop_asked.wait(0.1):
            self._look()
        self._application.close()

    def stop(self) -> None:
        """End."""
        self._stop_asked.set()
        self.join(60)

    def _look(self) -> None:
        try:
            for query in HALVES:
                self.seen += [f"{self._node} showed a part of {found}" for found in self._application.query(query)]
        except NotTakenError:
            # The database is away or locked: that is what is tried here.
            return
        self.looks += 1
