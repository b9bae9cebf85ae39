"""A node that was away for long: what it has to send, and what it has to take, does not have to fit into its memory.

`ROWFERRY_TEST_BACKLOG_ROWS=1000000` runs it with a million rows."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.bench.processes import peak_mib
from tests.support.nodes import CliNode, MakeNode, Running, sqlite_database, wait_until_applied
from tests.support.waiting import wait_for

pytestmark = pytest.mark.heavy

ROWS = int(os.environ.get("ROWFERRY_TEST_BACKLOG_ROWS", "240000"))
_SMALL = ROWS // 600 * 200
"""A third; half of either is written by the hundred."""
_ROOM_MIB = 64.0
"""What three times the backlog may add: allocators keep what they had, a window is fuller at one time than at another.
160,000 rows held by either side would be more by far: a change line alone has 400 bytes, as Python objects far more.
The smaller backlog already fills every window."""
_SMALL_WINDOW = {"ROWFERRY_BROKER_PREFETCH_BYTES": str(4 * 1024 * 1024)}
_CREATE = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price NUMERIC(12, 2))"


def test_memory_does_not_grow_with_the_backlog(
    nodes: MakeNode, pg_database: str, rabbitmq_url: str, tmp_path: Path
) -> None:
    office = nodes("office", pg_database, "--role", "main", "--broker", rabbitmq_url, "--tables", "item")
    office.execute(_CREATE)
    shop = nodes(
        "shop", sqlite_database(tmp_path, "shop.db", ["PRAGMA journal_mode = wal", _CREATE]), "--broker", rabbitmq_url
    )
    for node in (office, shop):
        node.ok("migrate")
        # It makes its queue.
        node.ok("run", "--once")

    small = drained(office, shop, 1, _SMALL, _SMALL)
    large = drained(office, shop, 1 + _SMALL, ROWS, _SMALL + ROWS)

    print(f"peak MiB of {_SMALL} and {ROWS} rows: {small} {large}")
    for name, before in small.items():
        assert large[name] < before + _ROOM_MIB, (
            f"{name}: {before:.0f} MiB for {_SMALL} rows, {large[name]:.0f} for {ROWS}"
        )
    assert office.query("SELECT count(*) FROM item") == shop.query("SELECT count(*) FROM item")


def drained(office: CliNode, shop: CliNode, first: int, rows: int, total: int) -> dict[str, float]:
    """Let both write, send all, and only then take it, one after the other; return the peak of each in MiB.

    Nothing runs while they write: the shop's whole backlog becomes one tx."""
    write_to_postgresql(office.database, first, rows)
    write_to_sqlite(shop.database, 10**8 + first, rows)
    peaks: dict[str, float] = {}
    running = {node.node_id: node.start("--only", "producer") for node in (office, shop)}
    for sender in (office, shop):
        wait_until_published(sender, total)
        peaks[f"{sender.node_id} sends"] = ended(running[sender.node_id])
    for sender, receiver in ((office, shop), (shop, office)):
        taking = receiver.start("--only", "consumer", **_SMALL_WINDOW)
        wait_until_applied(sender, receiver, 600)
        peaks[f"{receiver.node_id} takes"] = ended(taking)
    return peaks


def ended(running: Running) -> float:
    """Return the most memory that the process ever had, in MiB, and end it."""
    peak = peak_mib([running.process.pid])
    assert running.stop() == 0, running.tail()
    return peak


def wait_until_published(node: CliNode, rows: int) -> None:
    """Wait until the broker has confirmed the node's whole log of so many rows."""
    wait_for(lambda: node.head() == rows, 600, f"{node.node_id} to seal {rows} rows")
    confirmed = "SELECT min(lsn) FROM rf_cursor"
    wait_for(lambda: node.query(confirmed) == [(rows,)], 600, f"{node.node_id} to publish {rows} rows")


def write_to_postgresql(url: str, first: int, rows: int) -> None:
    """Half of them each in a transaction of its own, half a hundred together."""
    half = first + rows // 2
    with closing(sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool).connect()) as connection:
        connection.exec_driver_sql("SET synchronous_commit = off")
        connection.exec_driver_sql(
            f"""DO $$ BEGIN
            FOR i IN {first}..{half - 1} LOOP
                INSERT INTO item VALUES (i, 'item ' || i, i / 100.0); COMMIT;
            END LOOP;
            FOR i IN 0..{(rows - rows // 2) // 100 - 1} LOOP
                INSERT INTO item SELECT n, 'item ' || n, n / 100.0
                FROM generate_series({half} + i * 100, {half} + i * 100 + 99) AS n; COMMIT;
            END LOOP; END $$"""
        )


def write_to_sqlite(path_url: str, first: int, rows: int) -> None:
    """A hundred together."""
    with closing(sqlite3.connect(path_url.removeprefix("sqlite:///"))) as connection:
        connection.execute("PRAGMA synchronous = off")
        for start in range(first, first + rows, 100):
            connection.executemany(
                "INSERT INTO item VALUES (?, ?, ?)",
                [(key, f"item {key}", f"{key / 100:.2f}") for key in range(start, start + 100)],
            )
            connection.commit()
