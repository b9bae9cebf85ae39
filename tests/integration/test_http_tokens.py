"""Tokens against those who have none: guesses keep nobody waiting, are counted exactly, and stand in the audit."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from common.config.model import ServerSection
from common.errors import OutageError
from common.http.scopes import Scope
from common.ops import tokens
from common.web.refusal_audit import TOKEN_REFUSED, RefusalAudit
from tests.support.page import Person
from tests.support.waiting import wait_for
from tests.support.web import Served, served_on_sqlite

WRONG = "x" * 43
MADE_UP = f"rf_{'a' * 12}_{WRONG}"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    with served_on_sqlite(tmp_path) as one:
        yield one


def status(node: Served, token: str) -> int:
    with node.client(token) as client:
        return client.get("/sync/state").status_code


def refused(node: Served) -> list[dict[str, Any]]:
    rows = node.world.query(f"SELECT detail FROM rf_audit WHERE action = '{TOKEN_REFUSED}' ORDER BY id")
    return [json.loads(detail) for (detail,) in rows]


@contextmanager
def guessed_from(node: Served, addresses: int, token: str = MADE_UP, first: int = 1) -> Iterator[None]:
    """A wrong token, from each of as many addresses."""
    where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
    asked = f"GET /sync/state HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    with ExitStack() as held:
        for number in range(addresses):
            one = held.enter_context(closing(socket.create_connection(where, 10, (f"127.0.2.{number + first}", 0))))
            one.sendall(asked)
        yield


@contextmanager
def slow_sums(monkeypatch: pytest.MonkeyPatch, is_slow: Callable[[str], bool]) -> Iterator[threading.Semaphore]:
    """Sums of such secrets take until the context ends; give what counts those that were begun."""
    go_on, begun, real = threading.Event(), threading.Semaphore(0), tokens.matches

    def matches(secret: str, kept: str) -> bool:
        if is_slow(secret):
            begun.release()
            go_on.wait(60)
        return real(secret, kept)

    monkeypatch.setattr("common.web.auth.tokens.matches", matches)
    try:
        yield begun
    finally:
        go_on.set()


def test_guesses_of_many_addresses_keep_nobody_waiting(node: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    known, fresh = node.token("a"), node.token("b")
    assert status(node, known) == 200
    with slow_sums(monkeypatch, lambda secret: secret == WRONG) as begun, guessed_from(node, 40):
        assert begun.acquire(timeout=10)
        assert status(node, known) == 200
        # Nor one that comes for the first time.
        assert status(node, fresh) == 200


def test_nor_do_guesses_at_one_token(node: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    known, fresh, guessed = node.token("a"), node.token("b"), f"rf_{node.token('c').split('_')[1]}_{WRONG}"
    assert status(node, known) == 200
    for number in range(10):
        with guessed_from(node, 1, guessed, 100 + number):
            wait_for(lambda count=number + 1: len(refused(node)) == count, 10, "the guess to be refused")  # type: ignore[misc]
    with slow_sums(monkeypatch, lambda secret: secret == WRONG) as begun, guessed_from(node, 40, guessed):
        assert begun.acquire(timeout=10)
        assert status(node, known) == 200
        assert status(node, fresh) == 200


def test_who_comes_for_the_first_time_together_gets_in_together(node: Served) -> None:
    shown = [node.token(f"shop-{number}") for number in range(20)] + [node.token("one")] * 20
    with ThreadPoolExecutor(40) as shops:
        assert set(shops.map(lambda token: status(node, token), shown)) == {200}


def test_guesses_that_come_together_are_counted_one_by_one(node: Served) -> None:
    with ThreadPoolExecutor(40) as guessers:
        statuses = [one.result() for one in [guessers.submit(status, node, MADE_UP) for _ in range(40)]]
    assert set(statuses) <= {401, 429}
    assert statuses.count(401) <= 10
    while (last := status(node, MADE_UP)) == 401:
        statuses.append(last)
    assert statuses.count(401) == 10


def test_two_tokens_in_one_request_are_refused(node: Served) -> None:
    good = node.token("a")
    for shown in ((good, MADE_UP), (MADE_UP, good), (good, good)):
        with node.client() as client:
            answer = client.get("/sync/state", headers=[("Authorization", f"Bearer {token}") for token in shown])
        assert (answer.status_code, answer.headers["connection"]) == (400, "close")


def test_a_refused_token_stands_in_the_audit_but_without_its_secret(node: Served) -> None:
    shop, revoked, expired = node.token("shop"), node.token("berta"), node.token("carl", lives_us=1)
    shop_id, secret = shop.split("_", 2)[1:]
    node.tokens.revoke(revoked.split("_")[1], "test")
    node.world.clock.pass_seconds(1)
    for token in (f"rf_{shop_id}_{WRONG}", revoked, expired, MADE_UP):
        assert status(node, token) == 401
    # What has not the form of a token is none, and that there is none is nobody's guess.
    assert status(node, "my-password") == 401
    assert status(node, "") == 401
    assert [(one.get("node_id"), one["reason"], one["address"]) for one in refused(node)] == [
        ("shop", "a wrong secret", "127.0.0.1"),
        ("berta", "the token is revoked", "127.0.0.1"),
        ("carl", "the token is expired", "127.0.0.1"),
        (None, "no such token", "127.0.0.1"),
    ]
    everything = str(node.world.query("SELECT * FROM rf_audit"))
    for hidden in (WRONG, secret, revoked.split("_", 2)[2], "my-password", "a" * 12):
        assert hidden not in everything
    with (person := Person(node)).client:
        person.login()
        assert "refused a program" in person.get("/page/audit").text


def test_a_pull_whose_token_is_revoked_while_it_waits_stands_there_too(node: Served) -> None:
    token = node.token("b", Scope.PULL)
    with node.client(token) as client, ThreadPoolExecutor(1) as other:
        waits = other.submit(client.get, "/sync/pull", params={"wait": 5})
        wait_for(lambda: node.tokens.all()[0].last_used_us is not None, 10, "the pull to be let in")
        node.tokens.revoke(token.split("_")[1], "test")
        assert waits.result().status_code == 401
    assert [one["reason"] for one in refused(node)] == ["the token is revoked"]


def test_a_program_that_tries_again_and_again_is_written_once_an_hour(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0])
    monkeypatch.setattr("common.web.refusal_audit.time", clock)
    monkeypatch.setattr("common.web.auth.time", clock)
    revoked = node.token("berta")
    node.tokens.revoke(revoked.split("_")[1], "test")
    for _ in range(5):
        assert status(node, revoked) == 401
    passed[0] = 3_601.0
    assert status(node, revoked) == 401
    assert [one.get("left_out_before") for one in refused(node)] == [None, 4]


def test_an_address_that_a_proxy_passes_on_unseen_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Some trusted proxies pass on what a client wrote there itself."""
    section = ServerSection(port=0, proxies=("127.0.0.1",))
    with served_on_sqlite(tmp_path, section) as node, node.client(MADE_UP) as client, caplog.at_level(logging.DEBUG):
        made_up = b"\x1b]0;gotcha\x07" + b"x" * 20_000
        assert client.get("/sync/state", headers={b"X-Forwarded-For": made_up}).status_code == 401
        ((told,), lines) = refused(node), [one.__dict__.get("address") for one in caplog.records]
    assert told["address"].startswith("\\u001b]0;gotcha")
    for address in (told["address"], *filter(None, lines)):
        assert len(address) <= 200
        assert "\x1b" not in address


def test_nor_do_many_addresses_fill_the_audit(node: Served) -> None:
    audit = RefusalAudit(node.world.node.database, node.world.node.clock, TOKEN_REFUSED, 3_600.0)
    for number in range(150):
        audit.refused(f"192.0.2.{number}", "no such token", None)
    assert len(refused(node)) == 100


def test_a_stranger_is_not_told_what_is_wrong_inside(
    node: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: object) -> None:
        # As PostgreSQL's driver says it.
        raise OutageError('connection to server at "10.1.2.3", port 5432 failed: no password for user "shop_app"')

    monkeypatch.setattr(tokens.Tokens, "find", away)
    with node.client(MADE_UP) as client:
        for path in ("/sync/state", "/dead-letters", "/metrics"):
            answer = client.get(path, headers={"X-Forwarded-For": "192.0.2.1"})
            assert (answer.status_code, answer.json()["type"]) == (503, "urn:rowferry:outage")
            assert int(answer.headers["retry-after"]) > 0
            assert "10.1.2.3" not in answer.text
            assert "shop_app" not in answer.text
    # The log is told, and is not filled by it.
    assert [record.message for record in caplog.records].count("http.unavailable") == 1


def test_who_is_known_is_told(node: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    known = node.token("a", Scope.OPS)

    def away(*_: object) -> None:
        raise OutageError("the disk is full")

    monkeypatch.setattr("consumer.serve_audit.find_lines", away)
    with node.client(known) as client:
        for _ in range(20):
            assert client.get("/audit").json()["detail"] == "the disk is full"
    # Pages and programs ask again and again as long as it lasts.
    assert [record.message for record in caplog.records].count("http.unavailable") == 1


def test_requests_that_are_none_do_not_fill_the_log(node: Served, caplog: pytest.LogCaptureFixture) -> None:
    where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
    for _ in range(20):
        for nonsense in (
            b"\x16\x03\x01nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade, close\r\nUpgrade: websocket\r\n\r\n",
        ):
            with closing(socket.create_connection(where, 10)) as one:
                one.sendall(nonsense)
                assert one.recv(65_536).startswith(b"HTTP/1.1 ")
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(warned) == len(set(warned)) > 0
