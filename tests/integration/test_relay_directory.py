"""From an application's write to files in the shared folder: nothing is lost, whatever is killed or away."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from common.wire.decode import read_body
from common.wire.records import Part
from tests.support.nodes import CliNode
from tests.support.waiting import wait_for

_DIES_AT_SAVE = """
import os, signal
from producer.cursors import Cursors

left = [{saves}]
save = Cursors.save

def dying_save(self, *where):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, *where)

Cursors.save = dying_save

from common.cli.main import main
main()
"""


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CliNode]:
    if request.param == "sqlite":
        database = f"sqlite:///{tmp_path / 'shop.db'}"
        with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    else:
        database = request.getfixturevalue("pg_database")
    node = CliNode.init("shop", tmp_path, database, "--directory", str(tmp_path / "exchange"))
    node.execute("CREATE TABLE sale (id INTEGER PRIMARY KEY, note TEXT)")
    node.ok("migrate")
    yield node
    node.close()


def sell(shop: CliNode, *numbers: int) -> None:
    for number in numbers:
        shop.execute(f"INSERT INTO sale VALUES ({number}, 'sale {number}')")


def batches(shop: CliNode) -> list[Part]:
    """Return all batches in the shared folder, in the order of the files."""
    found: list[Part] = []
    for path in sorted((shop.folder / "exchange" / "shop").glob("*.jsonl")):
        parts = read_body(path.read_bytes())
        assert all(isinstance(part, Part) for part in parts), path
        found += [part for part in parts if isinstance(part, Part)]
    return found


def out_lsn(shop: CliNode) -> int:
    return int(shop.query("SELECT coalesce(max(lsn), 0) FROM rf_cursor WHERE sink = 'directory'")[0][0])


def wait_for_out(shop: CliNode, lsn: int) -> None:
    wait_for(lambda: out_lsn(shop) == lsn, 30, f"LSN {lsn} in the folder")


def wait_for_sealed(shop: CliNode, lsn: int) -> None:
    wait_for(lambda: shop.head() >= lsn, 30, f"LSN {lsn} to be sealed")


def assert_all_out(shop: CliNode) -> None:
    """Every sealed tx is in the folder; one that is there twice is the same bytes twice."""
    found = batches(shop)
    sealed = [str(tx_id) for (tx_id,) in shop.query("SELECT tx_id FROM rf_tx ORDER BY to_lsn")]
    assert list(dict.fromkeys(part.header.tx_id for part in found)) == sealed
    assert len({part.raw for part in found}) == len(sealed)
    assert out_lsn(shop) == shop.head()


def test_once_seals_and_sends_everything(shop: CliNode) -> None:
    sell(shop, *range(1, 8))
    shop.ok("run", "--once", "--only", "producer")
    assert_all_out(shop)
    assert shop.head() == 7
    before = sorted((shop.folder / "exchange" / "shop").iterdir())
    shop.ok("run", "--once", "--only", "producer")
    assert sorted((shop.folder / "exchange" / "shop").iterdir()) == before
    sell(shop, 8)
    shop.ok("run", "--once", "--only", "producer")
    assert_all_out(shop)
    status = shop.report("status")
    assert status["sinks"][0]["cursor_lsn"] == status["head_lsn"] == 8
    assert status["sinks"][0]["lag_changes"] == 0


def test_a_running_node_sends_soon_and_stops_in_time(shop: CliNode) -> None:
    running = shop.start("--only", "producer")
    for number in range(1, 11):
        sell(shop, number)
        wait_for_out(shop, number)
    began = time.monotonic()
    assert running.stop() == 0, running.tail()
    assert time.monotonic() - began < 10
    assert_all_out(shop)
    assert "service.crashed" not in running.tail()


@pytest.mark.parametrize("saves", [1, 3])
def test_killed_between_confirm_and_cursor(shop: CliNode, saves: int) -> None:
    command = [sys.executable, "-c", _DIES_AT_SAVE.format(saves=saves), "--config", "rowferry.toml"]
    sell(shop, 0)
    with subprocess.Popen([*command, "run", "--only", "producer"], cwd=shop.folder) as child:
        written = 0
        while child.poll() is None:
            written += 1
            sell(shop, written)
        assert child.returncode == -signal.SIGKILL
    confirmed = {part.header.to_lsn for part in batches(shop)}
    assert max(confirmed) > out_lsn(shop), "the kill came after the confirm"
    shop.ok("run", "--once", "--only", "producer")
    assert_all_out(shop)
    assert Counter(part.header.tx_id for part in batches(shop)).most_common(1)[0][1] <= 2


def test_killed_again_and_again(shop: CliNode) -> None:
    for round_number in range(4):
        running = shop.start("--only", "producer")
        for number in range(25):
            sell(shop, round_number * 25 + number)
        wait_for_sealed(shop, round_number * 25 + 1)
        running.kill()
    shop.ok("run", "--once", "--only", "producer")
    assert_all_out(shop)
    assert shop.head() == 100


def test_a_folder_that_is_away_is_waited_for(shop: CliNode) -> None:
    exchange, away = shop.folder / "exchange", shop.folder / "away"
    running = shop.start("--only", "producer")
    sell(shop, 1)
    wait_for_out(shop, 1)
    os.rename(exchange, away)
    sell(shop, 2)
    wait_for(lambda: "service.outage" in running.tail(), 30, "the outage in the log")
    assert out_lsn(shop) == 1
    assert shop.head() == 2, "sealing goes on"
    wait_for(lambda: "the shared folder has been unusable since" in status(shop), 30, "status says so too")
    os.rename(away, exchange)
    wait_for_out(shop, 2)
    assert "the shared folder has been unusable" not in status(shop)
    assert running.stop() == 0
    assert_all_out(shop)


def status(shop: CliNode) -> str:
    return shop.call("status").stdout


def test_once_says_when_the_folder_is_away(shop: CliNode) -> None:
    sell(shop, 1)
    os.rename(shop.folder / "exchange", shop.folder / "away")
    failed = shop.call("run", "--once", "--only", "producer")
    assert failed.returncode == 5
    assert "exchange" in failed.stderr
    os.rename(shop.folder / "away", shop.folder / "exchange")
    shop.ok("run", "--once", "--only", "producer")
    assert_all_out(shop)


def test_a_large_tx_is_one_file_of_many_parts(shop: CliNode) -> None:
    shop.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) "
        f"INSERT INTO sale SELECT i, '{'x' * 500}' FROM n"
    )
    sell(shop, 30_000)
    shop.ok("run", "--once", "--only", "producer")
    found = batches(shop)
    large = [part for part in found if part.header.parts > 1]
    assert [part.header.part for part in large] == list(range(1, large[0].header.parts + 1))
    assert sum(part.header.changes for part in found) == 20_001
    assert out_lsn(shop) == shop.head() == 20_001
