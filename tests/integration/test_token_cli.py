"""`rowferry token` and `rowferry serve` as an operator calls them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.cli import document, rowferry
from tests.support.nodes import CliNode, sqlite_database
from tests.support.waiting import wait_for

URL = re.compile(r"http://127\.0\.0\.1:\d+")


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CliNode]:
    database = sqlite_database(tmp_path, "app.db", ["CREATE TABLE item (id TEXT PRIMARY KEY, name TEXT)"])
    made = CliNode.init("main", tmp_path / "main", database, "--role", "main")
    made.ok("migrate")
    yield made
    made.close()


def test_a_token_is_made_listed_and_taken_back(node: CliNode) -> None:
    config = node.folder / "rowferry.toml"
    made = document(config, "token", "create", "--node", "store-1")
    assert made["scopes"] == ["push", "pull"]
    assert made["id"] in made["token"]
    other = document(config, "token", "create", "--node", "anna", "--scope", "ops,forward", "--expires", "90d")
    assert other["scopes"] == ["forward", "ops"]
    listed = document(config, "token", "list")
    assert [(one["node_id"], one["state"]) for one in listed] == [("store-1", "active"), ("anna", "active")]
    assert listed[0]["expires_at"] is None
    assert listed[1]["expires_at"] > listed[1]["created_at"]
    secret = made["token"].split("_", 2)[2]
    assert secret not in json.dumps(listed)
    assert document(config, "token", "revoke", made["id"])["state"] == "revoked"
    assert [one["state"] for one in document(config, "token", "list")] == ["revoked", "active"]
    actions = [line["action"] for line in document(config, "audit")]
    assert actions == ["token-created", "token-created", "token-revoked"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "--node", "no/slash"], "letters, digits"),
        (["create", "--node", "a", "--scope", "everything"], "push, pull, forward, ops"),
        (["create", "--node", "a", "--expires", "soon"], "90d"),
        (["create", "--node", "a", "--expires", "0s"], "never work"),
        (["revoke", "nothing"], "token list"),
    ],
)
def test_what_can_not_be_is_refused_with_the_remedy(node: CliNode, arguments: list[str], says: str) -> None:
    result = rowferry(node.folder / "rowferry.toml", "token", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_serve_answers_until_it_is_told_to_stop(node: CliNode) -> None:
    token = node.report("token", "create", "--node", "store-1")["token"]
    running = node.start("--port", "0", command="serve")
    wait_for(lambda: URL.search(running.tail()) is not None, 60, "serve to listen")
    found = URL.search(running.tail())
    assert found is not None
    with httpx.Client(base_url=found.group(), trust_env=False) as client:
        assert client.get("/readyz").json()["ready"] is True
        answer = client.get("/sync/state", headers={"Authorization": f"Bearer {token}"})
        assert (answer.json()["node"], answer.json()["role"]) == ("main", "main")
    assert running.stop() == 0
    assert token not in running.log.read_text()
    assert '"level": "error"' not in running.log.read_text()
