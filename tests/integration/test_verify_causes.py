"""What `verify` makes of a row that differs: on its way, waiting, set aside, or nothing that explains it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.crash_points import VARIABLE, CrashPoint
from common.http.scopes import Scope
from tests.support.applying import Origin, Write, sqlite_url
from tests.support.cli import call, ok
from tests.support.meanwhile import meanwhile
from tests.support.verifying import Pair, damage, made_pair, rows, seed


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with made_pair(tmp_path, sqlite_url(tmp_path, "main.db"), sqlite_url(tmp_path, "shop.db")) as one:
        yield one


@pytest.fixture
def manual(tmp_path: Path) -> Iterator[Pair]:
    urls = sqlite_url(tmp_path, "main.db"), sqlite_url(tmp_path, "shop.db")
    with made_pair(tmp_path, *urls, tables={"policy": {"item": "manual"}}) as one:
        yield one


def causes(report: Any) -> dict[int, tuple[Any, Any, Any]]:
    return {one["pk"]["id"]: (one["state"], one["here"]["cause"], one["there"]["cause"]) for one in report["rows"]}


def test_what_has_not_come_yet_is_on_its_way(pair: Pair) -> None:
    seed(pair)
    pair.main.world.execute("INSERT INTO item VALUES (50, NULL, 'new', 1)", "UPDATE code SET code = 'z' WHERE id = 2")
    pair.branch.execute("DELETE FROM item WHERE id = 11")
    found = pair.verify(code=4)
    assert sorted(rows(found)) == [
        ("code", 2, "version", "in-flight"),
        ("item", 11, "missing-here", "in-flight"),
        ("item", 50, "missing-here", "in-flight"),
    ]
    assert (found["equal"], found["differing_rows"]) == (False, 3)
    done = pair.verify("--repair", code=4)
    assert done["repaired_rows"] == 0
    assert {one["repair"] for one in done["rows"]} == {"left: it is on its way (--overtake sends it all the same)"}
    pair.sync()
    assert pair.verify()["equal"]


def test_what_is_on_its_way_is_waited_for(pair: Pair) -> None:
    seed(pair)
    pair.main.world.execute("INSERT INTO item VALUES (50, NULL, 'new', 1)")

    running = threading.Timer(1, pair.branch.ok, ["run", "--once"])
    running.start()
    found = pair.report("main", "--wait", "60")
    running.join()
    assert found["equal"]


def test_where_everybody_writes_all_the_time_what_differs_is_found_all_the_same(pair: Pair) -> None:
    """One side is always behind the other; what it has seen meanwhile is what the other had a moment ago."""
    seed(pair)
    running = pair.branch.start()

    def write(stop: threading.Event) -> None:
        number = 1_000
        while not stop.wait(0.03):
            number += 1
            pair.main.world.execute(f"INSERT INTO item VALUES ({number}, NULL, 'n', 1)")

    try:
        with meanwhile(write):
            pair.damage_branch("DELETE FROM code WHERE id = 1")
            done = pair.report("main", "--repair", "--wait", "60", "--tables", "code")
            assert rows(done) == [("code", 1, "missing-here", "repaired")]
    finally:
        running.stop()


def test_what_no_log_has_any_more_is_sent_where_somebody_asks_for_it(pair: Pair) -> None:
    """A gap that nobody can fill: the rows beyond it would be on their way for good."""
    seed(pair)
    pair.main.world.execute("UPDATE item SET name = 'lost' WHERE id = 1")
    pair.sync()
    before_id, before_lsn = pair.main.world.query(
        "SELECT tx_id, to_lsn FROM rf_tx ORDER BY to_lsn DESC LIMIT 1 OFFSET 1"
    )[0]
    pair.damage_branch(
        "UPDATE item SET name = 'tea' WHERE id = 1",
        "UPDATE rf_row_version SET hlc = hlc - 1, base_hlc = 0, base_node = '' WHERE key = '[1]'",
        f"UPDATE rf_sync_state SET last_lsn = {before_lsn}, last_tx_id = '{before_id}' WHERE peer = 'main'",
    )
    found = pair.verify("--tables", "item", code=4)
    assert rows(found) == [("item", 1, "version", "in-flight")]
    done = pair.verify("--tables", "item", "--repair", "--overtake")
    assert done["repaired_rows"] == 1
    assert pair.branch.query("SELECT name FROM item WHERE id = 1") == [("lost",)]


def test_a_conflict_that_waits_explains_it(manual: Pair) -> None:
    seed(manual)
    manual.main.world.execute("UPDATE item SET name = 'mains' WHERE id = 1")
    manual.branch.execute("UPDATE item SET name = 'shops' WHERE id = 1")
    manual.sync()
    found = manual.verify(code=4)
    state, _, there = causes(found)[1]
    assert (state, there) == ("explained", "conflict")
    done = manual.verify("--repair", code=4)
    assert done["repaired_rows"] == 0
    assert done["rows"][0]["repair"] == "left: what waits or was set aside decides it"
    told = call(manual.branch, "verify", "main", "--wait", "0")
    assert told.exit_code == 4
    assert "a change waits for a choice at main" in told.output


def test_a_dead_letter_explains_it(pair: Pair) -> None:
    seed(pair)
    pair.main.world.block_codes()
    pair.sync()
    pair.branch.execute("UPDATE code SET code = 'moved' WHERE id = 5", "INSERT INTO code VALUES (77, 'taken')")
    call(pair.branch, "run", "--once")
    found = pair.verify("--tables", "code", code=4)
    assert causes(found)[77] == ("explained", None, "dead-letter")


def test_a_row_that_stepped_back_everywhere_differs_nowhere(pair: Pair) -> None:
    seed(pair)
    pair.main.world.execute("INSERT INTO code VALUES (10, 'one')")
    pair.branch.execute("INSERT INTO code VALUES (20, 'one')")
    pair.sync()
    assert pair.verify()["equal"]
    assert len(pair.branch.query("SELECT id FROM code WHERE code = 'one'")) == 1
    # The rival stands on one side alone.
    stands = pair.branch.query("SELECT id FROM code WHERE code = 'one'")[0][0]
    pair.damage_branch(f"DELETE FROM code WHERE id = {stands}")
    assert rows(pair.verify(code=4)) == [("code", stands, "missing-here", "different")]
    assert pair.verify("--repair")["repaired_rows"] == 1


def test_a_row_whose_tombstone_may_be_forgotten_does_not_rise(pair: Pair) -> None:
    seed(pair)
    pair.damage_main(
        "DELETE FROM item WHERE id = 11",
        "DELETE FROM rf_row_version WHERE key = '[11]'",
        "INSERT INTO rf_horizon (table_id, main_epoch, hlc, node_id)"
        " SELECT table_id, 0, 9000000000000000, 'zz' FROM rf_table WHERE name = 'item'",
    )
    done = pair.verify("--repair", code=4)
    assert rows(done) == [("item", 11, "missing-there", "different")]
    assert "refused" in done["rows"][0]["repair"]
    assert pair.main.world.query("SELECT * FROM item WHERE id = 11") == []


def test_parents_come_before_their_children_whatever_they_are_called(pair: Pair) -> None:
    seed(pair)
    pair.damage_branch("DELETE FROM item", "DELETE FROM parent")
    done = pair.verify("--repair")
    assert (done["repaired_rows"], done["equal"]) == (6, True)


def test_a_paused_table_is_not_compared(pair: Pair) -> None:
    seed(pair)
    ok(pair.branch, "pause", "item")
    pair.branch.execute("UPDATE item SET name = 'surgery' WHERE id = 1")
    found = pair.verify(code=4)
    assert (found["not_compared"], found["rows"]) == ([{"table": "item", "reason": "paused"}], [])
    ok(pair.branch, "resume", "item")
    pair.sync()
    assert pair.verify()["equal"]


def test_tables_of_one_side_alone_are_named_and_no_fault(pair: Pair) -> None:
    seed(pair)
    pair.main.world.execute("CREATE TABLE extra (id integer PRIMARY KEY)")
    found = pair.verify()
    assert found["not_compared"] == [{"table": "extra", "reason": "only-there"}]
    assert found["equal"]
    refused = call(pair.branch, "verify", "main", "--tables", "nothing")
    assert (refused.exit_code, "neither shop nor main" in refused.output) == (2, True)


def test_a_guarded_table_is_repaired_too(tmp_path: Path) -> None:
    urls = sqlite_url(tmp_path, "main.db"), sqlite_url(tmp_path, "shop.db")
    with made_pair(tmp_path, *urls, tables={"policy": {"item": "append-only"}}) as pair:
        config = pair.branch.folder / "rowferry.toml"
        config.write_text(config.read_text().replace("[tables.policy]", '[tables.policy]\nitem = "append-only"'))
        ok(pair.branch, "migrate")
        pair.main.world.execute("INSERT INTO item VALUES (1, NULL, 'one', 1), (2, NULL, 'two', 2)")
        pair.sync()
        pair.damage_branch("DELETE FROM item WHERE id = 1", "UPDATE item SET name = 'AAA' WHERE id = 2")
        done = pair.verify("--repair")
        assert (done["repaired_rows"], done["equal"]) == (2, True), done["rows"]


def test_a_branch_is_not_believed_for_rows_of_others(pair: Pair) -> None:
    seed(pair)
    other = Origin("other")
    row = {"id": 90, "parent_id": None, "name": "of another", "price": "1.00"}
    other.tables["item"] = other.tables["item"].model_copy(
        update={"columns": {"id": "int", "parent_id": "int", "name": "text", "price": "decimal"}}
    )
    token = pair.main.token("other", Scope.PUSH)
    with pair.main.client(token) as client:
        body = other.tx(Write("I", "item", row, 10)).body
        assert client.post("/sync/push", content=body).json()["counts"] == {"applied": 1}
    pair.sync()
    assert pair.verify()["equal"]
    pair.damage_main("DELETE FROM item WHERE id = 90")
    done = pair.verify("--repair", code=4)
    assert "other wrote it, and shop speaks for itself alone" in done["rows"][0]["repair"]
    # The other way main is believed for all.
    pair.damage_main("INSERT INTO item VALUES (90, NULL, 'of another', 1)")
    pair.damage_branch("DELETE FROM item WHERE id = 90")
    assert pair.verify("--repair")["repaired_rows"] == 1


def test_without_the_right_scope_it_is_said(pair: Pair) -> None:
    seed(pair)
    pair.damage_main("DELETE FROM item WHERE id = 11")
    pair.damage_branch("DELETE FROM item WHERE id = 1")
    pair.token(Scope.PULL)
    done = pair.verify("--repair", code=4)
    assert {one["pk"]["id"]: one["state"] for one in done["rows"]} == {1: "repaired", 11: "different"}
    assert "scope push or forward" in next(one["repair"] for one in done["rows"] if one["pk"]["id"] == 11)
    pair.token(Scope.PUSH)
    refused = call(pair.branch, "verify", "main")
    assert (refused.exit_code, "scope pull" in refused.output) == (1, True)


def test_a_node_that_is_no_peer_is_found_by_its_url(pair: Pair) -> None:
    seed(pair)
    config = pair.branch.folder / "rowferry.toml"
    config.write_text(config.read_text().partition("[peers.main]")[0])
    found = pair.report("--url", pair.main.url, "--token-file", str(pair.branch.folder / "main.token"))
    assert (found["equal"], found["peer"]) == (True, "main")
    assert call(pair.branch, "verify", "--url", pair.main.url).exit_code == 2


def test_a_peer_that_is_away_is_exit_code_5(pair: Pair) -> None:
    config = pair.branch.folder / "rowferry.toml"
    config.write_text(config.read_text().replace(pair.main.url, "http://127.0.0.1:1"))
    assert call(pair.branch, "verify", "main").exit_code == 5
    assert call(pair.branch, "verify", "nobody").exit_code == 2
    assert call(pair.branch, "verify").exit_code == 2


def test_where_signatures_are_asked_for_nothing_else_counts(pair: Pair) -> None:
    seed(pair)
    config = pair.branch.folder / "rowferry.toml"
    config.write_text(config.read_text().replace("[node]\n", "[node]\nrequire_signed = true\n"))
    refused = call(pair.branch, "verify", "main")
    assert (refused.exit_code, "not signed" in refused.output) == (1, True), refused.output


@pytest.mark.parametrize("place", [CrashPoint.BEFORE_COMMIT, CrashPoint.AFTER_COMMIT])
def test_killed_midway_it_is_brought_to_its_end_by_another_run(pair: Pair, place: CrashPoint) -> None:
    seed(pair)
    pair.damage_branch("DELETE FROM item", "DELETE FROM parent")
    pair.damage_main("DELETE FROM item WHERE id = 11")
    killed = pair.branch.call("verify", "main", "--repair", "--wait", "0", **{VARIABLE: f"{place.value}:1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    items = pair.branch.query("SELECT count(*) FROM item")[0][0]
    assert items == (0 if place is CrashPoint.BEFORE_COMMIT else 3)
    assert pair.verify("--repair")["equal"]
    assert pair.verify()["rows"] == []


def test_a_node_that_was_put_back_rejoins_before_it_repairs(pair: Pair) -> None:
    seed(pair)
    pair.damage_branch("UPDATE rf_node SET rewound_us = 1 WHERE is_self")
    assert pair.verify()["equal"]
    refused = call(pair.branch, "verify", "main", "--repair")
    assert (refused.exit_code, "rowferry rejoin" in refused.output) == (2, True)


def test_status_says_with_whom_it_was_verified(pair: Pair) -> None:
    seed(pair)
    assert pair.branch.report("status")["verified"] == []
    pair.verify("--tables", "item")
    assert pair.branch.report("status")["verified"] == []
    pair.verify()
    (told,) = pair.branch.report("status")["verified"]
    assert told["node"] == "main"
    assert f"verified equal with main at {told['at']}" in ok(pair.branch, "status")
    # What is on its way says nothing against it.
    pair.main.world.execute("INSERT INTO item VALUES (50, NULL, 'new', 1)")
    pair.verify(code=4)
    assert pair.branch.report("status")["verified"] == [told]
    pair.sync()
    damage(pair.branch.database, "DELETE FROM item WHERE id = 50")
    pair.verify(code=4)
    assert pair.branch.report("status")["verified"] == []
