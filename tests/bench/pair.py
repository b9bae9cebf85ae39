"""A source and a target database with the same tables, for one measurement."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.bench.cluster import Cluster
from tests.support.waiting import wait_for

MARK = "bench_mark"
MARK_DDL = f"CREATE TABLE {MARK} (id bigint PRIMARY KEY)"
_POLL_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Side:
    """One database."""

    cluster: Cluster
    database: str

    @property
    def dsn(self) -> str:
        return self.cluster.dsn(self.database)

    @property
    def url(self) -> str:
        return self.cluster.url(self.database)

    def execute(self, *statements: str) -> None:
        self.cluster.execute(*statements, database=self.database)

    def one(self, query: str) -> object:
        """The first column of the first row."""
        with psycopg.connect(self.dsn) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row[0] if row else None

    def digests(self, tables: tuple[str, ...]) -> dict[str, object]:
        """The number of rows of each table and a digest over all of them."""
        query = "SELECT count(*) || ' rows, ' || coalesce(md5(string_agg(r, '' ORDER BY r)), '-') FROM "
        return {table: self.one(f"{query} (SELECT md5(t::text) AS r FROM {table} AS t) AS rows") for table in tables}


@dataclass(frozen=True, slots=True)
class Pair:
    """Both sides, `Ends` of a measurement; `tables` are replicated from source to target, MARK among them."""

    source: Side
    target: Side
    tables: tuple[str, ...]
    folder: Path

    def servers(self) -> dict[str, tuple[int, ...]]:
        """The servers' processes by role, as far as they are on this machine."""
        sides = {"source PostgreSQL": self.source, "target PostgreSQL": self.target}
        known = {role: side.cluster.postmaster for role, side in sides.items()}
        return {role: (pid,) for role, pid in known.items() if pid is not None}

    def settle(self) -> None:
        """Let no checkpoint of what came before fall into a measurement."""
        for side in (self.source, self.target):
            side.execute("CHECKPOINT")

    def between_writes(self) -> AbstractContextManager[None]:
        """Nothing to wait for: what a node holds while it seals or applies keeps no application's write waiting."""
        return nullcontext()

    def mark(self, number: int) -> None:
        self.source.execute(f"INSERT INTO {MARK} VALUES ({number})")

    def wait_for_mark(self, number: int, timeout_seconds: float) -> None:
        """Ask the target all the time. Every system here applies in the order of the source's commits."""
        query = f"SELECT count(*) FROM {MARK} WHERE id = {number}".encode()
        with psycopg.connect(self.target.dsn, autocommit=True) as connection:

            def there() -> bool:
                row = connection.execute(query).fetchone()
                return row is not None and row[0] == 1

            wait_for(there, timeout_seconds, f"mark {number} at the target", longest_pause_seconds=_POLL_SECONDS)

    def differences(self) -> list[str]:
        source, target = self.source.digests(self.tables), self.target.digests(self.tables)
        return [
            f"{name}: {source[name]} against {target[name]}" for name in self.tables if source[name] != target[name]
        ]


@dataclass(frozen=True, slots=True)
class Hosts:
    """The two servers."""

    source: Cluster
    target: Cluster

    @contextmanager
    def pair(self, template: str, tables: tuple[str, ...], folder: Path) -> Iterator[Pair]:
        """Copy a prepared database on both servers, and drop both copies in the end."""
        folder.mkdir(parents=True)
        pair = Pair(Side(self.source, "bench_source"), Side(self.target, "bench_target"), (*tables, MARK), folder)
        for side in (pair.source, pair.target):
            side.cluster.execute(f"CREATE DATABASE {side.database} TEMPLATE {template}")
        try:
            yield pair
        finally:
            for side in (pair.source, pair.target):
                side.cluster.execute(f"DROP DATABASE {side.database} WITH (FORCE)")
