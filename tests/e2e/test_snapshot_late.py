"""Nodes that need more than the others' logs have, on a real broker, while everybody writes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.meanwhile import meanwhile
from tests.support.nodes import CliNode, MakeNode, sqlite_database, wait_until_applied
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers

SALE = "CREATE TABLE sale (id TEXT PRIMARY KEY, price NUMERIC NOT NULL, note TEXT)"
QUICK = {"ROWFERRY_LIMITS_GAP_SECONDS": "0.5", "ROWFERRY_LIMITS_ANNOUNCE_SECONDS": "1"}


@contextmanager
def writing(node: CliNode, letter: str) -> Iterator[None]:
    """New rows, changed and deleted ones, until the block ends."""

    def write(stop: threading.Event) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            node.execute(
                f"INSERT INTO sale VALUES ('{letter}{number}', {number}.5, NULL)",
                f"UPDATE sale SET note = 'again' WHERE id = '{letter}{number - 1}'",
                f"DELETE FROM sale WHERE id = '{letter}{number - 40}'",
            )
            stop.wait(0.005)

    with meanwhile(write):
        yield


def forget_log(node: CliNode) -> None:
    """Take away what the broker has of the sealed log, as its retention does after weeks."""
    sent = "(SELECT min(lsn) FROM rf_cursor)"
    node.execute(
        f"DELETE FROM rf_tx WHERE to_lsn <= {sent}",
        f"DELETE FROM rf_sealed WHERE lsn <= {sent}",
    )


def wait_for_the_last_of(*nodes: CliNode) -> None:
    """Let each write once more, and wait until all have that: what a node wrote just now it may still have to seal."""
    for node in nodes:
        node.execute(f"INSERT INTO sale VALUES ('last of {node.node_id}', 1, NULL)")
    last = "SELECT count(*) FROM sale WHERE substr(id, 1, 8) = 'last of '"
    wait_for(lambda: all(node.query(last) == [(len(nodes),)] for node in nodes), 120, "all to have the last of each")


def differences(*nodes: CliNode) -> dict[str, set[tuple[str, str]]]:
    """Of each node, the rows that not all have as it has them."""
    rows = {node.node_id: {(row[0], row[1]) for row in node.query("SELECT id, note FROM sale")} for node in nodes}
    shared = set.intersection(*rows.values())
    return {name: mine - shared for name, mine in rows.items() if mine != shared}


@pytest.fixture
def office(nodes: MakeNode, pg_database: str, rabbitmq_url: str) -> CliNode:
    node = nodes("office", pg_database, "--broker", rabbitmq_url)
    node.execute(SALE)
    node.ok("migrate")
    return node


@pytest.fixture
def shop(nodes: MakeNode, rabbitmq_url: str, tmp_path: Path) -> CliNode:
    node = nodes(
        "shop", sqlite_database(tmp_path, "shop.db", ["PRAGMA journal_mode=WAL", SALE]), "--broker", rabbitmq_url
    )
    node.ok("migrate")
    return node


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_late_node_begins_while_all_write(
    office: CliNode,
    shop: CliNode,
    nodes: MakeNode,
    pg_database_factory: Callable[[], str],
    rabbitmq_url: str,
    tmp_path: Path,
    kind: str,
) -> None:
    for node in (office, shop):
        node.start(**QUICK)
    with writing(office, "o"), writing(shop, "s"):
        wait_until_applied(office, shop, txs=30)
        forget_log(office)
        url = (
            sqlite_database(tmp_path, "late.db", ["PRAGMA journal_mode=WAL", SALE])
            if kind == "sqlite"
            else pg_database_factory()
        )
        late = nodes("late", url, "--broker", rabbitmq_url)
        if kind == "postgresql":
            late.execute(SALE)
        late.ok("migrate")
        office.ok("snapshot", "export", "--out", str(tmp_path / "office.jsonl.zst"))
        taken = late.report("snapshot", "import", str(tmp_path / "office.jsonl.zst"))
        assert taken["rows"] > 10
        late.start(**QUICK)
        with writing(late, "l"):
            wait_until_applied(office, late, txs=10)
    wait_for_the_last_of(office, shop, late)
    assert differences(office, shop, late) == {}
    assert "up to date" in late.ok("status")
    for node in (office, shop, late):
        assert node.report("dlq", "list") == []
        assert node.report("conflicts", "list") == []


def test_a_node_left_behind_for_good_is_brought_back(office: CliNode, shop: CliNode, tmp_path: Path) -> None:
    running = shop.start(**QUICK)
    office.start(**QUICK)
    office.execute("INSERT INTO sale VALUES ('o1', 1, NULL), ('o2', 2, NULL)")
    wait_until_applied(office, shop)
    assert running.stop() == 0
    shop.execute("INSERT INTO sale VALUES ('s1', 1, NULL)")
    office.execute("DELETE FROM sale WHERE id = 'o1'", "INSERT INTO sale VALUES ('o3', 3, NULL)")
    wait_for(lambda: office.head() >= 4, 60, "office to seal")
    # What its queue held is gone, and the log goes back no further.
    shop.execute("DELETE FROM rf_sync_state", "DELETE FROM rf_applied_tx")
    forget_log(office)
    shop.start(**QUICK)
    wait_for(lambda: "rowferry snapshot export" in shop.call("status").stdout, 120, "shop to say what it needs")
    shop.runs[-1].stop()
    wait_until_applied(shop, office)
    office.ok("snapshot", "export", "--out", str(tmp_path / "office.jsonl.gz"))
    shop.ok("snapshot", "import", "--replace", str(tmp_path / "office.jsonl.gz"))
    assert differences(office, shop) == {}
    shop.start(**QUICK)
    shop.execute("INSERT INTO sale VALUES ('s2', 1, NULL)")
    office.execute("UPDATE sale SET note = 'after' WHERE id = 's1'")
    wait_for(
        lambda: not differences(office, shop) and len(office.query("SELECT id FROM sale")) == 4, 60, "both to be equal"
    )
    assert "up to date" in shop.ok("status")
