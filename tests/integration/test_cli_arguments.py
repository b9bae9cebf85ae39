"""What nobody can mean is a usage error that names the argument (exit code 2): never a fault, never a default."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli import call, ok
from tests.support.nodes import ROWFERRY, CliNode, sqlite_database

LONE = "\udcff"
"""What Python makes of a byte on the command line that is no UTF-8."""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CliNode]:
    database = sqlite_database(tmp_path, "app.db", ["CREATE TABLE item (id TEXT PRIMARY KEY, name TEXT)"])
    made = CliNode.init("a", tmp_path / "a", database)
    ok(made, "migrate")
    made.execute("INSERT INTO item VALUES ('', 'x')")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield made
    made.close()
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["import-change-log", ""], "FILES"),
        (["import-change-log", "nix.jsonl", ""], "FILES"),
        (["pull", "--file", ""], "--file"),
        (["pull", "--url", "http://127.0.0.1:1", "--token-file", ""], "--token-file"),
        (["export-change-log", "--out", ""], "--out"),
        (["export-change-log", "--out", "x.jsonl", "--client", ""], "--client"),
        (["push", "--file", ""], "--file"),
        (["push", "--file", "x.jsonl", "--client", ""], "--client"),
        (["push", "--url", ""], "--url"),
        (["token", "create", "--node", "b", "--scope", ""], "--scope"),
        (["token", "create", "--node", "b", "--scope", " , "], "--scope"),
        (["token", "create", "--node", "b", "--expires", ""], "--expires"),
        (["token", "revoke", ""], "ID"),
        (["topology", "export", "--out", ""], "--out"),
        (["topology", "export", "--nodes", ","], "--nodes"),
        (["verify", "--export", ""], "--export"),
        (["verify", "--export", "x.jsonl", "--tables", ","], "--tables"),
        (["verify", ""], "PEER"),
        (["init", "--node", "x", "--database", "sqlite:///x.db", "--tables", "", "--force"], "--tables"),
        (["init", "--node", "x", "--database", "sqlite:///x.db", "--tables", ",", "--force"], "--tables"),
        (["init", "--node", "x", "--database", "sqlite:///x.db", "--directory", "", "--force"], "--directory"),
        (["init", "--node", "x", "--database", "sqlite:///x.db", "--broker", "", "--force"], "--broker"),
        (["dlq", "list", "--source", ""], "--source"),
        (["dlq", "show", ""], "TX_ID"),
        (["dlq", "discard", "--all", "--reason", ""], "--reason"),
        (["dlq", "export", "--all", "--out", ""], "--out"),
        (["conflicts", "list", "--table", ""], "--table"),
        (["audit", "--action", ""], "--action"),
        (["audit", "--since", ""], "--since"),
        (["backup", ""], "DIR"),
        (["restore", ""], "DIR"),
        (["snapshot", "export", "--out", ""], "--out"),
        (["snapshot", "import", ""], "FILE"),
        (["serve", "--host", ""], "--host"),
        (["key", "create", "--out", ""], "--out"),
        (["demo", "--keep", ""], "--keep"),
        (["pause", ""], "TABLE"),
        (["why", "", "1"], "TABLE"),
        (["node", "retire", ""], "ID"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else one,
)
def test_an_empty_argument_means_nothing(node: CliNode, arguments: list[str], named: str) -> None:
    done = call(node, *arguments)
    assert done.exit_code == 2, done.output
    assert named in done.stderr
    assert "empty" in done.stderr


def test_an_empty_configuration_is_not_the_one_that_stands_here(node: CliNode) -> None:
    done = subprocess.run([ROWFERRY, "--config", "", "status"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--config" in done.stderr
    assert "empty" in done.stderr


def test_a_key_may_be_empty(node: CliNode) -> None:
    assert "x" in ok(node, "why", "item", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["dlq", "show", LONE],
        ["dlq", "show", "x", "--source", LONE],
        ["dlq", "list", LONE],
        ["dlq", "list", "--tx", LONE],
        ["dlq", "list", "--source", LONE],
        ["dlq", "list", "--table", LONE],
        ["dlq", "list", "--older-than", LONE],
        ["dlq", "replay", "--all", "--source", LONE],
        ["dlq", "discard", "--all", "--reason", LONE],
        ["conflicts", "list", "--table", LONE],
        ["conflicts", "list", "--source", LONE],
        ["conflicts", "resolve", "1", "--take", LONE],
        ["conflicts", "resolve", "1", "--take", '{"name": "' + LONE + '"}'],
        ["conflicts", "resolve", "1", "--take", '{"name": "\\udcff"}'],
        ["conflicts", "resolve", "1", "--take", "ours", "--seen", LONE],
        ["conflicts", "simulate", "--policy", f"{LONE}=lww"],
        ["audit", "--action", LONE],
        ["audit", "--actor", LONE],
        ["audit", "--source", LONE],
        ["audit", "--tx", LONE],
        ["audit", "--since", LONE],
        ["why", LONE, "1"],
        ["why", "item", LONE],
        ["why", "item", '{"id": "\\udcff"}'],
        ["pause", LONE],
        ["resume", LONE],
        ["node", "retire", LONE],
        ["token", "create", "--node", LONE],
        ["token", "create", "--node", "b", "--scope", LONE],
        ["token", "create", "--node", "b", "--expires", LONE],
        ["token", "revoke", LONE],
        ["export-change-log", "--out", "../x.jsonl", "--client", LONE],
        ["push", "--file", "../x.jsonl", "--client", LONE],
        ["verify", LONE],
        ["verify", "--export", "../x.jsonl", "--tables", LONE],
        ["init", "--node", "x", "--database", f"sqlite:///{LONE}.db", "--force"],
        ["init", "--node", "x", "--database", "sqlite:///x.db", "--tables", LONE, "--force"],
        ["topology", "export", "--nodes", LONE],
        ["export-change-log", "--out", "../x.jsonl", "--since", "9223372036854775808"],
        ["token", "create", "--node", "b", "--expires", "999999999d"],
        ["token", "create", "--node", "b", "--expires", "9" * 5000 + "d"],
        ["token", "create", "--node", "b", "--expires", "99999999d"],
        ["seed", "--seed", "9" * 30, "--rows", "9" * 30],
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:70],
)
def test_what_no_database_can_take_is_refused_before(node: CliNode, arguments: list[str]) -> None:
    done = call(node, *arguments)
    assert done.exit_code == 2, done.output
    assert "bug in Rowferry" not in done.output


@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes there")
def test_a_file_may_be_called_as_it_likes(node: CliNode) -> None:
    """Through a real command line: CliRunner encodes nothing."""
    folder = os.fsencode(node.folder)
    name = os.path.join(folder, b"\xff.jsonl")
    for command in (b"export-change-log --out", b"import-change-log"):
        done = subprocess.run(
            [ROWFERRY, b"--config", os.path.join(folder, b"rowferry.toml"), *command.split(), name],
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert os.path.exists(name)


@pytest.mark.skipif(os.name != "posix", reason="the environment is bytes there")
def test_an_account_may_be_called_as_it_likes(node: CliNode, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, LONE)
    ok(node, "token", "create", "--node", "b")
    assert "\\udcff" in ok(node, "audit")
