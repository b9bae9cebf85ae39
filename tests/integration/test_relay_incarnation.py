"""A node whose server is another one starts a new incarnation, still sends what the old one sealed, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.wire.decode import read_body
from common.wire.records import BatchHeader, Part
from tests.support.nodes import CliNode
from tests.support.waiting import wait_for


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CliNode]:
    is_sqlite = request.param == "sqlite"
    database = f"sqlite:///{tmp_path / 'shop.db'}" if is_sqlite else request.getfixturevalue("pg_database")
    node = CliNode.init("shop", tmp_path, database, "--directory", str(tmp_path / "exchange"))
    node.execute("CREATE TABLE sale (id INTEGER PRIMARY KEY, note TEXT)")
    node.ok("migrate")
    yield node
    node.close()


def sell(shop: CliNode, number: int) -> None:
    shop.execute(f"INSERT INTO sale VALUES ({number}, 'sale {number}')")


def incarnation(shop: CliNode) -> str:
    return str(shop.query("SELECT incarnation FROM rf_node WHERE is_self")[0][0])


def headers(shop: CliNode) -> list[BatchHeader]:
    bodies = [path.read_bytes() for path in (shop.folder / "exchange" / "shop").glob("*.jsonl")]
    return [part.header for body in bodies for part in read_body(body) if isinstance(part, Part)]


def test_what_the_old_server_sealed_is_still_sent(shop: CliNode) -> None:
    sell(shop, 1)
    shop.ok("run", "--once", "--only", "producer")
    sell(shop, 2)
    shop.ok("export-change-log", "--out", "seals.jsonl")
    old = incarnation(shop)
    sell(shop, 3)
    shop.execute("UPDATE rf_node SET server_identity = 'another server' WHERE is_self")
    shop.ok("run", "--once", "--only", "producer")

    new = incarnation(shop)
    assert new != old
    found = {(header.incarnation, header.from_lsn, header.to_lsn) for header in headers(shop)}
    assert found == {(old, 1, 1), (old, 2, 2), (new, 1, 1)}
    assert shop.query("SELECT action, actor FROM rf_audit WHERE action = 'incarnation'") == [
        ("incarnation", "rowferry")
    ]
    cursors = dict(shop.query("SELECT incarnation, lsn FROM rf_cursor"))
    assert cursors == {old: 2, new: 1}
    document = shop.report("export-change-log", "--out", "all.jsonl")
    assert (document["incarnation"], document["txs"], document["to_lsn"]) == (new, 3, 1)
    assert [one["incarnation"] for one in document["earlier_incarnations"]] == [old]


def test_a_running_node_goes_on_under_a_new_incarnation(shop: CliNode) -> None:
    running = shop.start("--only", "producer")
    sell(shop, 1)
    wait_for(lambda: (shop.folder / "exchange" / "shop").is_dir() and len(headers(shop)) == 1, 30, "the first sale")
    old = incarnation(shop)
    shop.execute("UPDATE rf_node SET incarnation = 'fresh' WHERE is_self")
    wait_for(lambda: "service.asks_to_reopen" in running.tail(), 30, "the node to notice")
    sell(shop, 2)
    wait_for(lambda: len(headers(shop)) == 2, 30, "the second sale")
    assert running.stop() == 0, running.tail()
    assert {(header.incarnation, header.to_lsn) for header in headers(shop)} == {(old, 1), ("fresh", 1)}
