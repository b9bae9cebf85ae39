"""What a change costs does not grow with what was there before: rows and blocks read, counted by PostgreSQL itself.

Nothing is analyzed in between: plans must not depend on statistics that a young database does not have.  Nobody else is
on the cluster: what begins after a transaction of another database is not sealed before that has ended."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.applying import Origin, World, Write, close_world, open_world
from tests.support.postgres_server import PostgresServer
from tests.support.postgresql_node import PostgresNode
from tests.support.statistics import Touched, touched

pytestmark = pytest.mark.containers

MANY = 150
TIMES = 10


@pytest.fixture
def world(private_postgres_module: PostgresServer) -> Iterator[World]:
    opened = open_world(private_postgres_module.create_database())
    opened.execute(*(f"ALTER TABLE {name} SET (autovacuum_enabled = off)" for name in names(opened)))
    yield opened
    close_world(opened)


def names(world: World) -> list[str]:
    return [
        name
        for (name,) in world.query("SELECT relname FROM pg_class WHERE starts_with(relname, 'rf_') AND relkind = 'r'")
    ]


def letter(origin: Origin, number: int) -> bytes:
    """A tx that becomes a dead letter."""
    return origin.tx(Write("I", "nowhere", {"id": number, "name": "x", "price": "1.50"}, number)).body


def assert_flat(few: Touched, many: Touched) -> None:
    """An index may be a level deeper, and pages are filled by chance.

    Of the application's own tables PostgreSQL may read all rows while they are few, where a group has many."""
    for name, (rows, blocks) in many.items():
        if not name.startswith("rf_"):
            continue
        assert rows <= 1.5 * few[name][0] + 20, f"{name}: {rows} rows read, {few[name][0]} when it was young"
        assert blocks <= 2 * few[name][1] + 50, f"{name}: {blocks} blocks touched, {few[name][1]} when it was young"


def test_applying_does_not_cost_more_with_age(world: World) -> None:
    """Neither with what was applied from that source, nor with its dead letters, nor with the rows' versions."""
    origin = Origin("a")
    place = iter(range(1, 1_000_000))

    def apply() -> None:
        world.receive(b"".join(origin.put(next(place), "row", 10).body for _ in range(MANY)))

    def grow() -> None:
        apply()
        world.receive(b"".join(letter(origin, number) for number in range(MANY // 3)))

    grow()
    few = touched(world.node.database, apply)
    for _ in range(TIMES):
        grow()
    assert len(world.letters()) == (TIMES + 1) * (MANY // 3)
    assert_flat(few, touched(world.node.database, apply))


def test_sealing_and_reading_the_log_do_not_cost_more_with_age(
    private_postgres_module: PostgresServer,
) -> None:
    url = private_postgres_module.create_database()
    with PostgresNode(url, "a", "CREATE TABLE item (id int PRIMARY KEY, name text)") as node:
        place = iter(range(1, 1_000_000))

        def write() -> None:
            node.run(*(f"INSERT INTO item VALUES ({next(place)}, 'row')" for _ in range(MANY)))

        def seal_and_read() -> None:
            after = node.log.head().lsn
            assert node.seal_all() == MANY
            assert len(node.txs(after)) == MANY

        write()
        seal_and_read()
        write()
        few = touched(node.database, seal_and_read)
        for _ in range(TIMES):
            write()
            seal_and_read()
        write()
        assert_flat(few, touched(node.database, seal_and_read))
