"""Rows that can't be named become dead letters while this node seals: the command that made the letter says so."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.support.applying import Origin
from tests.support.cli import document, rowferry
from tests.support.nodes import CliNode
from tests.support.waiting import wait_for

SEALING: Sequence[Sequence[str]] = (
    ("run", "--once"),
    ("run", "--once", "--only", "producer"),
    ("export-change-log", "--out", "{folder}/out.jsonl"),
    ("push", "--file", "{folder}/pushed.jsonl"),
    ("snapshot", "export", "--out", "{folder}/here.jsonl"),
    ("rejoin",),
)


class Node:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "rowferry.toml"
        self.run_sql(
            "CREATE TABLE n (k TEXT PRIMARY KEY, v TEXT)",
            "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC)",
        )
        self.config.write_text(
            f'[node]\nid = "here"\ndatabase = "sqlite:///{folder / "a.db"}"\n'
            f'[directory]\npath = "{folder / "shared"}"\n'
        )
        (folder / "shared").mkdir()
        self.call("migrate")

    def run_sql(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.folder / "a.db")) as connection, connection:
            for statement in statements:
                connection.execute(statement)

    def without_key(self) -> None:
        self.run_sql("INSERT INTO n VALUES (NULL, 'x')")

    def call(self, *arguments: str, code: int = 0) -> Result:
        done = rowferry(self.config, *self._here(arguments))
        assert done.exit_code == code, done.output
        return done

    def document(self, *arguments: str, code: int = 0) -> Any:
        return document(self.config, *self._here(arguments), code=code)

    def reasons(self) -> list[str]:
        return [letter["reason"] for letter in self.document("dlq", "list")]

    def _here(self, arguments: Sequence[str]) -> list[str]:
        return [argument.format(folder=self.folder) for argument in arguments]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize("command", SEALING, ids=" ".join)
def test_whoever_makes_the_letter_ends_with_4_and_nobody_after(node: Node, command: Sequence[str]) -> None:
    node.without_key()
    done = node.call(*command, code=4)
    assert node.reasons() == ["null-key"]
    assert "1 dead letter of this node's own rows was created" in done.stderr
    for again in SEALING:
        assert "own rows" not in node.call(*again).stderr
    assert node.reasons() == ["null-key"]


def test_pause_and_resume_say_what_they_set_aside(node: Node) -> None:
    for command in ("pause", "resume"):
        node.without_key()
        node.call(command, "item", code=4)
    assert node.reasons() == ["null-key"] * 2


def test_a_service_that_was_told_to_stop_has_done_what_it_was_asked_to(node: Node) -> None:
    beside = CliNode("here", node.folder, f"sqlite:///{node.folder / 'a.db'}")
    running = beside.start()
    try:
        node.without_key()
        wait_for(lambda: node.reasons() == ["null-key"], 30, "the letter")
    finally:
        code = running.stop()
    assert code == 0


def test_run_counts_it_with_the_rest(node: Node) -> None:
    node.without_key()
    assert node.document("run", "--once", code=4)["set_aside"] == 1
    assert node.document("run", "--once")["set_aside"] == 0
    assert node.reasons() == ["null-key"]


def test_the_document_stays_alone_on_stdout(node: Node) -> None:
    node.without_key()
    assert node.document("export-change-log", "--out", "{folder}/out.jsonl", code=4)["txs"] == 0


def test_rows_of_a_dropped_table_are_told_the_same_way(node: Node) -> None:
    node.run_sql("INSERT INTO n VALUES ('k', 'x')", "DROP TABLE n")
    node.call("export-change-log", "--out", "{folder}/out.jsonl", code=4)
    assert node.reasons() == ["unknown-table"]
    node.call("export-change-log", "--out", "{folder}/out.jsonl")


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        (["INSERT INTO n VALUES (NULL, 'x')"], "null-key"),
        (["INSERT INTO n VALUES ('k', 'x')", "DROP TABLE n"], "unknown-table"),
    ],
)
def test_a_replay_leaves_it_its_reason(node: Node, statements: Sequence[str], reason: str) -> None:
    node.run_sql(*statements)
    node.call("export-change-log", "--out", "{folder}/out.jsonl", code=4)
    (listed,) = node.document("dlq", "list")
    shown = node.document("dlq", "show", listed["tx_id"])
    assert shown["blocked_by"] == listed["error"]
    for more in ([], ["--in-pieces"]):
        node.call("dlq", "replay", "--all", *more, code=4)
        (again,) = node.document("dlq", "list")
        kept = ("reason", "error", "incarnation", "changes")
        assert [again[name] for name in kept] == [reason, *(listed[name] for name in kept[1:])]
    discarded = node.call("dlq", "discard", "--all", "--reason", "it has a key now").output
    assert "no other node has them from here" in discarded


def test_an_import_that_seals_on_its_way_says_so(node: Node, tmp_path: Path) -> None:
    """It seals first where the row that comes in was written here meanwhile."""
    (tmp_path / "in.jsonl").write_bytes(Origin("a").put(1, "theirs", 1).body)
    node.run_sql("INSERT INTO item VALUES (1, 'ours', 2)")
    node.without_key()
    node.call("import-change-log", "{folder}/in.jsonl", code=4)
    assert node.reasons() == ["null-key"]
    node.call("import-change-log", "{folder}/in.jsonl")


def test_a_command_that_fails_keeps_the_code_of_its_failure(node: Node) -> None:
    node.without_key()
    node.call("export-change-log", "--out", "{folder}/nowhere/out.jsonl", code=1)
    assert node.reasons() == ["null-key"]
