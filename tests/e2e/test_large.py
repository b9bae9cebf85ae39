"""Large things: a transaction of 300,000 rows, and a row that is larger than a broker takes in one message."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.support.nodes import MakeNode, sqlite_database, wait_until_applied
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.heavy

ROWS = 300_000


def test_300_000_rows_in_one_transaction_through_rabbitmq(
    nodes: MakeNode, postgres_server: PostgresServer, postgres_server_b: PostgresServer, rabbitmq_url: str
) -> None:
    urls = [postgres_server.create_database(), postgres_server_b.create_database()]
    shop = nodes("shop", urls[0], "--role", "main", "--broker", rabbitmq_url, "--tables", "item")
    office = nodes("office", urls[1], "--broker", rabbitmq_url, "--tables", "item")
    for node in (shop, office):
        node.execute("CREATE TABLE item (id integer PRIMARY KEY, name text NOT NULL, price numeric(12, 2))")
        node.ok("migrate")
    office.start()
    shop.execute(f"INSERT INTO item SELECT n, 'item ' || n, n / 100.0 FROM generate_series(1, {ROWS}) AS n")
    shop.start()
    wait_until_applied(shop, office, 400)

    assert shop.query("SELECT count(*), max(to_lsn) FROM rf_tx") == [(1, ROWS)]
    assert office.query("SELECT count(*) FROM rf_applied_tx") == [(1,)]
    digest = "SELECT count(*), md5(string_agg(i::text, '|' ORDER BY id)) FROM item i"
    assert office.query(digest) == shop.query(digest)
    assert office.query("SELECT count(*) FROM rf_tx_part") == [(0,)]


def test_300_000_rows_in_one_transaction_through_a_folder(nodes: MakeNode, tmp_path: Path) -> None:
    create = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price NUMERIC)"
    exchange = ("--directory", str(tmp_path / "exchange"))
    left = nodes("left", sqlite_database(tmp_path, "left.db", [create]), *exchange)
    right = nodes("right", sqlite_database(tmp_path, "right.db", [create]), *exchange)
    for node in (left, right):
        node.ok("migrate")
    left.execute(
        f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS}) "
        "INSERT INTO item SELECT i, 'item ' || i, i / 100.0 FROM n"
    )
    left.ok("run", "--once", timeout=400)
    right.ok("run", "--once", timeout=400)

    assert right.watermark("left") == left.head() == ROWS
    everything = "SELECT id, name, price, typeof(price) FROM item ORDER BY id"
    assert digest_of(right.query(everything)) == digest_of(left.query(everything))


def test_a_blob_of_20_mb_through_rabbitmq_and_its_default_limits(
    nodes: MakeNode, postgres_server: PostgresServer, rabbitmq_url: str, tmp_path: Path
) -> None:
    """RabbitMQ 4 refuses messages over 16 MiB; the BLOB is 27 MB as base64 and comes in chunks."""
    create = "CREATE TABLE photo (id INTEGER PRIMARY KEY, data BLOB)"
    shop = nodes("shop", sqlite_database(tmp_path, "shop.db", [create]), "--broker", rabbitmq_url)
    office = nodes("office", postgres_server.create_database(), "--broker", rabbitmq_url, "--tables", "photo")
    office.execute("CREATE TABLE photo (id integer PRIMARY KEY, data bytea)")
    for node in (shop, office):
        node.ok("migrate")
    office.start()
    shop.start()
    shop.execute("INSERT INTO photo VALUES (1, randomblob(20000000)), (2, zeroblob(20000000)), (3, x'')")
    wait_until_applied(shop, office, 240)

    ours = [(key, hashlib.sha256(data).hexdigest()) for key, data in shop.query("SELECT id, data FROM photo")]
    theirs = [(key, hashlib.sha256(data).hexdigest()) for key, data in office.query("SELECT id, data FROM photo")]
    assert sorted(theirs) == sorted(ours)


def digest_of(rows: list[tuple[object, ...]]) -> tuple[int, str]:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode())
    return len(rows), digest.hexdigest()
