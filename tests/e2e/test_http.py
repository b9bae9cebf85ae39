"""Nodes that have only HTTP: they meet through the main node, and nothing is lost when somebody is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import checked
from tests.support.http_fleet import TABLES, Fleet, insert, same, wait_until_same
from tests.support.waiting import wait_for


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    made.serve()
    yield made
    made.close()


def test_two_branches_meet_through_main(fleet: Fleet) -> None:
    one, two = fleet.branch("one"), fleet.branch("two")
    insert(fleet.main, "m", 3)
    insert(one, "a", 3)
    insert(two, "b", 3)
    runs = [one.start(), two.start()]
    wait_until_same(fleet, 3)
    one.execute("UPDATE store SET name = 'later' WHERE id = 'b'")
    wait_for(lambda: ("b", "later") in two.rows(["store"])["store"], 60, "an update to cross")
    two.execute("DELETE FROM sale WHERE store = 'm'", "DELETE FROM store WHERE id = 'm'")
    wait_until_same(fleet, 2)
    assert [running.stop() for running in runs] == [0, 0]
    for node in (fleet.main, one, two):
        assert node.report("dlq", "list") == []
        assert node.report("conflicts", "list") == []
    state = one.report("status")
    assert [sink["sink"] for sink in state["sinks"]] == ["http-main"]
    assert [(peer["peer"], peer["unusable_since"]) for peer in state["http_peers"]] == [("main", None)]
    assert {source["peer"] for source in state["sources"]} == {"main", "two"}


def test_run_once_drains_both_ways(fleet: Fleet) -> None:
    one, two = fleet.branch("one"), fleet.branch("two")
    insert(one, "a", 50)
    insert(fleet.main, "m", 50)
    one.ok("run", "--once")
    two.ok("run", "--once")
    one.ok("run", "--once")
    assert same(fleet.main, one, two)
    assert len(one.rows(TABLES)["sale"]) == 100


def test_nothing_is_lost_or_doubled_when_either_side_is_killed(fleet: Fleet) -> None:
    one, two = fleet.branch("one"), fleet.branch("two")
    runs = [one.start(), two.start()]
    for turn in range(3):
        for node in (fleet.main, one, two):
            insert(node, f"{node.node_id}-{turn}", 400)
        assert fleet.server is not None
        if turn % 2:
            fleet.server.kill()
            fleet.serve()
        else:
            runs[0].kill()
            runs[0] = one.start()
    wait_until_same(fleet, 9)
    for node in (fleet.main, one, two):
        assert len(node.rows(TABLES)["sale"]) == 3600
        assert node.report("dlq", "list") == []
        assert node.report("conflicts", "list") == []
    assert [running.stop() for running in runs] == [0, 0]


def test_a_revoked_token_stops_one_branch_and_a_new_one_goes_on_where_it_was(fleet: Fleet) -> None:
    one, two = fleet.branch("one"), fleet.branch("two")
    runs = [one.start(), two.start()]
    insert(one, "a")
    wait_until_same(fleet, 1)
    (token,) = [entry["id"] for entry in fleet.main.report("token", "list") if entry["node_id"] == "one"]
    fleet.main.ok("token", "revoke", token)
    insert(fleet.main, "m")
    wait_for(lambda: same(fleet.main, two), 60, "the other branch to go on")
    wait_for(lambda: "revoked" in runs[0].tail(), 60, "the branch to say why")
    assert len(one.rows(TABLES)["store"]) == 1
    (finding,) = [found for found in one.report("doctor", code=1)["findings"] if found["area"] == "peers"]
    assert (finding["level"], "token create" in finding["remedy"]) == ("fail", True)
    renewed = fleet.main.report("token", "create", "--node", "one")["token"]
    (one.folder / "main.token").write_text(renewed)
    wait_until_same(fleet, 2)
    assert [running.stop() for running in runs] == [0, 0]


def test_push_and_pull_by_hand(fleet: Fleet) -> None:
    one, two = fleet.branch("one"), fleet.branch("two")
    url = f"http://127.0.0.1:{fleet.port}"
    insert(fleet.main, "m", 2)
    insert(one, "a", 2)
    first = checked("push", one.report("push", "--url", url))
    # What nobody has asked main for is not sealed there yet, so nothing is known to be due.
    assert (first["client"], first["outcomes"], first["to_lsn"]) == ("main", {"applied": 1}, 3)
    pulled = checked("pull", one.report("pull", "--url", url))
    assert (pulled["peer"], pulled["applied"], pulled["set_aside"]) == ("main", 1, [])
    assert checked("pull", one.report("pull", "--url", url))["applied"] == 0
    insert(two, "b", 2)
    due = two.call("push", "--url", url)
    assert (due.returncode, "pull is due first" in due.stderr) == (0, True)
    two.ok("pull", "--url", url)
    one.ok("pull", "--url", url)
    assert same(fleet.main, one, two)
    (state,) = [client for client in one.report("status")["clients"] if client["client"] == "main"]
    assert state["last_lsn"] == 3
    again = one.report("push", "--url", url)
    assert (again["outcomes"], again["from_lsn"], again["pull_due"]) == ({}, None, False)


def test_a_push_by_hand_ends_what_an_earlier_run_said_of_the_peer(fleet: Fleet) -> None:
    one = fleet.branch("one")
    token = one.folder / "main.token"
    right = token.read_text()
    token.write_text("")
    assert one.call("run", "--once").returncode == 2
    token.write_text(right)
    (peer,) = one.report("status")["http_peers"]
    assert "main.token is empty" in peer["error"]
    one.ok("push", "--url", f"http://127.0.0.1:{fleet.port}")
    (peer,) = one.report("status")["http_peers"]
    assert (peer["unusable_since"], peer["error"]) == (None, None)
    assert one.report("status")["state"] == "up to date"


def test_a_url_without_a_token_and_one_with_a_foreign_token_are_refused_with_the_remedy(fleet: Fleet) -> None:
    one = fleet.branch("one")
    url = f"http://127.0.0.1:{fleet.port}"
    insert(one, "a")
    lost = one.call("push", "--url", "http://127.0.0.1:1")
    assert (lost.returncode, "--token-file" in lost.stderr) == (2, True)
    assert one.call("pull", "--url", url, "--file", "x").returncode == 2
    foreign = one.folder / "foreign.token"
    foreign.write_text(fleet.main.report("token", "create", "--node", "somebody")["token"])
    foreign.chmod(0o600)
    refused = one.call("push", "--url", url, "--token-file", str(foreign))
    assert (refused.returncode, "speaks for somebody" in refused.stderr) == (1, True)
    assert fleet.main.rows(TABLES)["store"] == []
    foreign.write_text("nonsense")
    refused = one.call("pull", "--url", url, "--token-file", str(foreign))
    assert (refused.returncode, "not one of this node's" in refused.stderr) == (1, True)
    assert fleet.server is not None
    fleet.server.stop()
    assert one.call("push", "--url", url).returncode == 5
