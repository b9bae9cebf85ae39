"""A change costs the same on a node that is ten times as old: what the database touches for it is counted, no time.

`ROWFERRY_TEST_FLAT_ROWS=5000000` repeats it with that many versions (and a hundred thousand of the rest)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.applying import close_world, open_world, sqlite_url
from tests.support.filled import Filled, fill, fill_versions
from tests.support.hot import SECTIONS, Hot
from tests.support.plans import Caught, catching
from tests.support.postgres_server import PostgresServer
from tests.support.statistics import touched

VERSIONS = int(os.environ.get("ROWFERRY_TEST_FLAT_ROWS", "0"))
ROWS = 100_000 if VERSIONS else 20_000
TIMES = 10
MOST = 1.2 if VERSIONS else 1.3
"""Of few rows an index is a level deeper when there are ten times as many: a block more each time that it is gone
through, of which there are about four."""
PEERS = 50
WORKS = (
    "seal",
    "read the log",
    "apply what is plain",
    "apply what is not",
    "apply many",
    "set aside",
    "parts",
    "a gap",
)
"""All that is done for a change, and for a dead letter."""


@contextmanager
def aged(url: str, folder: Path, rows: int, peers: int, versions: int) -> Iterator[Hot]:
    world = open_world(url, directory={"path": str(folder / "exchange")}, **SECTIONS)
    try:
        world.execute("INSERT INTO item VALUES (900000000, 'first', 1)")
        world.node.database.sealer(world.node.facts).seal()
        filled = fill(world, Filled(), rows, peers)
        fill_versions(world, versions)
        if world.node.database.features.name == "postgresql":
            # The server would look at the tables when it likes, and plan anew between two counts.
            names = world.query("SELECT relname FROM pg_class WHERE relkind = 'r' AND starts_with(relname, 'rf_')")
            world.execute(*(f"ALTER TABLE {name} SET (autovacuum_enabled = off)" for (name,) in names))
            world.execute("ANALYZE")
        hot = Hot(world, filled)
        try:
            yield hot
        finally:
            hot.close()
    finally:
        close_world(world)


Costs = dict[str, dict[str, int]]
"""By work and table: blocks touched on PostgreSQL; on SQLite steps of its virtual machine, of all tables."""


def costs(hot: Hot) -> Costs:
    """What each piece of work costs once it was done before."""
    database = hot.world.node.database
    found = {}
    for name in WORKS:
        hot.works()[name]()
        database.close()
        if database.engine.dialect.name == "postgresql":
            counted = touched(database, hot.works()[name])
            found[name] = {table: blocks for table, (_, blocks) in counted.items() if table.startswith("rf_")}
        else:
            caught = Caught()
            with catching(database.engine, caught, name):
                hot.works()[name]()
                database.close()
            found[name] = {"steps": caught.steps[name]}
    return found


def assert_flat(young: Costs, old: Costs) -> None:
    told, steep = [], []
    for name in WORKS:
        before, after = sum(young[name].values()), sum(old[name].values())
        more = {table: now - young[name].get(table, 0) for table, now in old[name].items()}
        told.append(f"{name}: {before} when it was young, {after} now; more of {max(more, key=lambda one: more[one])}")
        if not 0.8 * before <= after <= MOST * before:
            steep.append(name)
    print("\n".join(told))
    assert not steep, "\n".join([f"not flat: {', '.join(steep)}", *told])


def test_a_change_costs_the_same_on_postgresql(private_postgres: PostgresServer, tmp_path: Path) -> None:
    """Nobody else is on this cluster: while a transaction of any database in it runs, what began after it is not
    sealed, so that less is read of the log, and more is looked at before applying."""
    found = []
    for times in (1, TIMES):
        url = private_postgres.create_database()
        with aged(url, tmp_path, ROWS * times // TIMES, PEERS * times // TIMES, VERSIONS * times // TIMES) as hot:
            found.append(costs(hot))
    assert_flat(*found)


def test_a_change_costs_the_same_on_sqlite(tmp_path: Path) -> None:
    found = []
    for times in (1, TIMES):
        url = sqlite_url(tmp_path, f"{times}.db")
        with aged(url, tmp_path, ROWS * times // TIMES, PEERS * times // TIMES, VERSIONS * times // TIMES) as hot:
            found.append(costs(hot))
    assert_flat(*found)
