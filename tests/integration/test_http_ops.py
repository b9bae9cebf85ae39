"""Dead letters, conflicts and audit over HTTP: the same as the commands tell, for tokens with scope ops."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from common.http.scopes import Scope
from common.versions import Version
from tests.support.applying import DATABASES, Origin, Write, resealed, sqlite_url
from tests.support.cli import checked
from tests.support.web import Served, served

FUTURE = 3 * 10**15


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("node")
    url = sqlite_url(folder) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    with served(url, tables={"policy": {"item": "manual", "code": "manual"}}) as one:
        yield one


@pytest.fixture
def ops(node: Served) -> Iterator[httpx.Client]:
    with node.client(node.token("anna", Scope.OPS)) as client:
        yield client


def push(node: Served, *bodies: bytes, source: str = "a") -> None:
    with node.client(node.token(source, Scope.PUSH)) as client:
        assert client.post("/sync/push", content=b"".join(bodies)).status_code == 200


def test_an_id_that_several_sources_have_names_none_of_their_letters(node: Served, ops: httpx.Client) -> None:
    pair = {name: Origin(name).put(1, name, 10) for name in ("ab", "ba")}
    with node.client(node.token("hub", Scope.FORWARD)) as client:
        body = b"".join(resealed(tx.body, b'"item"', b'"fresh"') for tx in pair.values())
        assert client.post("/sync/push", content=body).status_code == 200
    (tx_id,) = {tx.tx_id for tx in pair.values()}
    node.world.execute("CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(10,2))")
    where = f"/dead-letters/{tx_id}"
    for refused in (
        ops.get(where),
        ops.post(f"{where}/replay"),
        ops.post(f"{where}/replay", params={"dry_run": True}),
    ):
        assert refused.status_code == 409
        assert "ab, ba each have a dead letter with this id: choose one with source" in refused.json()["detail"]
    assert node.world.rows("fresh") == []
    assert ops.get(where, params={"source": "ba"}).json()["source_node"] == "ba"
    (done,) = ops.post(f"{where}/replay", params={"source": "ba"}).json()["results"]
    assert (done["source_node"], done["outcome"]) == ("ba", "applied")


def test_only_ops_may_look(node: Served) -> None:
    with node.client(node.token("a", Scope.PUSH, Scope.PULL, Scope.FORWARD)) as client:
        for path in ("/dead-letters", "/dead-letters/x", "/conflicts", "/conflicts/1", "/audit"):
            assert client.get(path).status_code == 403
        assert client.post("/dead-letters/x/replay").status_code == 403
        assert client.post("/conflicts/1/resolve", json={"take": "ours"}).status_code == 403
    with node.client() as client:
        assert client.get("/audit").status_code == 401


def test_a_dead_letter_is_listed_shown_and_replayed(node: Served, ops: httpx.Client) -> None:
    letter = resealed(Origin("a").put(1, "one", 10).body, b'"item"', b'"fresh"')
    push(node, letter)
    (listed,) = checked("dlq-list", ops.get("/dead-letters").json())
    assert (listed["reason"], listed["state"], listed["source_node"]) == ("unknown-table", "dead", "a")
    assert ops.get("/dead-letters", params={"reason": "type"}).json() == []
    assert ops.get("/dead-letters", params={"source": "a", "state": "dead", "limit": 1}).json() == [listed]
    shown = ops.get(f"/dead-letters/{listed['tx_id']}").json()
    assert shown["tx_id"] == listed["tx_id"]
    tried = ops.post(f"/dead-letters/{listed['tx_id']}/replay").json()
    assert [one["outcome"] for one in tried["results"]] == ["dead"]
    node.world.execute("CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(10,2))")
    dry = ops.post(f"/dead-letters/{listed['tx_id']}/replay", params={"dry_run": True}).json()
    assert (dry["dry_run"], [one["outcome"] for one in dry["results"]]) == (True, ["applied"])
    done = ops.post(f"/dead-letters/{listed['tx_id']}/replay").json()
    assert [one["outcome"] for one in done["results"]] == ["applied"]
    assert len(node.world.rows("fresh")) == 1
    assert ops.post(f"/dead-letters/{listed['tx_id']}/replay").json()["results"] == []
    assert ops.post("/dead-letters/nothing/replay").status_code == 404
    (line,) = ops.get("/audit", params={"action": "replayed"}).json()
    assert line["actor"].startswith("anna by token")


def test_a_conflict_is_listed_and_resolved(node: Served, ops: httpx.Client) -> None:
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    push(node, Origin("a").put(7, "theirs", FUTURE).body)
    (listed,) = checked("conflicts-list", ops.get("/conflicts", params={"state": "waiting"}).json())
    shown = checked("conflicts-show", ops.get(f"/conflicts/{listed['id']}").json())
    assert shown["their_image"]["name"] == "theirs"
    for wrong in ({"take": "both"}, {}, {"take": {"nowhere": 1}}, {"take": {"id": 8}}, {"take": {"name": 5}}, [1]):
        refused = ops.post(f"/conflicts/{listed['id']}/resolve", json=wrong)
        assert (refused.status_code, "--" in refused.json()["detail"]) == (422, False)
    for endless in (b"1e100000000", b"1e9999999999999999999", b"-1e-100000000"):
        refused = ops.post(f"/conflicts/{listed['id']}/resolve", content=b'{"take":{"price":%s}}' % endless)
        assert (refused.status_code, "take: " in refused.json()["detail"]) == (422, True)
    if node.world.node.database.engine.dialect.name == "sqlite":
        long = b'{"take": {"name": "chosen", "price": 12345678901234567.89}}'
        refused = ops.post(f"/conflicts/{listed['id']}/resolve", content=long)
        assert "12345678901234567.89 has more digits" in refused.json()["detail"]
    chosen = b'{"take": {"name": "chosen", "price": 12345678.90}}'
    done = ops.post(f"/conflicts/{listed['id']}/resolve", content=chosen)
    assert done.status_code == 200, done.text
    checked("conflicts-resolve", done.json())
    assert [row[1] for row in node.world.rows()] == ["chosen"]
    again = ops.post(f"/conflicts/{listed['id']}/resolve", json={"take": "ours"})
    assert (again.status_code, again.headers["content-type"]) == (409, "application/problem+json")
    assert ops.post("/conflicts/999/resolve", json={"take": "ours"}).status_code == 404


def test_a_conflict_is_resolved_as_it_was_seen(node: Served, ops: httpx.Client) -> None:
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    push(node, Origin("a").put(7, "theirs", FUTURE).body)
    (listed,) = ops.get("/conflicts", params={"state": "waiting"}).json()
    way = f"/conflicts/{listed['id']}"
    node.world.execute("UPDATE item SET name = 'later' WHERE id = 7")
    for wrong in (None, "x", [0, 1], [0, "1", "a"], [0, 1.5, "a"], [0, 1, "a", 2]):
        assert ops.post(f"{way}/resolve", json={"take": "theirs", "seen": wrong}).status_code == 422
    misspelt = ops.post(f"{way}/resolve", json={"take": "theirs", "Seen": listed["our_version"]})
    assert (misspelt.status_code, "`Seen`" in misspelt.json()["detail"]) == (422, True)
    doubled = ops.post(f"{way}/resolve", content=b'{"take": "ours", "take": "theirs"}')
    assert (doubled.status_code, doubled.json()["detail"]) == (422, "the body: 'take' is given twice")
    refused = ops.post(f"{way}/resolve", json={"take": "theirs", "seen": listed["our_version"]})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:rowferry:usage")
    assert 'name: "mine", now "later"' in refused.json()["detail"]
    shown = ops.get(way).json()
    assert (shown["state"], shown["our_image"]["name"]) == ("waiting", "later")
    done = ops.post(f"{way}/resolve", json={"take": "theirs", "seen": shown["our_version"]})
    assert (done.status_code, [row[1] for row in node.world.rows()]) == (200, ["theirs"])


def test_a_clash_is_resolved_as_it_was_seen(node: Served, ops: httpx.Client) -> None:
    push(node, Origin("a").tx(Write("I", "code", {"id": 1, "code": "X"}, 11)).body)
    push(node, Origin("b").tx(Write("I", "code", {"id": 2, "code": "X"}, 20)).body, source="b")
    (listed,) = ops.get("/conflicts", params={"state": "waiting"}).json()
    node.world.execute("INSERT INTO code VALUES (2, 'W')")
    way = f"/conflicts/{listed['id']}"
    refused = ops.post(f"{way}/resolve", json={"take": "theirs", "seen": listed["our_version"]})
    assert (refused.status_code, refused.json()["type"]) == (409, "urn:rowferry:usage")
    assert 'code: "X", now "W"' in refused.json()["detail"]
    shown = checked("conflicts-show", ops.get(way).json())
    assert (shown["kind"], shown["our_image"]["code"], shown["their_image"]["code"]) == ("insert", "W", "X")
    done = ops.post(f"{way}/resolve", json={"take": {"code": "Z"}, "seen": shown["our_version"]})
    assert (done.status_code, node.world.rows("code")) == (200, [(1, "X"), (2, "Z")])


def test_the_audit_is_filtered(node: Served, ops: httpx.Client) -> None:
    a = Origin("a")
    push(
        node,
        a.put(1, "one", 10).body,
        a.put(2, "two", 20).body,
        a.put(1, "b", 30, base=Version(0, 10, "a"), op="U").body,
    )
    lines = checked("audit", ops.get("/audit", params={"action": "applied"}).json())
    assert [line["tx_id"] for line in lines] == sorted(line["tx_id"] for line in lines)
    assert len(lines) == 3
    assert ops.get("/audit", params={"tx_id": lines[0]["tx_id"]}).json() == [lines[0]]
    assert ops.get("/audit", params={"action": "applied", "limit": 1}).json() == [lines[-1]]
    assert len(ops.get("/audit", params={"since_seconds": 3600, "source": "a"}).json()) == 3
