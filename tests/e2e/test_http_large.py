"""100,000 changes each way over HTTP, with either side killed in the middle, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.http_fleet import Fleet
from tests.support.nodes import CliNode, Running
from tests.support.waiting import wait_for

pytestmark = pytest.mark.heavy

ROWS = 100_000
TXS = 20
MOST_MEMORY = 700 * 1024 * 1024
"""For each process; the rows alone are some 60 MB of batches each way."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    made.serve()
    yield made
    made.close()


def fill(node: CliNode) -> None:
    """Insert the rows in a handful of transactions."""
    each = ROWS // TXS
    for turn in range(TXS):
        first, last = turn * each, (turn + 1) * each - 1
        node.execute(
            f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
            f" INSERT INTO store SELECT '{node.node_id}-' || i, 'the name of store number ' || i FROM n"
        )


def count(node: CliNode) -> int:
    return int(node.query("SELECT count(*) FROM store")[0][0])


def memory(running: Running) -> int:
    return int(psutil.Process(running.process.pid).memory_info().rss)


def test_100_000_changes_each_way_with_kills_in_the_middle(fleet: Fleet) -> None:
    branch = fleet.branch("branch")
    for node in (fleet.main, branch):
        # The test looks while both sides write.
        node.execute("PRAGMA journal_mode=WAL")
        fill(node)
    running = branch.start()
    # Both directions are under way once either side has some of the other's rows.
    wait_for(lambda: count(fleet.main) > ROWS and count(branch) > ROWS, 300, "both ways to begin")
    assert fleet.server is not None
    fleet.server.kill()
    fleet.serve()
    running.kill()
    running = branch.start()
    peak = 0

    def done() -> bool:
        nonlocal peak
        assert fleet.server is not None
        peak = max(peak, memory(fleet.server), memory(running))
        return count(fleet.main) == count(branch) == 2 * ROWS

    wait_for(done, 600, "all rows to be on both sides")
    assert peak < MOST_MEMORY
    assert fleet.main.rows(["store"]) == branch.rows(["store"])
    for node in (fleet.main, branch):
        assert node.report("dlq", "list") == []
        assert node.report("conflicts", "list") == []
    # Each tx once, whoever was killed.
    assert fleet.main.query("SELECT count(*) FROM rf_applied_tx") == branch.query("SELECT count(*) FROM rf_tx")
    assert branch.query("SELECT count(*) FROM rf_applied_tx") == fleet.main.query("SELECT count(*) FROM rf_tx")
    assert running.stop() == 0
