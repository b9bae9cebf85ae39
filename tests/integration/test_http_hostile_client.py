"""Clients that want no answer but the node's places, memory or time: each is given up, and the others are answered."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import GeneratorType
from urllib.parse import urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from common.config.model import ServerSection
from common.http.scopes import Scope
from common.seldom import Seldom
from common.web import patience
from common.web.guard import Guard, WebLimits
from common.web.patience import PatientProtocol, Taking
from common.web.server import serving
from consumer.apply.committing import Committing
from producer.pull_plan import Planner
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


def answers_in_memory() -> int:
    """Readings of the log that are begun and not given up."""
    is_reading = Planner.stream.__code__
    return sum(isinstance(one, GeneratorType) and one.gi_code is is_reading for one in gc.get_objects())


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
def test_what_was_read_for_who_left_is_not_kept(tmp_path: Path, encoding: str, request: pytest.FixtureRequest) -> None:
    with served_on_sqlite(tmp_path) as node:
        node.world.execute(*(f"INSERT INTO item VALUES ({number}, hex(randomblob(50000)), 1)" for number in range(50)))
        Committing(node.world.node).seal()
        asked = with_token(node, "GET /sync/pull?after=0", Scope.PULL)
        asked = asked.replace(b"\r\n\r\n", f"\r\nAccept-Encoding: {encoding}\r\n\r\n".encode())
        # Nothing of it is left to the garbage collector, which comes by when it likes.
        request.addfinalizer(gc.enable)
        gc.disable()
        for _ in range(5):
            with closing(connected(node)) as one:
                one.sendall(asked)
                assert one.recv(1) == b"H"
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: answers_in_memory() == 0, 20, "nothing is kept")


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


def test_heads_that_do_not_end_are_told_of_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.2)
    # Another test may have told of one within this minute.
    monkeypatch.setattr(patience, "_seldom", Seldom(patience.log))
    with served_on_sqlite(tmp_path) as node, caplog.at_level("INFO"), ExitStack() as held:
        many = [held.enter_context(closing(connected(node))) for _ in range(10)]
        for one in many:
            one.sendall(b"GET / HTTP/1.1\r\n")
        wait_for(lambda: all(is_hung_up_on(one) for one in many), 20, "all to be hung up on")
    assert len([record for record in caplog.records if record.message == "http.head_too_slow"]) == 1


def test_a_body_that_stays_away_from_an_answer_that_has_begun_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with served_on_sqlite(tmp_path, ServerSection(port=0, slow_seconds=1)) as node:
        for number in range(12):
            node.world.execute(f"INSERT INTO item VALUES ({number}, '{'x' * 1_000_000}', 1)")
        asked = with_token(node, "GET /sync/pull?after=0", Scope.PULL)
        with who_take_nothing(node, asked.replace(b"Host: a", b"Host: a\r\nContent-Length: 9"), 3) as many:
            for one in many:
                one.settimeout(20)
                while is_still_given(one):
                    pass
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def is_still_given(one: socket.socket) -> bool:
    try:
        return one.recv(65_536) != b""
    except ConnectionResetError:
        return False


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


@pytest.mark.parametrize("piece", [b"", b"x" * 4096])
def test_a_whole_body_has_its_time_however_steadily_it_comes(tmp_path: Path, piece: bytes) -> None:
    with served_on_sqlite(tmp_path, ServerSection(port=0, body_seconds=1)) as node, closing(connected(node)) as one:
        token = node.token("a", Scope.PUSH)
        head = (
            f"POST /sync/push HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 60000000\r\n\r\n"
        )
        one.sendall(head.encode())
        answer, began = b"", time.monotonic()
        while not answer and time.monotonic() - began < 15:
            one.sendall(piece)
            answer = came(one, 0.05)
    assert answer.startswith(b"HTTP/1.1 408"), answer


def came(one: socket.socket, seconds: float) -> bytes:
    """Return what was answered within so many seconds, if something was."""
    one.settimeout(seconds)
    try:
        return one.recv(65_536)
    except TimeoutError:
        return b""


def test_the_rest_of_a_body_that_is_refused_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.5)
    head = b"POST /sync/push HTTP/1.1\r\nHost: a\r\nContent-Length: 60000000\r\n\r\n"
    with served_on_sqlite(tmp_path) as node, closing(connected(node)) as one:
        one.sendall(head)
        assert one.recv(65_536).startswith(b"HTTP/1.1 401")
        assert is_hung_up_on_while_it_drips(one, 10)
        assert is_answered(node)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert]
    subprocess.run([*made, *names], check=True, capture_output=True)
    return cert, key


@contextmanager
def served_by_tls(folder: Path, certificate: tuple[Path, Path]) -> Iterator[tuple[Served, httpx.Client]]:
    cert, key = certificate
    section = ServerSection(port=0, max_connections=6, tls_cert_file=cert, tls_key_file=key)
    trusting = ssl.create_default_context(cafile=str(cert))
    with served_on_sqlite(folder, section) as node, httpx.Client(verify=trusting, trust_env=False) as client:
        yield node, client


def is_hung_up_on(one: socket.socket) -> bool:
    try:
        return not one.recv(65_536)
    except TimeoutError:
        return False
    except ConnectionResetError:
        return True


def test_handshakes_that_never_end_of_many_addresses_shut_nobody_out(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    with served_by_tls(tmp_path, certificate) as (node, client), ExitStack() as held:
        silent = [held.enter_context(closing(connected(node, f"127.0.1.{number + 1}"))) for number in range(12)]
        assert client.get(f"{node.url}/healthz").status_code == 200
        # It was the oldest who made room, long before it would have been given up by itself.
        assert is_hung_up_on(silent[0])
        # Who is in stays in: handshakes make room for one another.
        more = [held.enter_context(closing(connected(node, f"127.0.2.{number + 1}"))) for number in range(12)]
        assert client.get(f"{node.url}/healthz").status_code == 200
        silent[-1].settimeout(10)
        assert is_hung_up_on(silent[-1])
        more[-1].settimeout(0.2)
        assert not is_hung_up_on(more[-1])


def test_one_address_has_half_of_the_places_for_handshakes_and_connections_together(
    tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    with served_by_tls(tmp_path, certificate) as (node, client), ExitStack() as held:
        # One that works, and its connection stays.
        assert client.get(f"{node.url}/healthz").status_code == 200
        silent = [held.enter_context(closing(connected(node))) for _ in range(4)]
        assert [is_hung_up_on(one) for one in silent[2:]] == [True, True]
        assert client.get(f"{node.url}/healthz").status_code == 200


def test_a_handshake_that_never_ends_is_given_up(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.3)
    with served_by_tls(tmp_path, certificate) as (node, client), closing(connected(node)) as one:
        # The beginning of a client's hello.
        one.sendall(b"\x16\x03\x01\x02\x00\x01")
        one.settimeout(20)
        assert is_hung_up_on(one)
        assert client.get(f"{node.url}/healthz").status_code == 200


def test_who_waits_for_an_answer_while_the_node_stops_is_told_to_ask_again(caplog: pytest.LogCaptureFixture) -> None:
    begun = threading.Event()

    async def never(_request: Request) -> Response:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError("nobody ends the wait")

    app = Starlette(routes=[Route("/never", never)])
    with closing(socket.socket()) as client:
        with serving(Guard(app, WebLimits()), ServerSection(port=0)) as port:
            client.settimeout(30)
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /never HTTP/1.1\r\nHost: here\r\n\r\n")
            assert begun.wait(30)
        head, _, body = b"".join(iter(lambda: client.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"retry-after: " in head.lower()
    assert json.loads(body)["type"] == "urn:rowferry:outage"
    assert [one.message for one in caplog.records if one.exc_info] == []
