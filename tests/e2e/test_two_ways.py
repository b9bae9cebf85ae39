"""The same batches by more than one way at once, and more than one applier: nothing is applied twice."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, wait_until_applied
from tests.support.waiting import wait_for

CREATE = "CREATE TABLE sale (id TEXT PRIMARY KEY, price NUMERIC NOT NULL, note TEXT)"


@pytest.fixture
def pair(tmp_path: Path, rabbitmq_url: str) -> Iterator[tuple[CliNode, CliNode]]:
    nodes = []
    for node_id in ("shop", "office"):
        folder = tmp_path / node_id
        folder.mkdir()
        with closing(sqlite3.connect(folder / "app.db")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(CREATE)
            connection.commit()
        database = f"sqlite:///{folder / 'app.db'}"
        nodes.append(CliNode.init(node_id, folder, database, "--broker", rabbitmq_url))
        nodes[-1].ok("migrate")
    yield nodes[0], nodes[1]
    for node in nodes:
        node.close()


def sell(shop: CliNode, first: int, count: int) -> None:
    """Write `count` sales, each its own transaction, through the one-line call that names a transaction."""
    for number in range(first, first + count):
        shop.execute(
            f"INSERT INTO sale VALUES ('s-{number}', {number}.5, NULL)",
            f"UPDATE sale SET note = 'again' WHERE id = 's-{number - 1}'",
            "INSERT INTO rf_mark DEFAULT VALUES",
        )


def test_a_file_and_the_queue_bring_the_same_batches(pair: tuple[CliNode, CliNode], tmp_path: Path) -> None:
    shop, office = pair
    sell(shop, 0, 40)
    shop.ok("export-change-log", "--out", str(tmp_path / "all.jsonl"))
    office.start()
    shop.start()
    for _ in range(3):
        office.ok("import-change-log", str(tmp_path / "all.jsonl"))
    wait_until_applied(shop, office, txs=40)
    office.ok("import-change-log", str(tmp_path / "all.jsonl"))

    assert office.rows(["sale"]) == shop.rows(["sale"])
    assert office.query("SELECT count(*) FROM rf_applied_tx") == shop.query("SELECT count(*) FROM rf_tx")
    applied = office.query("SELECT tx_id, count(*) FROM rf_audit WHERE action = 'applied' GROUP BY tx_id")
    assert {count for _, count in applied} == {1}
    assert office.query("SELECT count(*) FROM rf_dead_letter") == [(0,)]


def test_two_appliers_on_one_queue(pair: tuple[CliNode, CliNode]) -> None:
    shop, office = pair
    office.start("--only", "consumer")
    office.start("--only", "consumer")
    shop.start()
    sell(shop, 0, 60)
    wait_for(lambda: office.query("SELECT count(*) FROM sale")[0][0] > 10, 60, "some sales")
    office.runs[0].kill()
    sell(shop, 60, 40)
    wait_until_applied(shop, office, txs=100)

    assert office.rows(["sale"]) == shop.rows(["sale"])
    assert office.query("SELECT count(*) FROM rf_applied_tx") == shop.query("SELECT count(*) FROM rf_tx")
    assert office.query("SELECT count(*) FROM rf_dead_letter") == [(0,)]


def test_an_exported_file_is_the_same_bytes_each_time(pair: tuple[CliNode, CliNode], tmp_path: Path) -> None:
    shop, _ = pair
    sell(shop, 0, 5)
    for name in ("one.jsonl", "two.jsonl"):
        shop.ok("export-change-log", "--out", str(tmp_path / name))
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    headers = [
        json.loads(line)
        for line in (tmp_path / "one.jsonl").read_text().splitlines()
        if line.startswith('{"type":"batch"')
    ]
    assert [header["prev_lsn"] for header in headers] == [0, *(header["to_lsn"] for header in headers[:-1])]
    assert not any(header.get("grouped") for header in headers)
