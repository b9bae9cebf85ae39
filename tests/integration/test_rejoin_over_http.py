"""A branch that was put back and knows its hub alone fetches from there what it has lost of its own log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_rejoin import back_up, put_back
from tests.support.http_fleet import Fleet, insert, same
from tests.support.nodes import CliNode
from tests.support.waiting import wait_for

TABLES = ["store", "sale"]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    made.serve()
    made.branch("a")
    made.branch("b")
    yield made
    made.close()


def sync(fleet: Fleet) -> None:
    for _ in range(2):
        for node in fleet.branches:
            node.ok("run", "--once")


def rejoin(fleet: Fleet, node: CliNode) -> dict[str, Any]:
    node.call("run", "--once", "--only", "consumer")
    return dict(node.report("rejoin"))


def test_what_its_hub_has_kept_comes_back_and_what_only_it_has_reaches_all(fleet: Fleet) -> None:
    a, b = fleet.branches
    insert(a, "first", 2)
    sync(fleet)
    copy = back_up(a)
    insert(a, "lost", 5)
    a.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)"
        " INSERT INTO store SELECT 'large-' || i, hex(randomblob(1500)) FROM n"
    )
    sync(fleet)
    put_back(a, copy)
    insert(a, "only here", 1)
    done = rejoin(fleet, a)
    assert (done["missing_changes"], done["peers_not_asked"]) == (0, [])
    assert (done["fetched_txs"], done["fetched_changes"]) == (1, 6 + 200)
    assert done["only_here_rows"] == 2
    sync(fleet)
    sync(fleet)
    wait_for(lambda: same(fleet.main, a, b), 60, "all nodes to hold the same rows")
    assert len(a.rows(TABLES)["store"]) == 3 + 200
    assert a.report("status")["state"] == "up to date"


def test_a_branch_put_back_to_before_its_first_pull_gets_all_of_its_hub_again(fleet: Fleet) -> None:
    """It shows no mark then, and the hub still knows how far it once was."""
    a, _ = fleet.branches
    copy = back_up(a)
    insert(fleet.main, "of the hub", 3)
    sync(fleet)
    assert same(fleet.main, a)
    put_back(a, copy)
    rejoin(fleet, a)
    sync(fleet)
    assert same(fleet.main, a)
    assert a.report("status")["state"] == "up to date"


def test_a_hub_that_is_away_may_be_the_only_one_that_has_it(fleet: Fleet) -> None:
    a, _ = fleet.branches
    insert(a, "first")
    sync(fleet)
    copy = back_up(a)
    insert(a, "lost")
    sync(fleet)
    put_back(a, copy)
    a.call("run", "--once")
    incarnation = a.query("SELECT incarnation FROM rf_node WHERE is_self")
    assert fleet.server is not None
    fleet.server.stop()
    refused = a.call("rejoin")
    assert refused.returncode == 5
    assert "can't be reached" in refused.stderr or "refused" in refused.stderr
    assert a.query("SELECT incarnation FROM rf_node WHERE is_self") == incarnation
    fleet.serve()
    assert a.report("rejoin")["missing_changes"] == 0


def test_without_the_right_to_pull_it_is_said_who_was_not_asked(fleet: Fleet) -> None:
    a, _ = fleet.branches
    insert(a, "first")
    sync(fleet)
    copy = back_up(a)
    insert(a, "lost", 1)
    sync(fleet)
    put_back(a, copy)
    a.call("run", "--once")
    token = fleet.main.report("token", "create", "--node", "a", "--scope", "push")["token"]
    (a.folder / "main.token").write_text(token)
    done = a.call("rejoin")
    assert done.returncode == 4
    assert "nothing could be fetched from main: " in done.stderr
    assert "can no longer be recovered" in done.stderr


def test_what_was_written_between_two_restores_comes_back_from_the_hub(fleet: Fleet) -> None:
    """That life began and ended after the backup: nothing here tells of it, and there is no folder that would."""
    a, b = fleet.branches
    insert(a, "first")
    sync(fleet)
    backup = str(a.folder / "backup")
    a.ok("backup", backup)
    insert(a, "of the first life", 2)
    sync(fleet)
    a.ok("restore", backup, "--discard-present")
    assert rejoin(fleet, a)["missing_changes"] == 0
    insert(a, "of the second life", 3)
    sync(fleet)
    insert(fleet.main, "of the hub")
    a.ok("restore", backup, "--discard-present")
    insert(a, "only here")
    done = rejoin(fleet, a)
    assert (done["missing_changes"], done["peers_not_asked"]) == (0, [])
    assert (done["fetched_txs"], done["fetched_changes"]) == (2, 3 + 4)
    sync(fleet)
    sync(fleet)
    assert same(fleet.main, a, b)
    assert len(a.rows(TABLES)["store"]) == 5
    status = a.report("status")
    assert (status["rewound_since"], status["state"]) == (None, "up to date")


def test_what_its_hub_has_no_more_of_another_life_is_said_to_be_lost(fleet: Fleet) -> None:
    a, _ = fleet.branches
    backup = str(a.folder / "backup")
    a.ok("backup", backup)
    a.ok("restore", backup, "--discard-present")
    insert(a, "of the second life", 3)
    sync(fleet)
    fleet.main.execute("DELETE FROM rf_relay")
    a.ok("restore", backup, "--discard-present")
    a.call("run", "--once", "--only", "consumer")
    assert a.report("rejoin", code=4)["missing_changes"] == 4
    assert a.report("status")["state"] == "needs attention"


def test_a_life_that_is_not_here_is_told_at_first_contact(fleet: Fleet) -> None:
    """A file that was put in the place of another has another number: the node begins anew, and asks for nothing."""
    a, b = fleet.branches
    copy = back_up(a)
    sync(fleet)
    replaced(a, copy)
    insert(a, "lost")
    sync(fleet)
    replaced(a, copy)
    a.ok("run", "--once")
    (reason, *_) = a.report("status")["reasons"]
    assert "rowferry rejoin" in reason
    assert (done := rejoin(fleet, a))["fetched_txs"] == 1, done
    sync(fleet)
    assert same(fleet.main, a, b)
    assert len(a.rows(TABLES)["store"]) == 1
    assert a.report("status")["state"] == "up to date"


def replaced(node: CliNode, copy: bytes) -> None:
    """Put an old copy in the place of the file, as `mv` and `rsync` do."""
    put_back(node, copy)
    (node.folder / "fresh.db").write_bytes(copy)
    (node.folder / "fresh.db").replace(node.folder / "app.db")


def put_hub_back(fleet: Fleet, backup: str) -> None:
    assert fleet.server is not None
    fleet.server.stop()
    fleet.main.ok("restore", backup, "--discard-present")
    fleet.serve()


def test_a_hub_that_was_put_back_twice_hears_of_the_life_between_from_who_pulls(fleet: Fleet) -> None:
    """It asks nobody itself, and the log that it writes now is the only one that it knows."""
    a, _ = fleet.branches
    insert(fleet.main, "first")
    sync(fleet)
    backup = str(fleet.main.folder / "backup")
    fleet.main.ok("backup", backup)
    put_hub_back(fleet, backup)
    insert(fleet.main, "of the life between", 2)
    sync(fleet)
    put_hub_back(fleet, backup)
    insert(fleet.main, "since")
    sync(fleet)
    status = fleet.main.report("status")
    assert status["rewound_since"] is not None
    assert any("a log of it that is not here" in reason for reason in status["reasons"]), status["reasons"]
    done = fleet.main.report("rejoin", code=4)
    assert done["missing_changes"] == 3
    assert any("snapshot" in reason for reason in fleet.main.report("status")["reasons"])
    assert len(a.rows(TABLES)["store"]) == 3


def test_a_hub_that_was_put_back_gets_what_a_branch_had_sent_under_an_earlier_incarnation(fleet: Fleet) -> None:
    a, b = fleet.branches
    insert(a, "first")
    sync(fleet)
    backup = str(fleet.main.folder / "backup")
    fleet.main.ok("backup", backup)
    insert(a, "sent before it began anew", 2)
    sync(fleet)
    rejoin(fleet, a)
    insert(a, "sent since")
    sync(fleet)
    put_hub_back(fleet, backup)
    sync(fleet)
    assert same(fleet.main, a, b)
    before = fleet.main.query("SELECT count(*) FROM rf_applied_tx")
    sync(fleet)
    assert fleet.main.query("SELECT count(*) FROM rf_applied_tx") == before


def test_a_life_that_only_another_branch_has_is_told_through_the_hub(fleet: Fleet) -> None:
    """Neither the hub nor the branch itself knows of it, and the other branch has a newer log of it by then."""
    a, b = fleet.branches
    insert(a, "first")
    sync(fleet)
    mine, hubs = str(a.folder / "backup"), str(fleet.main.folder / "backup")
    a.ok("backup", mine)
    fleet.main.ok("backup", hubs)
    a.ok("restore", mine, "--discard-present")
    rejoin(fleet, a)
    insert(a, "of the life between", 2)
    sync(fleet)
    a.ok("restore", mine, "--discard-present")
    put_hub_back(fleet, hubs)
    rejoin(fleet, a)
    insert(a, "since")
    # The other one says at the end of its run what it has seen, and this one hears it at the end of its own.
    sync(fleet)
    assert a.report("status")["rewound_since"] is not None
    assert any("a log of it that is not here" in reason for reason in a.report("status")["reasons"])
    assert a.report("rejoin", code=4)["missing_changes"] == 3
    assert "of the life between" in [row[0] for row in b.rows(TABLES)["store"]]
