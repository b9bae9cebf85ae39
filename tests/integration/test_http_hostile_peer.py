"""A peer that answers as no node does: it fills no memory, ends no process, and nothing of its nonsense is kept."""

from __future__ import annotations

import json
import socket
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from common.config.model import Config
from common.errors import OutageError
from common.transports.http.client import PeerClient, RefusedError
from common.transports.http.pace import LEAST_BYTES_A_SECOND, Pace, Paced
from common.transports.http.peer import open_peer_source
from common.transports.http.settings import PeerSettings
from consumer.intake import Intake
from tests.support.applying import Origin, close_world, open_world, sqlite_url

STATE = {"node": "main", "role": "main", "incarnation": "i", "head_lsn": 5, "peers": []}
KNOWN = {"peer": "here", "direction": "in", "incarnation": "i", "last_lsn": 1, "highest_lsn": 1, "last_tx_id": None}
_PIECE = 8 * 1024 * 1024
_DRIPS = 2_000
"""Bytes that are dripped: more than a minute of them."""
TOO_SLOW = "too slow|timed out"
CONFIG = Config.model_validate({"node": {"id": "here", "database": "sqlite:///nowhere.db"}})


@dataclass
class Answer:
    """What is answered, and how it is wrapped on its way."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drips: str = ""
    """`head` or `body`: that comes byte by byte, each long before a single read is given up."""


@cache
def bomb() -> bytes:
    """128 MiB of spaces in some 128 KiB."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return b"".join(packer.compress(b" " * _PIECE) for _ in range(16)) + packer.flush()


def document(status: int = 200, **given: Any) -> Answer:
    return Answer(json.dumps(given).encode(), status)


@contextmanager
def hostile(answer: Callable[[str, dict[str, list[str]]], Answer]) -> Iterator[PeerSettings]:
    """A server that answers what it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = urlsplit(self.path)
            self._send(answer(where.path, parse_qs(where.query)))

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self._send(answer(self.path, {}))

        def _send(self, given: Answer) -> None:
            self.send_response(given.status)
            for name, value in ({"Content-Length": str(len(given.body))} | given.headers).items():
                self.send_header(name, value)
            # Who has seen enough hangs up.
            with _hung_up():
                if given.drips == "head":
                    self._drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * _DRIPS)
                self.end_headers()
                if given.drips:
                    self._drip(given.body)
                self.wfile.write(given.body)

        def _drip(self, what: bytes) -> None:
            for number in range(len(what)):
                self.wfile.write(what[number : number + 1])
                if over.wait(0.05):
                    break

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    over = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield PeerSettings(f"http://127.0.0.1:{server.server_port}", "main", "token", "zstd")
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def _hung_up() -> Iterator[None]:
    try:
        yield
    except (BrokenPipeError, ConnectionResetError):
        return


@contextmanager
def talking(answer: Callable[[str, dict[str, list[str]]], Answer]) -> Iterator[PeerClient]:
    """A client of such a server."""
    with hostile(answer) as settings, closing(PeerClient(settings)) as client:
        yield client


@pytest.mark.parametrize("status", [200, 403, 500])
@pytest.mark.parametrize("ask", ["state", "push", "heartbeats", "say"])
def test_an_answer_that_unwraps_to_too_much_is_not_taken(ask: str, status: int) -> None:
    wrapped = Answer(bomb(), status, {"Content-Encoding": "gzip"})
    given: tuple[bytes, ...] = (b"x",) if ask in ("push", "say") else ()
    with talking(lambda _path, _query: wrapped) as client, pytest.raises(OutageError, match="more than"):
        getattr(client, ask)(*given)


def test_an_answer_that_is_too_long_as_it_is_is_not_taken() -> None:
    with (
        talking(lambda _path, _query: Answer(b" " * 17 * 1024 * 1024)) as client,
        pytest.raises(OutageError, match="more than"),
    ):
        client.state()


@pytest.mark.parametrize(
    "given",
    [
        {"head_lsn": 2**63},
        {"head_lsn": -1},
        {"node": "main\x1b[2J"},
        {"node": "a" * 65},
        {"incarnation": "x\0y"},
        {"peers": [KNOWN | {"last_lsn": 2**70}]},
        {"peers": [KNOWN | {"highest_lsn": -5}]},
        {"peers": [KNOWN | {"last_tx_id": "\0"}]},
    ],
)
def test_what_no_database_takes_is_no_state(given: dict[str, Any]) -> None:
    with (
        talking(lambda _path, _query: document(**STATE | given)) as client,
        pytest.raises(OutageError, match="not answer as a node does"),
    ):
        client.state()


def test_a_missing_stretch_has_numbers_of_a_log() -> None:
    missing = {"incarnation": "i", "after_lsn": -(2**70), "until_lsn": 2**70}
    with (
        talking(lambda _path, _query: document(missing=missing)) as client,
        pytest.raises(OutageError, match="not answer as a node does"),
    ):
        client.say(b"x")


@pytest.mark.parametrize("mark", ["", "a" * 1001, "x\x1b[2J", "tab\there", "\xff"])
def test_a_mark_that_could_not_be_shown_again_is_not_kept(mark: str) -> None:
    headers = {"Rowferry-Cursor": mark, "Rowferry-Txs": "0"}
    with talking(lambda _path, _query: Answer(headers=headers)) as client, pytest.raises(OutageError):
        client.pull(None, limit=1)


def test_who_does_not_count_its_batches_is_read_all_the_same() -> None:
    """The end of an answer says how many there are."""
    body = Origin("main").put(1, "one", 10).body
    headers = {"Rowferry-Cursor": "r1.a", "Content-Type": "application/x-ndjson; charset=utf-8"}
    with talking(lambda _path, _query: Answer(body, headers=headers)) as client:
        with closing(client.pull(None, limit=1)) as answer:
            assert (answer.cursor, answer.body.read()) == ("r1.a", body)
        with closing(client.again("main", "i", 0, 1)) as answer:
            assert answer.body.read() == body


def test_a_page_of_what_stands_in_between_is_no_stretch_of_a_log() -> None:
    """A proxy's login page would be a dead letter."""
    page = Answer(b"<html>", headers={"Content-Type": "text/html"})
    with talking(lambda _path, _query: page) as client, pytest.raises(OutageError, match="text/html"):
        client.again("main", "i", 0, 1)


def test_without_a_mark_it_is_no_answer() -> None:
    with (
        talking(lambda _path, _query: Answer(headers={"Rowferry-Txs": "0"})) as client,
        pytest.raises(OutageError, match=r"no header Rowferry-Cursor"),
    ):
        client.pull(None, limit=1)


@pytest.mark.parametrize("status", [400, 414, 422, 431])
def test_a_mark_that_its_own_peer_does_not_take_is_let_go_of(status: int) -> None:
    def answer(path: str, query: dict[str, list[str]]) -> Answer:
        if path == "/sync/state":
            return document(**STATE)
        if query["after"] != ["0"]:
            return document(status, type="urn:rowferry:request", detail="query.after: no")
        return Answer(headers={"Rowferry-Cursor": "r1.good", "Rowferry-Txs": "0"})

    place = Place("r1.spoilt")
    with hostile(answer) as settings:
        source = open_peer_source(settings, CONFIG, place, None)
        assert source.receive(10, 0) == []
        source.close()
    assert place.cursor == "r1.good"


def test_what_is_refused_without_a_mark_is_refused() -> None:
    def answer(path: str, _query: dict[str, list[str]]) -> Answer:
        return document(**STATE) if path == "/sync/state" else document(422, type="about:blank", detail="no")

    with hostile(answer) as settings:
        source = open_peer_source(settings, CONFIG, Place(None), None)
        with pytest.raises(RefusedError):
            source.receive(10, 0)
        source.close()


def test_an_encoding_that_nobody_knows_is_told() -> None:
    headers = {"Rowferry-Cursor": "r1.a", "Rowferry-Txs": "1", "Content-Encoding": "br"}
    with talking(lambda _path, _query: Answer(b"xx", 200, headers)) as client, pytest.raises(OutageError, match="br"):
        client.pull(None, limit=1)


@pytest.mark.parametrize("drips", ["head", "body"])
@pytest.mark.parametrize("ask", ["state", "heartbeats", "say", "pull"])
def test_who_drips_is_given_up(ask: str, drips: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.transports.http.client._READ_SECONDS", 1.0)
    slow = Answer(b" " * _DRIPS, 200, {"Rowferry-Cursor": "r1.a", "Rowferry-Txs": "1"}, drips)
    questions: dict[str, Callable[[PeerClient], object]] = {
        "state": PeerClient.state,
        "heartbeats": PeerClient.heartbeats,
        "say": lambda client: client.say(b"x"),
        "pull": lambda client: client.pull(None, limit=1).body.read(),
    }
    with talking(lambda _path, _query: slow) as client, pytest.raises(OutageError, match=TOO_SLOW):
        questions[ask](client)


def test_of_a_pull_that_drips_nothing_is_applied_and_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.transports.http.client._READ_SECONDS", 1.0)
    main = Origin("main")
    first, second = main.put(1, "one", 10).body, main.put(2, "two", 20).body
    body, asked = first + second, []

    def answer(path: str, query: dict[str, list[str]]) -> Answer:
        if path == "/sync/state":
            return document(**STATE)
        asked.append(query)
        headers = {"Rowferry-Cursor": f"r1.{len(asked)}", "Rowferry-Txs": "2"}
        return Answer(body if len(asked) < 3 else b"", 200, headers, "body" if len(asked) == 1 else "")

    world = open_world(sqlite_url(tmp_path))
    place = Place(None)
    with hostile(answer) as settings:
        intake = Intake(
            world.node,
            "http-main",
            lambda: open_peer_source(settings, world.node.config, place, None),
            None,
            threading.Event(),
        )
        with closing(intake):
            with pytest.raises(OutageError, match=TOO_SLOW):
                intake.step(0)
            assert (world.rows(), place.cursor) == ([], None)
            while intake.step(0):
                pass
            assert [row[:2] for row in world.rows()] == [(1, "one"), (2, "two")]
    close_world(world)


def test_who_is_slow_but_not_too_slow_is_waited_for() -> None:
    passed = [0.0]
    pace = Pace(lambda: passed[0])

    def comes(count: int) -> None:
        with pace.waiting():
            passed[0] += 1.0
        pace.moved(count)

    pace.begin(60.0)
    for _ in range(1_000):
        comes(LEAST_BYTES_A_SECOND * 2)
    # What came fast before is no licence to stand still.
    for _ in range(59):
        comes(1)
    with pytest.raises(httpx.ReadTimeout, match="too slow"):
        [comes(1) for _ in range(2)]


def test_who_takes_a_push_slowly_keeps_nobody_longer_than_the_least_speed_allows() -> None:
    passed, patience, size = [0.0], 900.0, 1024 * 1024
    pace = Pace(lambda: passed[0])
    pace.begin(patience)

    class Slow:
        """As the library writes: it may have to wait as long again whenever a third of a small buffer is free."""

        def write(self, buffer: bytes, timeout: float | None = None) -> None:
            assert timeout is not None
            for _ in range(0, len(buffer), 5_000):
                passed[0] += timeout - 1

    with suppress(httpx.ReadTimeout):
        Paced(Slow(), pace).write(bytes(size), patience)  # type: ignore[arg-type]
    assert passed[0] <= patience + size / LEAST_BYTES_A_SECOND


def test_a_refusal_is_one_line() -> None:
    long = document(403, type="x", detail="no\r\nError: forged \0\x1b[2J" + "x" * 9000)
    with talking(lambda _path, _query: long) as client, pytest.raises(RefusedError) as refused:
        client.state()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 3000


def test_a_proxy_that_takes_no_such_body_is_told_as_what_it_is() -> None:
    """As nginx does, which takes a MiB unless told otherwise."""
    page = Answer(b"<html><h1>413 Request Entity Too Large</h1></html>", 413, {"Content-Type": "text/html"})
    with talking(lambda _path, _query: page) as client, pytest.raises(RefusedError, match="a proxy in between"):
        client.push(b"x")


def test_a_peer_without_tls_that_is_asked_with_it_is_told_so() -> None:
    with hostile(lambda _path, _query: document(**STATE)) as settings:
        asked = replace(settings, url=settings.url.replace("http://", "https://"))
        with closing(PeerClient(asked)) as client, pytest.raises(OutageError, match="does not speak TLS") as told:
            client.state()
    assert "_ssl.c" not in str(told.value)


def test_the_token_does_not_follow_to_elsewhere() -> None:
    asked: list[str] = []

    def elsewhere(path: str, _query: dict[str, list[str]]) -> Answer:
        asked.append(path)
        return document(**STATE)

    with hostile(elsewhere) as other:
        moved = Answer(status=302, headers={"Location": f"{other.url}/sync/state"})
        with talking(lambda _path, _query: moved) as client, pytest.raises(RefusedError, match="302") as refused:
            client.state()
        assert f"leads to {other.url}/sync/state" in str(refused.value)
    assert asked == []


def test_where_it_leads_is_no_long_story() -> None:
    moved = Answer(status=301, headers={"Location": "http://x/" + "y" * 9000})
    with talking(lambda _path, _query: moved) as client, pytest.raises(RefusedError) as refused:
        client.state()
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 3000


def test_what_is_no_document_at_all_has_no_place_in_it() -> None:
    page = Answer(b"<html>log in</html>")
    with talking(lambda _path, _query: page) as client, pytest.raises(OutageError, match="node does: Invalid JSON"):
        client.state()


@dataclass
class Place:
    """A place kept in memory."""

    cursor: str | None

    def load(self) -> str | None:
        return self.cursor

    def save(self, cursor: str) -> None:
        self.cursor = cursor


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_of_the_environment_does_not_see_the_token(
    monkeypatch: pytest.MonkeyPatch, name: str, scheme: str
) -> None:
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:

        def hear() -> None:
            with suppress(OSError):
                # Until the socket ends: the client may try twice.
                while True:
                    connection, _ = proxy.accept()
                    answer(connection)

        def answer(connection: socket.socket) -> None:
            with connection:
                heard.append(connection.recv(65_536))
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

        hearing = threading.Thread(target=hear)
        hearing.start()
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        settings = PeerSettings(f"{scheme}://peer.invalid:8765", "main", "the-token", "zstd")
        with closing(PeerClient(settings)) as client, pytest.raises(OutageError):
            client.state()
        proxy.shutdown(socket.SHUT_RDWR)
        hearing.join()
    assert not any(b"the-token" in request for request in heard)
    # By TLS it may be in between: it is asked for a way, and told nothing.
    by_proxy = scheme == "https" and name in ("HTTPS_PROXY", "ALL_PROXY")
    assert [request.split()[0] for request in heard] == ([b"CONNECT"] if by_proxy else [])
