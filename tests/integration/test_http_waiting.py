"""Pulls that wait: they outlive the patience of who asks, end with their token, and keep nobody from stopping."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.http.scopes import Scope
from common.ops.nodes import Nodes
from common.transports.http.client import PeerClient, PullAnswer, RefusedError
from common.transports.http.peer import open_peer_source
from common.transports.http.settings import PeerSettings
from common.transports.http.source import HttpSource
from tests.integration.test_http_peers import Kept
from tests.support.applying import World, close_world, open_world, sqlite_url
from tests.support.waiting import wait_for
from tests.support.web import Served, served

A_SECOND = 1.0


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "main").mkdir()
    with served(sqlite_url(tmp_path / "main"), node={"id": "main", "role": "main"}) as one:
        yield one


@pytest.fixture
def branch(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "branch").mkdir()
    world = open_world(sqlite_url(tmp_path / "branch"))
    yield world
    close_world(world)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[PeerClient]:
    """Whoever asked, once for each pull."""
    found: list[PeerClient] = []
    pull = PeerClient.pull

    def noted(self: PeerClient, *given: Any, **named: Any) -> PullAnswer:
        found.append(self)
        return pull(self, *given, **named)

    monkeypatch.setattr(PeerClient, "pull", noted)
    return found


def source_of(main: Served, branch: World) -> HttpSource:
    settings = PeerSettings(main.url, "main", main.token("here", Scope.PULL), "zstd")
    return open_peer_source(settings, branch.node.config, Kept(), None)


def nodes_of(main: Served) -> Nodes:
    node = main.world.node
    return Nodes(node.database, node.config, node.facts, node.clock)


def test_a_question_outlives_the_patience_of_who_asks(main: Served, branch: World, asked: list[PeerClient]) -> None:
    source = source_of(main, branch)
    assert [source.receive(500, A_SECOND) for _ in range(2)] == [[], []]
    assert source.receive(500, 0) == []
    main.world.execute("INSERT INTO item VALUES (1, 'x', 1)")
    (delivery,) = source.receive(500, 30)
    assert len(asked) == 1
    source.ack([delivery])
    # Who does not want to wait gets an answer at once.
    assert source.receive(500, 0) == []
    assert len(asked) == 2
    source.close()


def test_closing_waits_for_no_answer(main: Served, branch: World, asked: list[PeerClient]) -> None:
    source = source_of(main, branch)
    assert source.receive(500, A_SECOND) == []
    (client,) = asked
    source.close()
    assert not client._http.is_closed
    main.world.execute("INSERT INTO item VALUES (1, 'x', 1)")
    wait_for(lambda: client._http.is_closed, 30, "the question that nobody waits for to end")


def test_a_token_that_is_revoked_ends_the_question(main: Served, branch: World, asked: list[PeerClient]) -> None:
    source = source_of(main, branch)
    assert source.receive(500, A_SECOND) == []
    (token,) = main.tokens.all()
    main.tokens.revoke(token.id, "test")
    with pytest.raises(RefusedError) as refused:
        source.receive(500, 20)
    assert (refused.value.status, refused.value.reason) == (401, "revoked")
    assert len(asked) == 1
    with pytest.raises(RefusedError):
        source.receive(500, 20)
    source.close()


def test_who_is_retired_comes_in_no_more(main: Served) -> None:
    tokens = [main.token(name, Scope.PUSH, Scope.PULL) for name in ("a", "a", "b")]
    main.world.execute(
        "INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us)"
        " VALUES ('a', 'branch', 'i', false, 1, 1)"
    )
    statuses = []

    def wait_at_main() -> None:
        with main.client(tokens[1]) as client:
            statuses.append(client.get("/sync/pull", params={"wait": 50}).status_code)

    waiting = threading.Thread(target=wait_at_main)
    waiting.start()
    retired = nodes_of(main).retire("a", "anna")
    assert (retired.already, retired.freed["tokens"]) == (False, 2)
    waiting.join(40)
    assert statuses == [401]
    for token, status in zip(tokens, (401, 401, 200), strict=True):
        with main.client(token) as client:
            assert client.get("/sync/pull").status_code == status
    assert main.world.one("SELECT count(*) FROM rf_audit WHERE action = 'token-revoked' AND actor = 'anna'") == 2
    # A token that somebody made since goes with the next one.
    main.token("a", Scope.PULL)
    again = nodes_of(main).retire("a", "anna")
    assert (again.already, again.freed) == (True, {"tokens": 1})
    assert nodes_of(main).retire("a", "anna").freed == {}
