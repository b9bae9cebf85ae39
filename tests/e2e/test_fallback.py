"""The file fallback: a broker that can't be used for whatever reason, in mid-stream. No gap, nothing twice."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.nodes import CliNode
from tests.support.rabbit_server import RabbitServer
from tests.support.waiting import wait_for

CREATE = "CREATE TABLE sale (id INTEGER PRIMARY KEY, note TEXT)"


@pytest.fixture
def pair(tmp_path: Path, private_rabbitmq: RabbitServer) -> Iterator[tuple[CliNode, CliNode, RabbitServer]]:
    """A shop and an office with a broker and a shared folder; files come in after a second."""
    nodes = []
    for node_id in ("shop", "office"):
        folder = tmp_path / node_id
        folder.mkdir()
        with closing(sqlite3.connect(folder / "app.db")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(CREATE)
            connection.commit()
        node = CliNode.init(
            node_id,
            folder,
            f"sqlite:///{folder / 'app.db'}",
            *("--broker", private_rabbitmq.url(), "--directory", str(tmp_path / "exchange")),
        )
        config = folder / "rowferry.toml"
        text = config.read_text().replace("\n[broker]", "\n[broker]\nblocked_timeout_seconds = 1")
        config.write_text(re.sub(r"(?m)^#? ?after = .*$", "after = 1", text))
        assert "\nafter = 1\n" in config.read_text()
        node.ok("migrate")
        nodes.append(node)
    yield nodes[0], nodes[1], private_rabbitmq
    for node in nodes:
        node.close()


def sell(shop: CliNode, first: int, count: int) -> None:
    for number in range(first, first + count):
        shop.execute(f"INSERT INTO sale VALUES ({number}, 'n{number}')", "INSERT INTO rf_mark DEFAULT VALUES")


def road(node: CliNode) -> dict[str, Any]:
    found: dict[str, Any] = node.report("status")["road"]
    return found


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "exchange" / "shop").glob("*.jsonl"))


def arrived(office: CliNode, count: int, what: str) -> None:
    wait_for(lambda: office.query("SELECT count(*) FROM sale") == [(count,)], 60, what)


def assert_nothing_twice_and_no_gap(shop: CliNode, office: CliNode) -> None:
    head = shop.head()
    wait_for(lambda: office.watermark("shop") == head, 60, "the watermark")
    assert office.rows(["sale"]) == shop.rows(["sale"])
    applied = office.query("SELECT tx_id, count(*) FROM rf_audit WHERE action = 'applied' GROUP BY tx_id")
    assert {times for _, times in applied} == {1}
    assert office.query("SELECT count(*) FROM rf_dead_letter") == [(0,)]


def test_a_broker_that_is_away(pair: tuple[CliNode, CliNode, RabbitServer], tmp_path: Path) -> None:
    shop, office, broker = pair
    office.start()
    shop.start()
    sell(shop, 0, 5)
    arrived(office, 5, "what the broker carries")
    assert road(shop) == dict.fromkeys(road(shop), None) | {"used": "broker"}
    assert files(tmp_path) == []

    broker.kill()
    sell(shop, 5, 5)
    arrived(office, 10, "what the files carry")
    told = road(shop)
    assert told["used"] == "directory"
    assert told["error"]
    assert told["broker_unusable_since"] <= told["fallback_since"]
    assert "changes are sent as files" in shop.ok("status")
    # The files begin where the broker's confirms ended.
    first = min(int(file.name.split(".")[2].split("-")[0]) for file in files(tmp_path))
    assert first == 6

    # A process that begins now goes on with what the one before it saw.
    shop.runs[-1].kill()
    shop.start()
    sell(shop, 10, 5)
    arrived(office, 15, "what the files carry after a kill")

    broker.start()
    wait_for(lambda: road(shop)["used"] == "broker", 60, "the broker's road again")
    sell(shop, 15, 5)
    arrived(office, 20, "what the broker carries again")
    written = files(tmp_path)
    sell(shop, 20, 1)
    arrived(office, 21, "one more")
    assert files(tmp_path) == written
    assert road(shop)["broker_unusable_since"] is None
    assert_nothing_twice_and_no_gap(shop, office)


def test_a_broker_in_alarm(pair: tuple[CliNode, CliNode, RabbitServer], tmp_path: Path) -> None:
    shop, office, broker = pair
    office.start()
    shop.start()
    sell(shop, 0, 2)
    arrived(office, 2, "what the broker carries")
    broker.ctl("set_vm_memory_high_watermark", "0.0001")
    try:
        sell(shop, 2, 3)
        arrived(office, 5, "what the files carry")
        assert "block" in road(shop)["error"]
    finally:
        broker.ctl("set_vm_memory_high_watermark", "0.6")
    wait_for(lambda: road(shop)["used"] == "broker", 60, "the broker's road again")
    assert_nothing_twice_and_no_gap(shop, office)


def test_a_queue_that_is_gone_and_credentials_that_are_refused(
    pair: tuple[CliNode, CliNode, RabbitServer], tmp_path: Path
) -> None:
    shop, office, broker = pair
    shop.start()
    office.ok("run", "--once")
    for queue in ("rowferry.node.shop", "rowferry.node.office"):
        broker.management("DELETE", f"/api/queues/{quote('/', safe='')}/{queue}")
    shop.runs[-1].stop()
    shop.start("--only", "producer")
    sell(shop, 0, 3)
    wait_for(lambda: files(tmp_path), 60, "files instead of a message that nobody would get")
    assert "unroutable" in road(shop)["error"] or "no queue" in road(shop)["error"]
    shop.runs[-1].stop()

    config = shop.folder / "rowferry.toml"
    right = config.read_text()
    config.write_text(right.replace(f":{broker.password}@", ":wrong@"))
    shop.start()
    sell(shop, 3, 3)
    wait_for(lambda: len(covered(tmp_path)) == 6, 60, "files where the broker refuses the node")
    shop.runs[-1].stop()
    config.write_text(right)
    office.start()
    arrived(office, 6, "all of it")
    shop.start()
    wait_for(lambda: road(shop)["used"] == "broker", 60, "the broker's road again")
    assert_nothing_twice_and_no_gap(shop, office)


def covered(tmp_path: Path) -> set[int]:
    """The LSNs of all changes in files."""
    lines = [line for file in files(tmp_path) for line in file.read_text().splitlines()]
    return {one["lsn"] for line in lines if (one := json.loads(line))["type"] == "change"}


def test_a_folder_that_is_gone_too_is_told_and_loses_nothing(
    pair: tuple[CliNode, CliNode, RabbitServer], tmp_path: Path
) -> None:
    shop, office, broker = pair
    shop.start()
    sell(shop, 0, 2)
    wait_for(lambda: shop.query("SELECT coalesce(max(lsn), 0) FROM rf_cursor") == [(2,)], 60, "the broker's cursor")
    broker.kill()
    exchange = tmp_path / "exchange"
    exchange.rename(tmp_path / "unmounted")
    sell(shop, 2, 3)
    wait_for(lambda: road(shop)["fallback_error"], 60, "the folder's fault")
    assert "can't be written either" in shop.ok("status")
    (tmp_path / "unmounted").rename(exchange)
    wait_for(lambda: covered(tmp_path) == {3, 4, 5}, 60, "the files")
    assert road(shop)["fallback_error"] is None
    broker.start()
    office.start()
    arrived(office, 5, "all of it")
    assert_nothing_twice_and_no_gap(shop, office)
