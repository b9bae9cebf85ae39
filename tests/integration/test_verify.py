"""`rowferry verify`: two nodes compared over HTTP, what differs named, and made equal with --repair."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.applying import sqlite_url
from tests.support.cli import call, ok
from tests.support.meanwhile import meanwhile
from tests.support.verifying import Pair, made_pair, rows, seed

_VERSION = "main_epoch, hlc, node_id, base_epoch, base_hlc, base_node"


@pytest.fixture
def pair(tmp_path: Path, main_url: str, shop_url: str) -> Iterator[Pair]:
    with made_pair(tmp_path, main_url, shop_url) as one:
        yield one


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Pair]:
    """The same on two SQLite files, where the kind of database is not what it is about."""
    with made_pair(tmp_path, sqlite_url(tmp_path, "main.db"), sqlite_url(tmp_path, "shop.db")) as one:
        yield one


def test_nodes_that_are_in_sync_are_equal(pair: Pair) -> None:
    seed(pair)
    found = pair.verify()
    assert (found["equal"], found["differing_rows"], found["rows"]) == (True, 0, [])
    assert {one["table"]: (one["rows_here"], one["rows_there"]) for one in found["tables"]} == {
        "code": (2, 2),
        "item": (4, 4),
        "parent": (2, 2),
    }
    told = ok(pair.branch, "verify", "main")
    assert "equal: 8 rows of 3 tables, shop and main" in told


def test_each_kind_of_difference_is_named_and_repaired(pair: Pair) -> None:
    seed(pair)
    pair.damage_branch(
        "UPDATE item SET name = 'AAA' WHERE id = 1",
        "DELETE FROM code WHERE id = 1",
        "INSERT INTO code VALUES (9, 'never sealed')",
    )
    pair.damage_main("DELETE FROM item WHERE id = 11", "UPDATE item SET name = 'aaa' WHERE id = 2")
    found = pair.verify(code=4)
    assert sorted(rows(found)) == [
        ("code", 1, "missing-here", "different"),
        ("code", 9, "missing-there", "before-first-sync"),
        ("item", 1, "values", "different"),
        ("item", 2, "values", "different"),
        ("item", 11, "missing-there", "different"),
    ]
    done = pair.verify("--repair", code=4)
    assert done["repaired_rows"] == 4, done["rows"]
    assert [row for row in rows(done) if row[3] != "repaired"] == [("code", 9, "missing-there", "before-first-sync")]
    pair.damage_branch("DELETE FROM code WHERE id = 9")
    assert pair.verify()["equal"]
    assert pair.branch.query("SELECT name FROM item WHERE id = 1") == [("tea",)]
    assert pair.main.world.query("SELECT name FROM item WHERE id = 2") == [("ä",)]
    assert pair.main.world.query("SELECT id FROM item WHERE id = 11") == [(11,)]
    assert pair.branch.query("SELECT code FROM code WHERE id = 1") == [("a",)]
    # Nobody takes what was repaired for a write of his own.
    before = pair.branch.head()
    pair.sync()
    assert pair.branch.head() == before
    assert pair.verify()["equal"]


def test_what_only_a_branch_has_of_mains_own_rows_is_proven_by_mains_log(pair: Pair) -> None:
    seed(pair)
    pair.damage_main("DELETE FROM item WHERE id = 3", "UPDATE item SET name = 'AAA' WHERE id = 1")
    done = pair.verify("--repair")
    assert (done["repaired_rows"], done["equal"]) == (2, True), done["rows"]
    assert pair.main.world.query("SELECT name FROM item WHERE id = 1") == [("tea",)]


def test_under_one_version_what_can_not_be_proven_gives_way(plain: Pair) -> None:
    """A branch that is not believed for main's rows can't make its greater image stand: else they differ for good."""
    seed(plain)
    plain.damage_branch("UPDATE item SET name = 'zzz' WHERE id = 1")
    done = plain.verify("--repair")
    assert (done["repaired_rows"], done["equal"]) == (1, True), done["rows"]
    assert plain.branch.query("SELECT name FROM item WHERE id = 1") == [("tea",)]
    met = json.loads(ok(plain.branch, "conflicts", "list", "--json"))
    assert {(one["kind"], one["state"]) for one in met} == {("identity", "settled")}
    assert met[-1]["winner"] == "theirs"


def test_a_higher_version_that_was_lost_goes_where_it_is_missing(pair: Pair) -> None:
    seed(pair)
    old = pair.branch.query(f"SELECT {_VERSION}, key, table_id FROM rf_row_version")
    pair.branch.execute("UPDATE item SET price = 7.25 WHERE id = 11")
    pair.main.world.execute("DELETE FROM item WHERE id = 3", "UPDATE code SET code = 'aa' WHERE id = 1")
    pair.sync()
    assert pair.verify()["equal"]
    # As if the branch had never applied main's writes, nor made its own.
    pair.damage_branch(
        "INSERT INTO item VALUES (3, NULL, NULL, NULL)",
        "UPDATE code SET code = 'a' WHERE id = 1",
        "UPDATE item SET price = 0.10 WHERE id = 11",
        "DELETE FROM rf_row_version",
        *(
            f"INSERT INTO rf_row_version ({_VERSION}, key, table_id, deleted)"
            f" VALUES ({e}, {h}, '{n}', {be}, {bh}, '{bn}', '{key}', {table}, false)"
            for e, h, n, be, bh, bn, key, table in old
            if "4" not in key
        ),
    )
    found = pair.verify(code=4)
    assert sorted(rows(found)) == [
        ("code", 1, "version", "different"),
        ("item", 3, "missing-there", "different"),
        ("item", 11, "version", "different"),
    ]
    assert found["rows"][0]["same_values"] is False
    done = pair.verify("--repair")
    assert done["repaired_rows"] == 3, done["rows"]
    assert pair.branch.query("SELECT count(*) FROM item WHERE id = 3") == [(0,)]
    assert pair.branch.query("SELECT code FROM code WHERE id = 1") == [("aa",)]


def test_while_everybody_writes_nothing_is_called_different(pair: Pair) -> None:
    """Rows of both sides that are just being written, sealed, sent and applied are on their way, whenever one looks."""
    seed(pair)
    running = pair.branch.start()

    def write(execute: Callable[..., None], first: int, stop: threading.Event) -> None:
        number = first
        while not stop.wait(0.02):
            number += 1
            execute(
                f"INSERT INTO item VALUES ({number}, NULL, 'n{number}', 1)",
                f"UPDATE item SET name = 'by {first}' WHERE id = {1 + number % 3}",
                f"DELETE FROM item WHERE id = {number - 5} AND {number - 5} > {first}",
            )

    seen: set[str] = set()
    at_both = partial(write, pair.main.world.execute, 10_000), partial(write, pair.branch.execute, 20_000)
    try:
        with meanwhile(*at_both):
            for _ in range(12):
                found = call(pair.branch, "verify", "main", "--wait", "0", "--json")
                report = json.loads(found.stdout)
                seen |= {one["state"] for one in report["rows"]}
                assert "different" not in seen, report["rows"]
        assert seen <= {"in-flight"}, seen
        assert pair.report("main", "--wait", "60")["equal"]
    finally:
        running.stop()
