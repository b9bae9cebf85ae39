"""pgbench writes into one PostgreSQL, RabbitMQ 4 carries it, another PostgreSQL ends equal, whoever is killed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, wait_until_applied
from tests.support.postgres_server import PostgresServer
from tests.support.rabbit_server import RabbitServer
from tests.support.waiting import wait_for

TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")
CLIENTS, TRANSACTIONS = 4, 900

pytestmark = pytest.mark.heavy


def prepared(server: PostgresServer) -> str:
    """Make a database with pgbench's tables, a key on its history, and return its URL."""
    url = server.create_database()
    name = url.rpartition("/")[2]
    server.exec("pgbench", "-U", server.user, "-i", "-s", "1", "-q", name)
    statement = "ALTER TABLE pgbench_history ADD COLUMN id bigserial PRIMARY KEY"
    server.exec("psql", "-U", server.user, "-d", name, "-v", "ON_ERROR_STOP=1", "-c", statement)
    return url


@pytest.fixture
def pair(
    tmp_path: Path, postgres_server: PostgresServer, postgres_server_b: PostgresServer, private_rabbitmq: RabbitServer
) -> Iterator[tuple[CliNode, CliNode]]:
    broker = private_rabbitmq.url("/")
    shop = CliNode.init(
        "shop",
        tmp_path / "shop",
        prepared(postgres_server),
        "--role",
        "main",
        "--broker",
        broker,
        "--tables",
        ",".join(TABLES),
    )
    office = CliNode.init(
        "office", tmp_path / "office", prepared(postgres_server_b), "--broker", broker, "--tables", ",".join(TABLES)
    )
    for node in (shop, office):
        node.ok("migrate")
    yield shop, office
    for node in (shop, office):
        node.close()
    postgres_server.drop_database(shop.database)
    postgres_server_b.drop_database(office.database)


def test_two_databases_stay_equal_while_everything_is_killed_once(
    pair: tuple[CliNode, CliNode], postgres_server: PostgresServer, private_rabbitmq: RabbitServer
) -> None:
    shop, office = pair
    consumer = office.start()
    publisher = shop.start()

    load = threading.Thread(target=run_pgbench, args=(postgres_server, shop.database))
    load.start()

    wait_for_history(office, 200)
    publisher.kill()
    shop.start()

    wait_for_history(office, 900)
    consumer.kill()
    office.start()

    wait_for_history(office, 1_800)
    private_rabbitmq.restart()

    load.join()
    last = CLIENTS * TRANSACTIONS
    wait_for(lambda: shop.query("SELECT count(*) FROM pgbench_history")[0][0] == last, 60, "pgbench's last row")
    wait_for_history(office, last)
    wait_until_applied(shop, office, txs=last)

    assert office.rows(TABLES) == shop.rows(TABLES)
    assert shop.query("SELECT count(*) FROM rf_tx") == [(last,)], "one tx for each transaction of pgbench"
    assert office.query("SELECT count(*) FROM rf_applied_tx") == [(last,)]
    assert office.query("SELECT count(*) FROM rf_dead_letter") == [(0,)]
    assert office.query("SELECT count(*) FROM rf_tx") == [(0,)], "what was applied is never captured again"
    assert [running.stop() for node in pair for running in node.runs[-1:]] == [0, 0]


def run_pgbench(server: PostgresServer, url: str) -> None:
    server.exec(
        "pgbench",
        "-U",
        server.user,
        "-n",
        "-c",
        str(CLIENTS),
        "-j",
        "2",
        "-t",
        str(TRANSACTIONS),
        "-R",
        "200",
        url.rpartition("/")[2],
    )


def wait_for_history(node: CliNode, rows: int) -> None:
    """Wait until so many rows have been applied."""

    def there() -> bool:
        return bool(node.query("SELECT count(*) FROM pgbench_history")[0][0] >= rows)

    try:
        wait_for(there, 240, f"{rows} rows of history at {node.node_id}")
    except TimeoutError as error:
        for running in node.runs[-1:]:
            error.add_note(running.tail())
        raise
