"""`pause` and `resume` on whole nodes of both kinds: surgery under a running node, and a `resume` that is killed."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.nodes import ROWFERRY, CliNode
from tests.support.waiting import wait_for

SCHEMA = (
    "CREATE TABLE item (id integer PRIMARY KEY, name text, note text)",
    "CREATE TABLE line (id integer PRIMARY KEY, item integer REFERENCES item (id), what text)",
)
Make = Callable[[str], CliNode]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    nodes: list[CliNode] = []

    def make(node_id: str) -> CliNode:
        folder = tmp_path / node_id
        folder.mkdir()
        url = f"sqlite:///{folder / 'shop.db'}"
        if request.param == "postgresql":
            url = request.getfixturevalue("pg_database_factory")()
        node = CliNode(node_id, folder, url.replace("postgresql://", "postgresql+psycopg://"))
        if request.param == "sqlite":
            with closing(sqlite3.connect(folder / "shop.db")):
                pass
        node.execute(*SCHEMA)
        node.ok("init", "--node", node_id, "--database", url, "--directory", str(tmp_path / "exchange"))
        node.ok("migrate")
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        for run in node.runs:
            run.kill()


def exchange(*nodes: CliNode, code: int = 0) -> None:
    for node in nodes:
        assert node.call("run", "--once").returncode in (0, code)


def rows(node: CliNode) -> list[tuple[object, ...]]:
    return node.query("SELECT id, name FROM item ORDER BY id")


def test_surgery_under_a_running_node(make: Make) -> None:
    one, two = make("one"), make("two")
    one.execute("INSERT INTO item VALUES (1, 'a', 'n'), (2, 'b', NULL), (3, 'c', NULL)")
    exchange(one, two)
    running = one.start()
    wait_for(lambda: one.report("status")["state"] == "up to date", 60, "one is up")

    assert [entry["table"] for entry in one.report("pause", "item")["paused"]] == ["item"]
    assert [entry["table"] for entry in one.report("pause", "item")["already"]] == ["item"]
    one.execute("ALTER TABLE item DROP COLUMN note")
    one.execute("UPDATE item SET name = 'meanwhile' WHERE id = 1")
    one.execute("DELETE FROM item WHERE id = 2")
    one.execute("INSERT INTO item VALUES (4, 'new')")
    assert one.report("migrate")["paused"] == ["item"]
    wait_for(lambda: "item has been paused since" in running.tail(100_000), 60, "the node that runs says so")
    standing = one.report("status")
    assert standing["state"] == "needs attention"
    assert "item has been paused since" in standing["reasons"][0]
    assert [entry["table"] for entry in standing["paused"]] == ["item"]
    assert standing["drifted"] == []
    two.execute("UPDATE item SET name = 'theirs' WHERE id = 3")
    two.execute("INSERT INTO line VALUES (1, 3, 'x')")
    two.execute("ALTER TABLE item DROP COLUMN note") if "postgresql" in two.database else surgery(two)
    two.execute("UPDATE item SET name = 'theirs too' WHERE id = 3")
    exchange(two)
    wait_for(lambda: (3, "theirs too") in rows(one), 60, "what others send is applied on")

    report = one.report("resume", "item", "line")
    assert report["resumed"] == ["item"]
    assert report["not_paused"] == ["line"]
    assert running.stop() == 0
    assert one.report("status")["paused"] == []
    exchange(one, two, one)
    assert rows(one) == rows(two) == [(1, "meanwhile"), (3, "theirs too"), (4, "new")]
    own = "SELECT count(*) FROM rf_tx"
    sent = one.query(own)
    exchange(one, two)
    assert one.query(own) == sent
    assert [line[0] for line in one.query("SELECT action FROM rf_audit WHERE action IN ('pause', 'resume')")] == [
        "pause",
        "resume",
    ]


def test_a_table_that_was_renamed_in_its_pause_is_resumed_under_its_own_name(make: Make) -> None:
    one, two = make("one"), make("two")
    one.execute("INSERT INTO item VALUES (1, 'a', 'n'), (2, 'b', NULL)")
    exchange(one, two)
    one.ok("pause", "item")
    one.execute("UPDATE item SET name = 'meanwhile' WHERE id = 1")
    one.execute("ALTER TABLE item RENAME TO thing")
    one.execute("INSERT INTO thing VALUES (3, 'c', NULL)")
    exchange(one)
    one.execute("DELETE FROM thing WHERE id = 2")
    exchange(one)
    (found,) = [one for one in one.report("doctor")["findings"] if "no longer there" in one["message"]]
    assert found["remedy"].startswith("if it was renamed, change the name back, rowferry resume item")
    one.execute("ALTER TABLE thing RENAME TO item")
    one.ok("resume", "item")
    # What was captured under the other name is set aside there, where no table has it.
    exchange(one, two, code=4)
    assert rows(one) == rows(two) == [(1, "meanwhile"), (3, "c")]


def surgery(node: CliNode) -> None:
    node.ok("pause", "item")
    node.execute("ALTER TABLE item DROP COLUMN note")
    node.ok("resume", "item")


def test_a_batch_for_a_row_that_was_written_waits_and_is_applied_on_resume(make: Make) -> None:
    one, two = make("one"), make("two")
    one.execute("INSERT INTO item VALUES (1, 'a', NULL), (2, 'b', NULL)")
    exchange(one, two)
    two.ok("pause", "item")
    two.execute("UPDATE item SET note = 'own' WHERE id = 1")
    one.execute("UPDATE item SET name = 'later' WHERE id = 1", "UPDATE item SET name = 'free' WHERE id = 2")
    exchange(one, two, code=4)
    assert rows(two) == [(1, "a"), (2, "b")]
    (letter,) = two.report("dlq", "list")
    assert (letter["reason"], letter["state"], letter["table_name"]) == ("paused", "early", "item")
    assert "rowferry resume item" in letter["error"]
    report = two.report("resume", "item")
    assert (report["sealed"], report["retried"]) == (1, 1)
    exchange(two, one)
    content = "SELECT id, name, note FROM item ORDER BY id"
    assert one.query(content) == two.query(content)
    assert len(two.query("SELECT * FROM rf_conflict")) + len(one.query("SELECT * FROM rf_conflict")) >= 1
    assert two.report("dlq", "list") == []


def test_names_that_are_nothing_here(make: Make) -> None:
    node = make("one")
    for command in ("pause", "resume"):
        done = node.call(command, "itme")
        assert done.returncode == 2
        assert "itme" in done.stderr
        assert node.call(command).returncode == 2


def test_what_is_lost_of_a_table_that_was_renamed_in_its_pause_is_told(make: Make) -> None:
    node = make("one")
    node.ok("pause", "item")
    node.execute("ALTER TABLE item RENAME TO thing", "INSERT INTO thing (id, name) VALUES (1, 'in the pause')")
    assert "what was written to it during the pause is not sent" in node.ok("resume", "item")


def test_a_resume_that_is_killed_again_and_again(make: Make) -> None:
    chance = random.Random(7)
    one, two = make("one"), make("two")
    one.execute(*(f"INSERT INTO item VALUES ({number}, 'n{number}', NULL)" for number in range(3_000)))
    exchange(one, two)
    one.ok("pause", "item")
    one.execute(
        "UPDATE item SET name = 'meanwhile' WHERE id - id / 3 * 3 = 0",
        "DELETE FROM item WHERE id - id / 3 * 3 = 1",
        "INSERT INTO item VALUES (5000, 'new', NULL)",
    )
    for _ in range(5):
        command = [str(ROWFERRY), "--config", str(one.folder / "rowferry.toml"), "resume", "item"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)
        try:
            process.wait(0.3 + chance.random() * 1.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    one.ok("resume", "item")
    assert one.report("status")["paused"] == []
    exchange(one, two)
    assert rows(two) == rows(one)
    changes = "SELECT count(*) FROM rf_change_log" + (" WHERE seq > 3000" if "postgresql" in one.database else "")
    sealed = 2_001 + (0 if "postgresql" in one.database else 3_000)
    assert one.query(changes) == [(sealed,)]
