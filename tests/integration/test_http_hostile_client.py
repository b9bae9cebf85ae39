"""Clients that want no answer but the node's places, memory or time: each is given up, and the others are answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from common.config.model import ServerSection
from common.http.scopes import Scope
from common.web.patience import PatientProtocol, Taking
from tests.support.waiting import wait_for
from tests.support.web import Served, served_on_sqlite

ASK = b"GET /openapi.json HTTP/1.1\r\nHost: here\r\n\r\n"


def connected(node: Served, address: str = "127.0.0.1") -> socket.socket:
    where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
    return socket.create_connection(where, 30, (address, 0))


def with_token(node: Served, request: str, *scopes: Scope) -> bytes:
    return f"{request} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {node.token('a', *scopes)}\r\n\r\n".encode()


def is_answered(node: Served) -> bool:
    with node.client() as client:
        try:
            return client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


def is_hung_up_on_while_it_drips(one: socket.socket, seconds: float) -> bool:
    """Send a byte now and then, and read what comes; False where that goes on."""
    one.settimeout(0.05)
    for _ in range(int(seconds / 0.05)):
        try:
            one.sendall(b"x")
            if not one.recv(65_536):
                return True
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            return True
    return False


@contextmanager
def who_take_nothing(node: Served, request: bytes, count: int) -> Iterator[list[socket.socket]]:
    """As many connections that ask for more than fits between here and there, and read none of it."""
    where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
    many = []
    with ExitStack() as held:
        for _ in range(count):
            one = held.enter_context(closing(socket.socket()))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect(where)
            one.sendall(request)
            many.append(one)
        yield many


def test_what_was_asked_by_who_left_counts_no_more(tmp_path: Path) -> None:
    with served_on_sqlite(tmp_path, ServerSection(port=0, max_connections=6)) as node:
        asked = with_token(node, "GET /sync/pull?wait=50", Scope.PULL)
        for number in range(12):
            with closing(connected(node, f"127.0.1.{number + 1}")) as one:
                one.sendall(asked)
                wait_for(lambda: node.tokens.all()[0].last_used_us is not None, 10, "the pull to be let in")
        wait_for(lambda: is_answered(node), 10, "the requests of who left to be over")


@pytest.mark.parametrize("scope", [None, Scope.PULL])
def test_who_takes_nothing_of_the_answer_is_hung_up_on(tmp_path: Path, scope: Scope | None) -> None:
    with served_on_sqlite(tmp_path, ServerSection(port=0, max_connections=6, slow_seconds=1)) as node:
        asked = ASK * 300
        if scope is not None:
            for number in range(300):
                node.world.execute(f"INSERT INTO item VALUES ({number}, '{'x' * 100_000}', 1)")
            asked = with_token(node, "GET /sync/pull?after=0", scope)
        with who_take_nothing(node, asked, 3):
            assert not is_answered(node)
            wait_for(lambda: is_answered(node), 30, "their places to be free again")


def test_who_takes_an_answer_slowly_is_waited_for() -> None:
    taking = Taking(least_bytes=1_000)
    for waits in (0, 90_000, 89_000, 60_000, 0, 0, 500, 0, 90_000):
        assert not taking.is_stuck(waits)
    # All but a little was gone in between: what waits now is new.
    taking.drained()
    assert not taking.is_stuck(90_000)
    assert not taking.is_stuck(89_000)
    assert taking.is_stuck(88_001)
    assert taking.is_stuck(88_001)


def test_the_rest_of_a_body_that_is_refused_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.5)
    head = b"POST /sync/push HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\n"
    with served_on_sqlite(tmp_path) as node, closing(connected(node)) as one:
        one.sendall(head)
        assert one.recv(65_536).startswith(b"HTTP/1.1 401")
        assert is_hung_up_on_while_it_drips(one, 10)
        assert is_answered(node)
