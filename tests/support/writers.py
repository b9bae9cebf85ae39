"""Whole nodes whose application writes at random under a wrong clock, and a network that delivers as it likes."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa

from common.ports.dialect import RowState
from common.wire.encode import encode_tx
from tests.support.applying import SCHEMA, TABLES, World, application, close_world, open_world, sqlite_url

KEYS = range(1, 5)
_SECONDS_A_DAY = 86_400


def writer_node(url: str, node_id: str, role: str = "branch", **sections: Any) -> World:
    """Return a migrated node named `node_id` on an empty database."""
    return open_world(url, SCHEMA, node={"id": node_id, "database": url, "role": role}, **sections)


@contextmanager
def nodes_of_both_kinds(folder: Path, pg_url: str, **sections: Any) -> Iterator[list[World]]:
    """Two nodes on SQLite, `a` and `b`, and `c` on PostgreSQL."""
    urls = {"a": sqlite_url(folder, "a.db"), "b": sqlite_url(folder, "b.db"), "c": pg_url}
    made = [writer_node(url, node_id, **sections) for node_id, url in urls.items()]
    yield made
    for world in made:
        close_world(world)


@dataclass
class Writer:
    """One node, its application's clock, and what of its log has gone out."""

    world: World
    dice: random.Random
    skew_seconds: float
    sent: int = 0
    made: int = 0

    @property
    def node_id(self) -> str:
        return self.world.node.facts.node_id

    def write(
        self,
        statements: Callable[[random.Random, str], list[str]],
        look: Callable[[sa.Connection], None] = lambda _: None,
    ) -> bool:
        """Run some random statements in one transaction of the application; False where it refused them.

        `look` sees the transaction before the first and after the last of them."""
        self.made += 1
        chosen = statements(self.dice, f"{self.node_id}{self.made}")
        try:
            with self._application() as connection:
                look(connection)
                for statement in chosen:
                    connection.exec_driver_sql(statement)
                look(connection)
        except sa.exc.IntegrityError:
            return False
        return True

    def new_bodies(self) -> list[bytes]:
        """Seal, and return the batches that have not been returned before; some of them in parts."""
        database, facts = self.world.node.database, self.world.node.facts
        sealer = database.sealer(facts)
        while sealer.seal().more:
            pass
        bodies = []
        log = database.log(facts)
        for tx in log.read(self.sent, 10**9):
            bodies += [part.body for part in encode_tx(tx, self.dice.choice([1500, 10**6]))]
        self.sent = log.head().lsn
        return bodies

    @contextmanager
    def _application(self) -> Iterator[sa.Connection]:
        with application(self.world.node.database.engine.url) as connection:
            if connection.dialect.name == "sqlite":
                self._set_clock(cast(sqlite3.Connection, connection.connection.driver_connection))
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")
            yield connection
            if connection.dialect.name == "postgresql":
                shift = f"captured_at + interval '{self.skew_seconds} seconds'"
                mine = "xid = pg_current_xact_id()"
                connection.exec_driver_sql(f"UPDATE rf_change_log SET captured_at = {shift} WHERE {mine}")

    def _set_clock(self, raw: sqlite3.Connection) -> None:
        """Let this connection's triggers see another time."""
        plain = sqlite3.connect(":memory:")

        def julian_day(_: str) -> float:
            return float(plain.execute("SELECT julianday('now')").fetchone()[0]) + self.skew_seconds / _SECONDS_A_DAY

        raw.create_function("julianday", 1, julian_day)


@dataclass
class Network:
    """What is on its way to each node."""

    writers: list[Writer]
    dice: random.Random
    waiting: dict[str, list[bytes]] = field(default_factory=dict)

    def send(self) -> None:
        """Take what every node has sealed, for all the others."""
        for writer in self.writers:
            bodies = writer.new_bodies()
            for other in self.writers:
                if other is not writer:
                    self.waiting.setdefault(other.node_id, []).extend(bodies)

    def deliver(self, share: float) -> None:
        """Give each node about that share of what waits, in any order, some of it twice, in messages of any size."""
        for writer in self.writers:
            waiting = self.waiting.get(writer.node_id, [])
            self.dice.shuffle(waiting)
            count = len(waiting) if share >= 1 else int(len(waiting) * share)
            now, self.waiting[writer.node_id] = waiting[:count], waiting[count:]
            again = self.dice.sample(now, len(now) // 3)
            if share < 1:
                self.waiting[writer.node_id] += again
            bodies = self.dice.sample([*now, *again], len(now) + len(again))
            while bodies:
                some = self.dice.randint(1, 6)
                writer.world.receive(b"".join(bodies[:some]))
                bodies = bodies[some:]


def row_states(world: World, table: str) -> list[tuple[Any, ...]]:
    """Return version and tombstone of each key."""
    shape = world.node.captured_tables()[table]
    with world.node.database.apply_session() as session:
        states = session.lock(shape, TABLES[table], [b'{"id":%d}' % key for key in KEYS])
    return [_known(state) for state in states]


def _known(state: RowState) -> tuple[Any, ...]:
    return state.version, state.deleted
