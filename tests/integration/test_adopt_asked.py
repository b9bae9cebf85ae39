"""`POST /sync/adopt`, asked by who should not, for what is not there, and by hand; and a command that is killed."""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from common.crash_points import CrashPoint
from common.http.scopes import Scope
from common.http.wire import MOST_ADOPTED
from common.transports.http.client import PeerClient
from common.transports.http.settings import PeerSettings
from common.wire.compress import Encoding, compress
from consumer.adopting.adoption import asking
from consumer.adopting.giving import Named
from tests.integration.test_http_hostile_peer import bomb
from tests.support.cli import document, ok
from tests.support.nodes import CliNode
from tests.support.verifying import Pair, made_pair
from tests.support.web import Served, served

DDL = (
    "CREATE TABLE item (id integer PRIMARY KEY, name text)",
    "CREATE TABLE day (d date, n numeric(9, 2), PRIMARY KEY (d, n))",
    "INSERT INTO item VALUES (1, 'a'), (2, 'b'), (9007199254740993, 'large')",
    "INSERT INTO day VALUES ('2026-11-28', 1.50)",
)


@pytest.fixture
def node(main_url: str) -> Iterator[Served]:
    ddl = [one if "sqlite" in main_url else one.replace("id integer", "id bigint") for one in DDL]
    with served(main_url, schema=ddl, node={"id": "main", "database": main_url, "role": "main"}) as one:
        yield one


def ask(node: Served, body: Any, *scopes: Scope, encoding: str | None = None) -> httpx.Response:
    with node.client(node.token("shop", *scopes)) as client:
        if isinstance(body, bytes):
            headers = {"Content-Type": "application/json"} | ({"Content-Encoding": encoding} if encoding else {})
            return client.post("/sync/adopt", content=body, headers=headers)
        return client.post("/sync/adopt", json=body)


def named(*keys: Any, table: str = "item") -> dict[str, Any]:
    return {"rows": [{"table": table, "pk": key} for key in keys]}


def outcomes(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["outcome"] for one in answer.json()["results"]]


def given(node: Served) -> int:
    node.world.node.database.sealer(node.world.node.facts).seal()
    ((count,),) = node.world.query("SELECT count(*) FROM rf_audit WHERE action = 'adopted'")
    return int(count)


def test_each_row_has_its_answer(node: Served) -> None:
    node.world.execute("UPDATE item SET name = 'written' WHERE id = 2")
    asked = named({"id": 1}, {"id": 2}, {"id": 3}, {"id": 9007199254740993}, {"id": 1})
    assert outcomes(ask(node, asked)) == ["given", "has-one", "gone", "given", "given"]
    # A key that is named twice is one row: in one call both are told, and one is sealed.
    assert outcomes(ask(node, asked)) == ["has-one", "has-one", "gone", "has-one", "has-one"]
    assert node.world.query("SELECT to_lsn - from_lsn + 1 FROM rf_tx ORDER BY to_lsn") == [(1,), (2,)]
    assert given(node) == 1


@pytest.mark.parametrize(
    ("table", "pk"),
    [
        ("item", {}),
        ("item", {"id": None}),
        ("item", {"id": "1"}),
        ("item", {"id": 1.5}),
        ("item", {"id": 10**30}),
        ("item", {"id": 1, "name": "a"}),
        ("item", {"name": "a"}),
        ("item", {"id": {"$int": 7}}),
        ("item", {"id": [1]}),
        ("day", {"d": "no day", "n": "1.50"}),
        ("day", {"d": "2026-11-28", "n": 1.5}),
        ("day", {"d": "2026-11-28", "n": "x"}),
        ("rf_tx", {"to_lsn": 1}),
        ("nothing", {"id": 1}),
        ('item"; DROP TABLE item; --', {"id": 1}),
        ("", {"id": 1}),
    ],
)
def test_a_key_that_can_not_be_is_refused_and_the_others_are_given(node: Served, table: str, pk: Any) -> None:
    asked = {"rows": [{"table": table, "pk": pk}, *named({"id": 1})["rows"]]}
    first, second = outcomes(ask(node, asked))
    assert first in ("refused", "gone")
    assert second == "given"
    assert given(node) == 1


def test_another_spelling_of_a_key_is_the_same_row(node: Served) -> None:
    assert outcomes(ask(node, named({"n": "1.5", "d": "2026-11-28"}, table="day"))) == ["given"]
    assert outcomes(ask(node, named({"d": "2026-11-28", "n": "1.50"}, table="day"))) == ["has-one"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 422, id="empty"),
        pytest.param(b"{", 422, id="torn"),
        pytest.param(b"[]", 422, id="a list"),
        pytest.param(b"{}", 422, id="no rows"),
        pytest.param(b'{"rows":{}}', 422, id="rows no list"),
        pytest.param(b'{"rows":[{"table":1,"pk":{}}]}', 422, id="table no text"),
        pytest.param(b'{"rows":[{"table":"item"}]}', 422, id="no key"),
        pytest.param(b'{"rows":[{"table":"item","pk":[1]}]}', 422, id="key no object"),
        pytest.param(b'{"rows":[],"more":1}', 422, id="unknown member"),
        pytest.param(b'{"rows":[{"table":"item","pk":' + b"[" * 5_000 + b"]" * 5_000 + b"}]}", 422, id="deep"),
        pytest.param(b'{"rows":[{"table":"\xff","pk":{}}]}', 422, id="no UTF-8"),
        pytest.param(json.dumps(named(*[{"id": 1}] * (MOST_ADOPTED + 1))).encode(), 422, id="too many"),
    ],
)
def test_a_body_that_is_no_question_does_nothing(node: Served, body: bytes, status: int) -> None:
    answer = ask(node, body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert given(node) == 0


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity", "GZIP"])
def test_a_body_may_come_wrapped(node: Served, encoding: str) -> None:
    body = json.dumps(named({"id": 1}, {"id": 3})).encode()
    wrapped = compress(body, {"gzip": "gzip", "zstd": "zstd"}.get(encoding.lower()))  # type: ignore[arg-type]
    assert outcomes(ask(node, wrapped, encoding=encoding)) == ["given", "gone"]


@pytest.mark.parametrize(
    ("body", "encoding", "status"),
    [
        pytest.param(bomb(), "gzip", 413, id="a bomb"),
        pytest.param(gzip.compress(b'{"rows":[]}')[:-9], "gzip", 422, id="torn"),
        pytest.param(b'{"rows":[]}', "gzip", 422, id="not wrapped"),
        pytest.param(b'{"rows":[]}', "zstd", 422, id="not wrapped either"),
        pytest.param(gzip.compress(b"{"), "gzip", 422, id="no question"),
        pytest.param(b'{"rows":[]}', "br", 415, id="not known"),
    ],
)
def test_a_body_that_is_wrapped_badly_does_nothing(node: Served, body: bytes, encoding: str, status: int) -> None:
    answer = ask(node, body, encoding=encoding)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert given(node) == 0


@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
def test_a_client_asks_wrapped_as_it_sends_rows(node: Served, encoding: Encoding | None) -> None:
    client = PeerClient(PeerSettings(node.url, token=node.token("shop"), encoding=encoding))
    sent: list[httpx.Request] = []
    client._http.event_hooks["request"].append(sent.append)
    try:
        assert client.give_first(json.dumps(named({"id": 1})).encode()).results[0].outcome == "given"
    finally:
        client.close()
    assert sent[0].headers.get("content-encoding") == encoding


@pytest.mark.parametrize("encoding", [None, "zstd"])
def test_long_keys_are_asked_for_too(tmp_path: Path, encoding: Encoding | None) -> None:
    """Some MiB of them in one question: as much as one that sends rows may send."""
    keys = [f"{number} {os.urandom(300).hex()}" for number in range(3_000)]
    values = ", ".join(f"('{key}')" for key in keys)
    ddl = ["CREATE TABLE item (id text PRIMARY KEY) WITHOUT ROWID", f"INSERT INTO item VALUES {values}"]
    url = f"sqlite:///{tmp_path / 'main.db'}"
    with served(url, schema=ddl, node={"id": "main", "database": url, "role": "main"}) as node:
        asked = [Named("item", json.dumps({"id": key}).encode()) for key in keys]
        client = PeerClient(PeerSettings(node.url, token=node.token("shop"), encoding=encoding))
        try:
            found = Counter(one.outcome for one in asking(client)(asked))
        finally:
            client.close()
    assert found == {"given": 3_000}


def test_no_rows_are_no_fault(node: Served) -> None:
    assert outcomes(ask(node, {"rows": []})) == []


def test_only_who_may_push_may_ask(node: Served) -> None:
    assert ask(node, named({"id": 1}), Scope.PULL).status_code == 403
    with node.client() as client:
        assert client.post("/sync/adopt", json=named({"id": 1})).status_code == 401
    assert given(node) == 0


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """2,000 rows of each that differ."""
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
    ddl = "CREATE TABLE item (id integer PRIMARY KEY, name text)"
    insert = "INSERT INTO item {many} SELECT i{more}, '{whose}' || i FROM n"
    of_main, of_shop = (
        (ddl, insert.format(many=many, more="", whose="main"), insert.format(many=many, more=f" + {by}", whose=whose))
        for whose, by in (("main", 10_000), ("shop", 20_000))
    )
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("main", "shop")]
    with made_pair(tmp_path, *urls, of_main, (*of_shop[:1], of_shop[1].replace("'main'", "'shop'"), of_shop[2])) as one:
        yield one


def test_killed_in_between_it_goes_on_with_the_rest(pair: Pair) -> None:
    shop: CliNode = pair.branch
    killed = shop.call("adopt", "--from", "main", ROWFERRY_TEST_DIE_AT=f"{CrashPoint.BEFORE_COMMIT.value}:3")
    assert killed.returncode == -9
    ((versions,),) = shop.query("SELECT count(*) FROM rf_row_version WHERE hlc > 0")
    assert versions == 1_000
    told = document(shop.folder / "rowferry.toml", "adopt", "--from", "main")
    assert (told["given_here"], told["given_there"]) == (1_000, 4_000)
    pair.sync()
    rows = "SELECT * FROM item ORDER BY id"
    assert shop.query(rows) == pair.main.world.query(rows)
    assert shop.query("SELECT count(*) FROM item") == [(6_000,)]
    assert shop.query("SELECT count(*), count(DISTINCT row_key) FROM rf_conflict WHERE kind = 'first-sync'") == [
        (2_000, 2_000)
    ]
    assert pair.verify()["equal"]
    assert "no rows from before" in ok(shop, "adopt", "--from", "main")
