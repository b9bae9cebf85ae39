"""What a running node sends again and again is answered by an index, whatever the database thinks of its tables.

Every statement is caught as it was sent, and its plan as it ran, on a node whose tables are full; then each index by
which something was found is dropped, and the same work must be told for it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from tests.fixtures.containers import DatabaseFactory
from tests.support.applying import DATABASES, World, close_world, open_world, sqlite_url
from tests.support.filled import Filled, fill
from tests.support.hot import SECTIONS, Hot
from tests.support.plans import AUTO_EXPLAIN, Caught, Read, catching
from tests.support.postgres_server import PostgresServer

ROWS = 10_000
PEERS = 50
MOST_ROWS = 2_500
"""That one statement may look at in one table: pages of what is purged have up to two thousand."""
MOST_STEPS = 40_000
"""The same on SQLite, in steps of the whole statement: about a dozen a row."""
A_FEW = 300
"""Where a statement reads from one end of a table and stops: rows, or steps."""
GROWING = frozenset(
    {
        "rf_applied_tx",
        "rf_audit",
        "rf_change_log",
        "rf_choice",
        "rf_claim",
        "rf_conflict",
        "rf_dead_letter",
        "rf_purge_tombstone",
        "rf_relay",
        "rf_row_version",
        "rf_sealed",
        "rf_stepped_back",
        "rf_tx",
        "rf_tx_part",
    }
)
"""The others hold a row for each node, table, sink or minute."""
EXCUSED = {
    "FROM rf_tx_part WHERE NOT (EXISTS": "txs of which parts are missing: limits.max_unfinished_txs of each source",
    "SELECT max(rf_choice.id)": "choices are made by people; once a purge",
    "SELECT count(*) FROM rf_row_version WHERE deleted": "deleted rows alone, which have an index; once a purge",
    "coalesce(sum(rf_relay.bytes)": "from an index alone, every five minutes",
}
_LITERAL = re.compile(r"'[^']*'|\b\d+\b")
MUCH_MORE, OR_A_FEW = 1.5, 100
"""Without an index a statement must look at so many times what it did with it, and a few rows more. Half of the rows
that the versions here tell of are deleted, so an index of deleted ones alone spares no more."""


def faults(caught: Caught, *, vacuumed: bool = False) -> list[str]:
    """What was read that should not have been; of statements that differ in their values alone one is said."""
    found: dict[tuple[str, str, str], str] = {}
    for work, reads in caught.reads.items():
        for read in reads:
            # A table that was never vacuumed has rows in it that an index alone does not tell from others.
            if not is_fault(read) or ("count(" in read.statement and not vacuumed):
                continue
            found.setdefault((read.table, str(read.index), _LITERAL.sub("?", read.statement)), f"{work}: {read}")
    return sorted(found.values())


def is_fault(read: Read) -> bool:
    if read.table not in GROWING or any(words in read.statement for words in EXCUSED):
        return False
    if not read.is_search:
        return read.rows > A_FEW
    # A count can't be cheaper than what it counts, but it needs no more than an index.
    most = MOST_STEPS if read.blocks == 0 else MOST_ROWS
    return read.rows > most and not (read.counts and "count(" in read.statement)


def looked_at(reads: Iterable[Read], index: str | None = None) -> dict[str, int]:
    """The most rows (on SQLite: steps) that each statement looked at, whatever its values; of those that used `index`.

    Another index may be as good for one of the values: so it is the whole statement that is compared."""
    found: dict[str, int] = {}
    chosen: set[str] = set()
    for statement, group in groupby(reads, key=attrgetter("statement")):
        shape, read = _LITERAL.sub("?", statement), list(group)
        rows = max(one.rows for one in read) if all(one.blocks == 0 for one in read) else sum(one.rows for one in read)
        found[shape] = max(found.get(shape, 0), rows)
        if index is None or any(one.index == index for one in read):
            chosen.add(shape)
    return {shape: found[shape] for shape in chosen}


@dataclass
class OldNode:
    """A node with full tables, of which nobody ever told the database's planner."""

    world: World
    hot: Hot
    caught: Caught = field(default_factory=Caught)

    @property
    def is_postgresql(self) -> bool:
        return self.world.node.database.engine.dialect.name == "postgresql"

    def run(self, caught: Caught, name: str) -> None:
        """Do one piece of work, with connections that nobody has used before."""
        database = self.world.node.database
        database.close()
        with catching(database.engine, caught, name):
            try:
                self.hot.works()[name]()
            finally:
                database.close()

    def run_all(self) -> Caught:
        caught = Caught()
        for name in self.hot.works():
            self.run(caught, name)
        return caught

    def execute(self, *statements: str) -> None:
        engine = sa.create_engine(self.world.node.database.engine.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
        engine.dispose()

    def indexes(self) -> dict[str, str]:
        """The indexes of growing tables, with the statement that makes each. Keys must be."""
        catalog = "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
        if self.is_postgresql:
            catalog = "SELECT indexname, tablename, indexdef FROM pg_indexes"
        found = self.world.query(catalog)
        return {name: made for name, table, made in found if table in GROWING and "UNIQUE" not in made}

    def is_missed(self, index: str, all_there: Caught) -> bool:
        """Do the work that goes by an index without it; whether a statement has to look at much more then."""
        made = self.indexes()[index]
        self.execute(f"DROP INDEX {index}")
        try:
            for work in all_there.reads:
                with_it = looked_at(all_there.reads[work], index)
                if not with_it:
                    continue
                caught = Caught()
                self.run(caught, work)
                without = looked_at(caught.reads[work])
                if any(without.get(key, 0) > MUCH_MORE * rows + OR_A_FEW for key, rows in with_it.items()):
                    return True
        finally:
            self.execute(made)
        return False

    def forget_statistics(self) -> None:
        if self.is_postgresql:
            self.execute(
                "DELETE FROM pg_statistic WHERE starelid::regclass::text LIKE 'rf%%'",
                "UPDATE pg_class SET reltuples = -1 WHERE relname LIKE 'rf%%' AND relkind IN ('r', 'i')",
            )
        else:
            self.execute("DELETE FROM sqlite_stat1")


@pytest.fixture(scope="module", params=DATABASES)
def old(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldNode]:
    folder: Path = tmp_path_factory.mktemp("old")
    factory = DatabaseFactory(lambda: request.getfixturevalue("postgres_server"))
    if request.param == "sqlite":
        url = sqlite_url(folder)
    else:
        server: PostgresServer = request.getfixturevalue("postgres_server")
        url = f"{factory(server)}?options={quote(AUTO_EXPLAIN)}"
    world = open_world(url, directory={"path": str(folder / "exchange")}, **SECTIONS)
    world.execute("INSERT INTO item VALUES (900000000, 'first', 1)")
    world.node.database.sealer(world.node.facts).seal()
    hot = None
    try:
        young = fill(world, Filled(), 30, 3)
        if request.param == "postgresql":
            names = world.query("SELECT relname FROM pg_class WHERE relname LIKE 'rf%%' AND relkind = 'r'")
            world.execute(*(f"ALTER TABLE {name} SET (autovacuum_enabled = off)" for (name,) in names))
        world.execute("ANALYZE")
        hot = Hot(world, fill(world, young, ROWS, PEERS))
        yield OldNode(world, hot)
    finally:
        if hot is not None:
            hot.close()
        close_world(world)
        factory.drop_all()


def test_by_index_where_tables_have_grown_since_they_were_looked_at(old: OldNode) -> None:
    found = faults(old.run_all())
    assert not found, "\n".join(found)


def test_by_index_where_nobody_ever_looked(old: OldNode) -> None:
    old.forget_statistics()
    found = faults(old.run_all())
    assert not found, "\n".join(found)


def test_by_index_where_all_is_known(old: OldNode) -> None:
    old.execute("VACUUM (ANALYZE)" if old.is_postgresql else "ANALYZE")
    found = faults(old.run_all(), vacuumed=True)
    assert not found, "\n".join(found)


def test_without_an_index_there_is_much_more_to_look_at(old: OldNode) -> None:
    """So none is there for nothing: each costs whatever writes its table."""
    old.execute("VACUUM (ANALYZE)" if old.is_postgresql else "ANALYZE")
    all_there = old.run_all()
    assert [name for name in old.indexes() if not old.is_missed(name, all_there)] == []
