"""What the application writes: W1 (single rows), W2 (transactions of 100 rows), W3 (pgbench)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import psycopg

from tests.bench.cluster import Cluster
from tests.bench.pair import MARK_DDL, Side
from tests.bench.plan import START_ROWS, plan

ITEMS = "items"
_ITEMS_DDL = f"""CREATE TABLE {ITEMS} (
    id bigint PRIMARY KEY, name text NOT NULL, amount integer NOT NULL, price numeric(12, 2) NOT NULL,
    note text, changed_at timestamptz NOT NULL)"""
_NOTE = "CASE WHEN mod(i, 3) = 0 THEN NULL ELSE repeat('n', mod(i, 40)::int) END"
_ROW = f"'item ' || i, mod(i, 1000)::int, i / 100.0, {_NOTE}"


class Workload(Protocol):
    """One load, the same at each call of `write` on a fresh copy of its template."""

    @property
    def name(self) -> str: ...

    @property
    def tables(self) -> tuple[str, ...]: ...

    @property
    def rows(self) -> int:
        """How many row changes `write` commits."""

    @property
    def template(self) -> str:
        """The name of the database that holds its tables before the first write."""

    def prepare(self, cluster: Cluster) -> None:
        """Make the template."""

    def write(self, source: Side) -> None:
        """Write as the application would."""


@dataclass(frozen=True, slots=True)
class Items:
    """`txs` transactions of `rows_each` rows of one table: 60 % inserts, 30 % updates, 10 % deletes.

    Commits don't wait for the disk (`synchronous_commit = off`): else most of the time would be waiting, and hide what
    a trigger costs."""

    name: str
    txs: int
    rows_each: int

    @property
    def tables(self) -> tuple[str, ...]:
        return (ITEMS,)

    @property
    def rows(self) -> int:
        return self.txs * self.rows_each

    @property
    def template(self) -> str:
        return "template_items"

    def prepare(self, cluster: Cluster) -> None:
        cluster.execute(f"CREATE DATABASE {self.template}")
        fill = f"INSERT INTO {ITEMS} SELECT i, {_ROW}, '2026-01-01' FROM generate_series(1, {START_ROWS}) AS i"
        cluster.execute(_ITEMS_DDL, MARK_DDL, fill, f"VACUUM ANALYZE {ITEMS}", database=self.template)

    def write(self, source: Side) -> None:
        with psycopg.connect(source.dsn, autocommit=True, prepare_threshold=0) as connection:
            connection.execute("SET synchronous_commit = off")
            for statements in plan(self.name, self.txs, self.rows_each):
                if len(statements) == 1:
                    self._run(connection, *statements[0])
                    continue
                with connection.transaction():
                    for op, keys in statements:
                        self._run(connection, op, keys)

    def _run(self, connection: psycopg.Connection[tuple[object, ...]], op: str, keys: list[int]) -> None:
        connection.execute(_STATEMENTS[op], (keys,))


_KEYS = "unnest(%s::bigint[]) AS i"
_STATEMENTS = {
    "I": f"INSERT INTO {ITEMS} SELECT i, {_ROW}, now() FROM {_KEYS}",
    "U": f"UPDATE {ITEMS} SET amount = amount + 1, price = price * 1.01, changed_at = now() WHERE id = ANY (%s)",
    "D": f"DELETE FROM {ITEMS} WHERE id = ANY (%s)",
}


@dataclass(frozen=True, slots=True)
class Pgbench:
    """pgbench's own transaction, four rows each, four clients; commits wait for the disk."""

    name: str
    txs: int
    scale: int = 4
    clients: int = 4

    @property
    def tables(self) -> tuple[str, ...]:
        return ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")

    @property
    def rows(self) -> int:
        return self.txs // self.clients * self.clients * 4

    @property
    def template(self) -> str:
        return "template_pgbench"

    def prepare(self, cluster: Cluster) -> None:
        cluster.execute(f"CREATE DATABASE {self.template}")
        cluster.pgbench(self.template, ("--initialize", "--quiet", "--scale", str(self.scale)))
        key = "ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY"
        cluster.execute(key, MARK_DDL, "VACUUM ANALYZE", database=self.template)

    def write(self, source: Side) -> None:
        each, clients = str(self.txs // self.clients), str(self.clients)
        options = ("--no-vacuum", "--client", clients, "--jobs", "2", "--random-seed", "1", "--transactions", each)
        source.cluster.pgbench(source.database, options)
