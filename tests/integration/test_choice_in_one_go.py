"""A conflict and the choice that settles it come in one go: nothing waits afterwards, and no exit code says so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, sqlite_database
from tests.support.waiting import wait_for

SCHEMA = ["CREATE TABLE price (id TEXT PRIMARY KEY, v TEXT)"]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[tuple[CliNode, CliNode]]:
    """`here` has written a row that `there` wrote too; `there` has heard of it, and has chosen."""
    made = []
    for name, role in (("here", "main"), ("there", "branch")):
        url = sqlite_database(tmp_path, f"{name}.db", SCHEMA)
        folder = str(tmp_path / f"out-of-{name}")
        node = CliNode.init(
            name, tmp_path / name, url, "--directory", folder, "--role", role, "--policy", "price=manual"
        )
        node.ok("migrate")
        node.execute(f"INSERT INTO price VALUES ('1', '{name}')")
        made.append(node)
    here, there = made
    here.ok("export-change-log", "--out", str(tmp_path / "here.jsonl"))
    there.ok("import-change-log", str(tmp_path / "here.jsonl"), code=4)
    # So that what is chosen goes in a body of its own.
    there.execute(f"INSERT INTO price VALUES ('large', '{'x' * 5_000_000}')")
    there.ok("conflicts", "resolve", "1", "--take", "ours")
    yield here, there
    for node in made:
        for run in node.runs:
            run.stop()


def is_settled(node: CliNode) -> bool:
    (one,) = node.report("conflicts", "list")
    return bool(one["state"] == "settled")


def test_a_file(nodes: tuple[CliNode, CliNode], tmp_path: Path) -> None:
    here, there = nodes
    there.ok("export-change-log", "--out", str(tmp_path / "there.jsonl"))
    done = here.report("pull", "--file", str(tmp_path / "there.jsonl"))
    assert (done["conflicts"] > 0, done["waiting_conflicts"], is_settled(here)) == (True, 0, True)


def test_a_folder(nodes: tuple[CliNode, CliNode]) -> None:
    here, there = nodes
    there.ok("run", "--once")
    config = here.folder / "rowferry.toml"
    config.write_text(config.read_text().replace("out-of-here", "out-of-there"))
    assert here.report("run", "--once")["set_aside"] == 0
    assert is_settled(here)


def serve(node: CliNode) -> str:
    running = node.start("--port", "0", command="serve")
    return wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", running.log.read_text()), 30, "serve")[0]


def token_for(node: CliNode, asking: CliNode) -> str:
    file = asking.folder / "token"
    file.write_text(json.loads(node.ok("token", "create", "--node", asking.node_id, "--json"))["token"])
    file.chmod(0o600)
    return str(file)


def test_a_push(nodes: tuple[CliNode, CliNode]) -> None:
    here, there = nodes
    there.ok("push", "--url", serve(here), "--token-file", token_for(here, there))
    assert is_settled(here)


def test_a_push_of_which_one_still_waits(nodes: tuple[CliNode, CliNode]) -> None:
    here, there = nodes
    here.execute("INSERT INTO price VALUES ('2', 'here')")
    there.execute("INSERT INTO price VALUES ('2', 'there')")
    there.ok("push", "--url", serve(here), "--token-file", token_for(here, there), code=4)
    there.ok("push", "--url", serve(here), "--token-file", token_for(here, there))


def test_a_pull(nodes: tuple[CliNode, CliNode]) -> None:
    here, there = nodes
    done = here.report("pull", "--url", serve(there), "--token-file", token_for(there, here))
    assert (done["waiting_conflicts"], is_settled(here)) == (0, True)
