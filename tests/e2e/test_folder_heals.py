"""A shared folder that has lost files, by age or by hand: who lacks them gets them again, without anybody's doing."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.nodes import CliNode
from tests.support.waiting import wait_for

ROWS = "SELECT id, note FROM sale ORDER BY id"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[CliNode, CliNode]]:
    """A shop, and an office that has its first three sales."""
    nodes = []
    for node_id in ("shop", "office"):
        folder = tmp_path / node_id
        folder.mkdir()
        if request.param == "postgresql" and node_id == "shop":
            database = request.getfixturevalue("pg_database")
        else:
            database = f"sqlite:///{folder / 'app.db'}"
            with closing(sqlite3.connect(folder / "app.db")) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
        node = CliNode.init(node_id, folder, database, "--directory", str(tmp_path / "exchange"))
        node.configure("[directory]", "poll_seconds = 0.1")
        node.execute("CREATE TABLE sale (id INTEGER PRIMARY KEY, note TEXT)")
        node.ok("migrate")
        nodes.append(node)
    shop, office = nodes
    sell(shop, 1, 2, 3)
    office.ok("run", "--once")
    assert len(office.query(ROWS)) == 3
    yield shop, office
    for node in nodes:
        node.close()


def sell(shop: CliNode, *numbers: int) -> None:
    for number in numbers:
        shop.execute(f"INSERT INTO sale VALUES ({number}, 'sale {number}')")
    shop.ok("run", "--once")


def files(shop: CliNode) -> list[Path]:
    return sorted((shop.folder.parent / "exchange" / "shop").glob("*.jsonl"))


def told(node: CliNode) -> str:
    return node.ok("status")


def test_files_that_somebody_deleted_come_again(pair: tuple[CliNode, CliNode]) -> None:
    shop, office = pair
    sell(shop, 4, 5, 6)
    for path in files(shop):
        path.unlink()
    sell(shop, 7)
    office.ok("run", "--once")
    assert office.query(ROWS) == shop.query(ROWS)
    assert "missing" not in told(office)


def test_who_was_away_for_longer_than_files_are_kept_gets_them_when_it_is_back(pair: tuple[CliNode, CliNode]) -> None:
    shop, office = pair
    sell(shop, 4, 5, 6)
    shop.configure("[directory]", "keep_days = 0.00001")
    time.sleep(1)
    shop.ok("run", "--once")
    assert files(shop) == []
    assert "office had not read" in told(shop)
    sell(shop, 7)
    office.ok("run", "--once")
    assert len(office.query(ROWS)) == 4, "the gap shows, and is not taken for what was deleted"
    running = [shop.start(), office.start()]
    wait_for(lambda: office.query(ROWS) == shop.query(ROWS), 60, "the files that came again")
    for one in running:
        assert one.stop() == 0
    shop.ok("run", "--once")
    assert "office" not in told(shop)


def test_a_folder_that_begins_anew_on_another_share_is_filled_with_what_is_lacked(
    pair: tuple[CliNode, CliNode], tmp_path: Path
) -> None:
    shop, office = pair
    sell(shop, 4, 5, 6)
    for node in pair:
        (tmp_path / "other").mkdir(exist_ok=True)
        file = node.folder / "rowferry.toml"
        file.write_text(file.read_text().replace(str(tmp_path / "exchange"), str(tmp_path / "other")))
    sell(shop, 7)
    office.ok("run", "--once")
    shop.ok("run", "--once")
    office.ok("run", "--once")
    assert office.query(ROWS) == shop.query(ROWS)


def test_an_empty_folder_in_the_place_of_a_share_that_is_not_mounted_is_told(pair: tuple[CliNode, CliNode]) -> None:
    shop, office = pair
    shop.ok("run", "--once")
    assert "mounted" not in told(shop)
    exchange = shop.folder.parent / "exchange"
    share = exchange.rename(exchange.with_name("share"))
    exchange.mkdir()
    sell(shop, 4)
    assert "no other node has a folder in" in told(shop).splitlines()[0]
    shutil.rmtree(exchange)
    share.rename(exchange)
    shop.ok("run", "--once")
    office.ok("run", "--once")
    assert office.query(ROWS) == shop.query(ROWS)
    assert "mounted" not in told(shop)
