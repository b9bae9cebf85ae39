"""`purge` and `node` as an operator calls them, what the others say of what is gone, and `run`, which does it alone."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.cli import document, rowferry
from tests.support.nodes import CliNode, sqlite_database

SCHEMA = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)"
A_SECOND = 0.00001
"""In days, about."""


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CliNode, CliNode]:
    """Two nodes that share a folder and keep next to nothing; `a` is main."""
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    nodes = []
    for name, role in (("a", "main"), ("b", "branch")):
        folder = tmp_path / name
        folder.mkdir()
        url = sqlite_database(folder, "app.db", [SCHEMA])
        node = CliNode.init(name, folder, url, "--directory", str(exchange), "--role", role)
        config = folder / "rowferry.toml"
        text = config.read_text()
        limits = f"tombstone_days = {A_SECOND:.7f}\n"
        keeping = f"[retention]\nevery_hours = 0\nlog_days = {A_SECOND:.7f}\nlog_max_days = 400\n"
        text = (
            text.replace("[limits]", f"[limits]\n{limits}") if "\n[limits]" in text else f"{text}\n[limits]\n{limits}"
        )
        config.write_text(f"{text}\n{keeping}")
        node.ok("migrate")
        nodes.append(node)
    return nodes[0], nodes[1]


def config(node: CliNode) -> Path:
    return node.folder / "rowferry.toml"


def meet(*nodes: CliNode) -> None:
    for _ in range(2):
        for node in nodes:
            node.ok("run", "--once")


def wait_a_moment() -> None:
    """Deletes are forgotten by their age alone: no event tells of it."""
    time.sleep(1.2)


def test_a_deleted_row_is_forgotten_once_both_have_passed_it(pair: tuple[CliNode, CliNode]) -> None:
    a, b = pair
    a.execute("INSERT INTO item VALUES (1, 'x')", "INSERT INTO item VALUES (2, 'x')")
    meet(a, b)
    b.execute("DELETE FROM item WHERE id = 1")
    b.ok("run", "--once")
    wait_a_moment()
    purged = {one["what"]: one for one in document(config(b), "purge", "--dry-run")["purged"]}
    assert (purged["tombstones"]["rows"], purged["log"]["rows"]) == (0, 0)
    meet(a, b)
    wait_a_moment()
    for node in pair:
        # The first look finds who has passed, the folder tells; what was collected goes at once.
        purged = {one["what"]: one for one in document(config(node), "purge")["purged"]}
        assert purged["tombstones"]["rows"] == 1, node.node_id
        assert purged["log"]["rows"] == {"a": 2, "b": 1}[node.node_id]
    listed = {one["node"]: one for one in document(config(a), "node", "list")}
    assert (listed["a"]["state"], listed["b"]["state"], listed["b"]["passed_lsn"]) == ("this node", "heard", 2)
    told = rowferry(config(a), "why", "item", "1")
    assert "deletes in item up to" in told.output
    told = rowferry(config(b), "why", "item", "1")
    assert "were purged here" in told.output
    out = document(config(b), "export-change-log", "--out", str(b.folder / "out.jsonl"))
    assert (out["txs"], out["gone_until_lsn"]) == (0, 1)
    assert "purged up to LSN 1" in rowferry(config(b), "push", "--file", str(b.folder / "push.jsonl")).output
    # What is written from now on travels as before.
    b.execute("INSERT INTO item VALUES (1, 'anew')")
    meet(b, a)
    assert a.rows(["item"]) == b.rows(["item"]) == {"item": [(1, "anew"), (2, "x")]}
    assert a.report("status")["state"] == "up to date"


def test_a_node_is_retired_by_name(pair: tuple[CliNode, CliNode]) -> None:
    a, b = pair
    a.execute("INSERT INTO item VALUES (1, 'x')")
    b.execute("INSERT INTO item VALUES (2, 'x')")
    meet(a, b)
    assert rowferry(config(a), "node", "retire", "a").exit_code == 2
    assert rowferry(config(a), "node", "retire", "c").exit_code == 2
    assert document(config(a), "node", "retire", "b", "--yes")["already"] is False
    assert document(config(a), "node", "retire", "b")["already"] is True
    assert "has been retired since" in rowferry(config(a), "node", "retire", "b").output
    assert [one["action"] for one in document(config(a), "audit", "--action", "node-retired")] == ["node-retired"]
    b.execute("UPDATE item SET name = 'y' WHERE id = 2")
    meet(b, a)
    assert a.rows(["item"]) == b.rows(["item"])
    states = {one["node"]: one["state"] for one in document(config(a), "node", "list")}
    assert states["b"] == "returned"
    assert any("b was retired and has been back since" in text for text in a.report("status")["reasons"])


def test_a_role_that_is_not_known_is_not_told(pair: tuple[CliNode, CliNode]) -> None:
    """A batch does not say who is main: the first write in a `main-wins` table does, or the configuration."""
    a, b = pair
    a.execute("INSERT INTO item VALUES (1, 'x')")
    b.execute("INSERT INTO item VALUES (2, 'x')")
    meet(a, b)
    assert [one["role"] for one in document(config(a), "node", "list")] == ["main", "branch"]
    assert [one["role"] for one in document(config(b), "node", "list")] == ["branch", None]
    text = config(b).read_text()
    config(b).write_text(text.replace('role = "branch"', 'role = "branch"\nmain = "a"'))
    assert [one["role"] for one in document(config(b), "node", "list")] == ["branch", "main"]


def test_run_purges_by_itself(pair: tuple[CliNode, CliNode]) -> None:
    a, _ = pair
    file = config(a)
    file.write_text(file.read_text().replace("every_hours = 0", "every_hours = 1\naudit_days = 0.000001"))
    a.execute("INSERT INTO item VALUES (1, 'x')")
    a.ok("run", "--once")
    a.execute("DELETE FROM rf_purged", "INSERT INTO rf_audit (at_us, actor, action) VALUES (1, 'x', 'old')")
    a.ok("run", "--once")
    assert a.query("SELECT count(*) FROM rf_audit WHERE action = 'old'") == [(0,)]
    sides = {what for (what,) in a.query("SELECT what FROM rf_purged")}
    assert {"purge-consumer", "purge-producer", "audit"} <= sides
    a.execute("INSERT INTO rf_audit (at_us, actor, action) VALUES (1, 'x', 'old')")
    a.ok("run", "--once")
    # Not before the hour is over.
    assert a.query("SELECT count(*) FROM rf_audit WHERE action = 'old'") == [(1,)]
