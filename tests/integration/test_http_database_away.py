"""`rowferry serve` whose database is away at its start: probes say so, and it goes on by itself once it is back."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from common.http.scopes import Scope
from tests.support.applying import seal_all
from tests.support.container_engine import free_port
from tests.support.nodes import CliNode, Running, sqlite_database
from tests.support.waiting import wait_for
from tests.support.web import served_on_sqlite

SCHEMA = ["CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT)"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[CliNode]:
    made = CliNode.init("shop", tmp_path / "shop", sqlite_database(tmp_path, "app.db", SCHEMA))
    made.ok("migrate")
    yield made
    made.close()


def listening(running: Running) -> str:
    return wait_for(lambda: re.search(r"http://127\.0\.0\.1:\d+", running.tail()), 60, "serve to listen")[0]


def test_probes_are_answered_before_the_database_is(node: CliNode, tmp_path: Path) -> None:
    token = node.report("token", "create", "--node", "b")["token"]
    known = {"Authorization": f"Bearer {token}"}
    with closing(sqlite3.connect(tmp_path / "app.db")) as application:
        application.execute("BEGIN EXCLUSIVE")
        running = node.start("--port", str(free_port()), command="serve")
        url = listening(running)
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        ready = httpx.get(f"{url}/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (503, False)
        assert "rowferry_database_up 0.0" in httpx.get(f"{url}/metrics").text
        assert httpx.get(f"{url}/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 503
        for method, path in (("GET", "/sync/state"), ("POST", "/sync/push"), ("GET", "/"), ("GET", "/openapi.json")):
            refused = httpx.request(method, url + path, headers=known)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:rowferry:outage"), path
            assert int(refused.headers["Retry-After"]) > 0
    wait_for(lambda: "serve.started" in running.tail(), 60, "serve to begin")
    wait_for(lambda: is_ready(url), 30, "the node to be ready")
    assert httpx.get(f"{url}/sync/state", headers=known).json()["node"] == "shop"
    assert running.stop() == 0


def test_it_stops_at_once_while_the_database_is_away(node: CliNode, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as application:
        application.execute("BEGIN EXCLUSIVE")
        running = node.start("--port", "0", command="serve")
        listening(running)
        assert running.stop() == 0


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_who_is_known_may_look_while_nothing_can_be_written(tmp_path: Path) -> None:
    with served_on_sqlite(tmp_path) as one, one.client(one.token("anna", Scope.OPS)) as anna:
        file = str(one.world.node.database.engine.url.database)
        with closing(sqlite3.connect(file, isolation_level=None)) as application:
            application.execute("PRAGMA journal_mode=WAL")
            application.execute("BEGIN IMMEDIATE")
            assert [anna.get(path).status_code for path in ("/sync/state", "/dead-letters", "/audit")] == [200] * 3


def test_a_pull_is_answered_while_the_application_writes_for_long(tmp_path: Path) -> None:
    """What is sealed is there to be given; only how far the puller is can't be noted now, and is the next time."""
    with served_on_sqlite(tmp_path) as one, one.client(one.token("b", Scope.PULL)) as puller:
        one.world.execute("INSERT INTO item (id, name) VALUES (1, 'a')")
        first = puller.get("/sync/pull").headers["Rowferry-Cursor"]
        one.world.execute("INSERT INTO item (id, name) VALUES (2, 'b')")
        seal_all(one.world)
        file = str(one.world.node.database.engine.url.database)
        with closing(sqlite3.connect(file, isolation_level=None)) as application:
            application.execute("PRAGMA journal_mode=WAL")
            application.execute("BEGIN IMMEDIATE")
            answer = puller.get("/sync/pull", params={"after": first})
            assert (answer.status_code, answer.content.count(b'"type":"change"')) == (200, 1)
            application.execute("ROLLBACK")
        assert puller.get("/sync/pull", params={"after": answer.headers["Rowferry-Cursor"]}).status_code == 200
        assert one.world.query("SELECT last_lsn FROM rf_sync_state WHERE peer = 'b' AND direction = 'out'") == [(2,)]
