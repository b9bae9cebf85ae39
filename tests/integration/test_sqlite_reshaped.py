"""Tables that their owner rebuilds under a running node: the other node ends with the same rows."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.nodes import CliNode

SCHEMA = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC);
INSERT INTO item VALUES (1, 'older than migrate', 1), (2, 'older than migrate', 2), (3, 'older than migrate', 3);
"""
REBUILD = """
BEGIN;
CREATE TABLE "new item" (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC);
INSERT INTO "new item" SELECT * FROM item;
DROP TABLE item;
ALTER TABLE "new item" RENAME TO item;
COMMIT;
UPDATE item SET name = 'missed' WHERE id IN (1, 4);
DELETE FROM item WHERE id IN (2, 5);
INSERT INTO item VALUES (7, 'missed', 7);
"""


def execute(node: CliNode, script: str) -> None:
    with closing(sqlite3.connect(node.folder / "shop.db")) as connection:
        connection.executescript(script)


def rows(node: CliNode) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(node.folder / "shop.db")) as connection:
        return connection.execute("SELECT * FROM item ORDER BY id").fetchall()


def make(folder: Path, node_id: str) -> CliNode:
    (folder / node_id).mkdir()
    with closing(sqlite3.connect(folder / node_id / "shop.db")) as connection:
        connection.executescript(SCHEMA)
    options = ("--directory", str(folder / "exchange"), "--tables", "item")
    node = CliNode.init(node_id, folder / node_id, "sqlite:///shop.db", *options)
    node.ok("migrate")
    return node


@pytest.fixture
def pair(tmp_path: Path) -> tuple[CliNode, CliNode]:
    one, two = make(tmp_path, "one"), make(tmp_path, "two")
    execute(one, "INSERT INTO item VALUES (4, 'sealed', 4), (5, 'sealed', 5), (6, 'sealed', 6);")
    one.ok("run", "--once")
    two.ok("run", "--once")
    assert rows(one) == rows(two)
    return one, two


def test_run_seals_what_went_by_while_capture_was_gone(pair: tuple[CliNode, CliNode]) -> None:
    one, two = pair
    execute(one, REBUILD)
    one.ok("run", "--once")
    two.ok("run", "--once")
    one.ok("run", "--once")
    assert [row[:2] for row in rows(one)] == [
        (1, "missed"), (3, "older than migrate"), (4, "missed"), (6, "sealed"), (7, "missed"),
    ]  # fmt: skip
    assert rows(two) == rows(one)
    assert one.report("status")["drifted"] == []


def test_without_auto_migrate_run_says_so_and_migrate_brings_it_back(pair: tuple[CliNode, CliNode]) -> None:
    one, two = pair
    config = one.folder / "rowferry.toml"
    config.write_text(config.read_text().replace("[node]\n", "[node]\nauto_migrate = false\n", 1))
    execute(one, REBUILD)
    said = one.call("run", "--once")
    assert said.returncode == 0
    assert "capture no longer fits item" in said.stderr
    assert one.report("status")["drifted"] == ["item"]
    two.ok("run", "--once")
    assert rows(two) != rows(one)
    one.ok("migrate")
    one.ok("run", "--once")
    two.ok("run", "--once")
    assert rows(two) == rows(one)
