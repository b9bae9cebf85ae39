"""What PostgreSQL 18 has and earlier ones have not: keys without overlaps or not enforced, columns that are virtual."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.nodes import CliNode
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.containers


@pytest.fixture
def pair(tmp_path: Path, postgres_server_b: PostgresServer) -> Iterator[tuple[CliNode, CliNode]]:
    with psycopg.connect(postgres_server_b.dsn()) as connection:
        if connection.info.server_version < 180_000:
            pytest.skip("PostgreSQL 18 is needed: name an image of it in ROWFERRY_TEST_NEW_POSTGRES_IMAGE")
    exchange = str(tmp_path / "exchange")
    nodes = [
        CliNode.init(name, tmp_path / name, postgres_server_b.create_database(), "--directory", exchange)
        for name in ("shop", "office")
    ]
    yield nodes[0], nodes[1]
    for node in nodes:
        node.close()
        postgres_server_b.drop_database(node.database)


def made(pair: tuple[CliNode, CliNode], *ddl: str) -> None:
    for node in pair:
        node.execute(*ddl)
        node.ok("migrate")


def sync(pair: tuple[CliNode, CliNode]) -> None:
    for node in (*pair, *pair):
        node.ok("run", "--once")


def test_rows_whose_key_is_without_overlaps_travel(pair: tuple[CliNode, CliNode]) -> None:
    made(
        pair,
        "CREATE EXTENSION btree_gist",
        "CREATE TABLE price (id int, during daterange, note text, PRIMARY KEY (id, during WITHOUT OVERLAPS))",
    )
    shop, office = pair
    shop.execute("INSERT INTO price VALUES (1, '[2020-01-01,2020-02-01)', 'a'), (1, '[2020-02-01,2020-03-01)', 'b')")
    sync(pair)
    office.execute(
        "UPDATE price SET note = 'c' WHERE during @> '2020-01-15'::date",
        "UPDATE price SET during = '[2020-02-01,2020-06-01)' WHERE during @> '2020-02-15'::date",
        "INSERT INTO price VALUES (2, '[2020-01-01,2020-02-01)', 'd')",
        "DELETE FROM price WHERE id = 2",
    )
    sync(pair)
    rows = "SELECT id, during::text, note FROM price ORDER BY 1, 2"
    assert shop.query(rows) == office.query(rows)
    assert shop.query(rows) == [(1, "[2020-01-01,2020-02-01)", "c"), (1, "[2020-02-01,2020-06-01)", "b")]


def test_a_unique_key_without_overlaps_is_no_plain_one(pair: tuple[CliNode, CliNode]) -> None:
    made(
        pair,
        "CREATE EXTENSION btree_gist",
        "CREATE TABLE stay (n int PRIMARY KEY, id int, during daterange, UNIQUE (id, during WITHOUT OVERLAPS))",
    )
    shop, office = pair
    shop.execute("INSERT INTO stay VALUES (1, 1, '[2020-01-01,2020-02-01)'), (2, 1, '[2020-02-01,2020-03-01)')")
    sync(pair)
    assert office.query("SELECT n FROM stay ORDER BY n") == [(1,), (2,)]


def test_foreign_keys_that_are_not_enforced_hold_nothing_up(pair: tuple[CliNode, CliNode]) -> None:
    made(
        pair,
        "CREATE TABLE parent (id int PRIMARY KEY)",
        "CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent NOT ENFORCED, q int REFERENCES parent)",
    )
    shop, office = pair
    shop.execute(
        "INSERT INTO parent VALUES (1), (2)",
        "INSERT INTO child VALUES (1, 99, 1), (2, 2, NULL)",
        "DELETE FROM parent WHERE id = 2",
    )
    sync(pair)
    assert office.query("SELECT * FROM child ORDER BY id") == [(1, 99, 1), (2, 2, None)]
    assert office.query("SELECT id FROM parent") == [(1,)]


def test_tables_with_a_foreign_key_for_a_period_are_left_out_and_named(pair: tuple[CliNode, CliNode]) -> None:
    shop, _ = pair
    shop.execute(
        "CREATE EXTENSION btree_gist",
        "CREATE TABLE price (id int, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS))",
        "CREATE TABLE sale (n int PRIMARY KEY, id int, during daterange, "
        "CONSTRAINT at_a_price FOREIGN KEY (id, PERIOD during) REFERENCES price (id, PERIOD during))",
    )
    shop.ok("migrate")
    told = shop.call("doctor").stdout
    assert "1 table travels: price" in told
    assert "sale is left out: its foreign key at_a_price is for a PERIOD" in told


def test_virtual_columns_are_worked_out_on_each_node(pair: tuple[CliNode, CliNode]) -> None:
    made(pair, "CREATE TABLE item (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2))")
    shop, office = pair
    shop.execute("INSERT INTO item VALUES (1, 1), (2, 2)", "UPDATE item SET n = 5 WHERE id = 2")
    sync(pair)
    assert office.query("SELECT * FROM item ORDER BY id") == [(1, 1, 2), (2, 5, 10)]
