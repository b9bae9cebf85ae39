"""Who comes in over HTTP, and what a client may do to the server."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from common.config.model import ServerSection
from common.errors import ConfigError, RowferryError
from common.http.scopes import Scope
from common.web import probes
from common.web.auth import FailedLogins
from common.web.patience import PatientProtocol
from common.web.progress import Waits, read_waits
from common.web.server import check_exposure, serving
from tests.support.applying import Origin
from tests.support.waiting import wait_for
from tests.support.web import Served, served_on_sqlite


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Served]:
    with served_on_sqlite(tmp_path) as one:
        yield one


def problem(answer: httpx.Response, status: int) -> dict[str, object]:
    """Return an answer's document, which must be a refusal as RFC 9457 has them."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = answer.json()
    assert document["status"] == status
    assert document["instance"] == answer.headers["x-request-id"]
    assert {"type", "title", "detail"} <= document.keys()
    return document


def test_a_token_opens_the_door_and_nothing_else_does(node: Served) -> None:
    token = node.token("a", Scope.PULL)
    with node.client() as client:
        missing = client.get("/sync/state")
        assert problem(missing, 401)
        assert missing.headers["www-authenticate"].startswith("Bearer")
        for wrong in ("rf_", "nonsense", token[:-1] + ("A" if token[-1] != "A" else "B"), token[3:], token + "A"):
            refused = client.get("/sync/state", headers={"Authorization": f"Bearer {wrong}"})
            assert problem(refused, 401)
        basic = client.get("/sync/state", headers={"Authorization": f"Basic {token}"})
        assert problem(basic, 401)
        there = client.get("/sync/state", headers={"Authorization": f"Bearer {token}"})
    assert there.status_code == 200
    assert there.json()["node"] == "here"


def test_the_secret_is_nowhere_in_the_database(node: Served) -> None:
    token = node.token("a")
    secret = token.split("_", 2)[2]
    text = "\n".join(
        str(row) for table in ("rf_token", "rf_audit") for row in node.world.query(f"SELECT * FROM {table}")
    )
    assert "token-created" in text
    assert secret not in text
    assert secret.lower() not in text.lower()


def test_a_revoked_token_is_refused_at_the_next_request(node: Served) -> None:
    token, other = node.token("a"), node.token("a")
    with node.client(token) as client:
        assert client.get("/sync/state").status_code == 200
        node.tokens.revoke(token.split("_")[1], "test")
        assert problem(client.get("/sync/state"), 401)["type"] == "urn:rowferry:revoked"
    with node.client(other) as client:
        assert client.get("/sync/state").status_code == 200


def test_an_expired_token_is_refused(node: Served) -> None:
    token = node.token("a", lives_us=5_000_000)
    with node.client(token) as client:
        assert client.get("/sync/state").status_code == 200
        node.world.clock.pass_seconds(6)
        assert problem(client.get("/sync/state"), 401)["type"] == "urn:rowferry:expired"


def test_failed_logins_are_limited_and_a_token_that_is_known_still_works(node: Served) -> None:
    known, fresh = node.token("a"), node.token("b")
    with node.client(known) as client:
        assert client.get("/sync/state").status_code == 200
        assert {client.get("/sync/state", headers={"Authorization": "Bearer x"}).status_code for _ in range(14)} == {
            401
        }
        statuses = [
            client.get("/sync/state", headers={"Authorization": f"Bearer {known[:-2]}{number:02}"}).status_code
            for number in range(14)
        ]
        assert statuses.count(401) == 10
        assert statuses[-1] == 429
        limited = client.get("/sync/state", headers={"Authorization": f"Bearer {fresh}"})
        assert problem(limited, 429)
        assert int(limited.headers["retry-after"]) >= 1
        assert client.get("/sync/state").status_code == 200


def test_a_token_that_was_right_once_stays_known_while_its_address_guesses(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = [0.0]
    monkeypatch.setattr("common.web.auth.time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    known = node.token("a")
    with node.client(known) as client:
        assert client.get("/sync/state").status_code == 200
        passed[0] = 86_400.0
        guesses = [f"{known[:-2]}{number:02}" for number in range(12)]
        statuses = [
            client.get("/sync/state", headers={"Authorization": f"Bearer {guess}"}).status_code for guess in guesses
        ]
        assert statuses[-1] == 429
        assert client.get("/sync/state").status_code == 200


@pytest.mark.parametrize(
    ("address", "neighbour", "are_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_wrong_tokens_are_counted_by_network(address: str, neighbour: str, *, are_one: bool) -> None:
    failures = FailedLogins(most=1)
    failures.failed(address)
    assert failures.wait_seconds(address) > 0
    assert (failures.wait_seconds(neighbour) > 0) is are_one


def test_one_client_leaves_connections_to_others(tmp_path: Path) -> None:
    with served_on_sqlite(tmp_path, ServerSection(port=0, max_connections=6)) as node:
        where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
        with ExitStack() as held:
            idle = [held.enter_context(closing(socket.create_connection(where, 10))) for _ in range(8)]
            for one in idle[3:]:
                # Hung up on at once, long before what a dawdler is given.
                assert one.recv(1) == b""
            # Those that were first work, so three are left for clients of elsewhere.
            idle[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert idle[0].recv(64).startswith(b"HTTP/1.1 200")
        wait_for(lambda: is_answered(node), 10, "the connections to be free again")


def test_a_proxy_may_have_all_connections(tmp_path: Path) -> None:
    section = ServerSection(port=0, max_connections=6, proxies=("127.0.0.0/8",))
    with served_on_sqlite(tmp_path, section) as node:
        where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
        with ExitStack() as held:
            for _ in range(4):
                held.enter_context(closing(socket.create_connection(where, 10)))
            assert is_answered(node)


@contextmanager
def strangers(node: Served, count: int, request: bytes, answer: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections from as many addresses, each with a request that was sent, and answered by what begins so."""
    where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
    with ExitStack() as held:
        many = []
        for number in range(count):
            one = socket.create_connection(where, 10, (f"127.0.1.{number + 1}", 0))
            many.append(held.enter_context(closing(one)))
            one.sendall(request)
            if answer:
                assert one.recv(65_536).startswith(answer)
        yield many


def is_hung_up_on(one: socket.socket) -> bool:
    try:
        while one.recv(65_536):
            pass
    except TimeoutError:
        return False
    except ConnectionResetError:
        # What it sent last was never read.
        return True
    return True


ANSWERED = (b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n", b"HTTP/1.1 200")
SILENT = (b"", b"")
DRIPPING_HEAD = (b"GET /healthz HTTP/1.1\r\nHost: ", b"")
DRIPPING_FORM = (
    b"POST /page/login HTTP/1.1\r\nHost: here\r\nOrigin: http://here\r\nContent-Length: 9000\r\n"
    b"Expect: 100-continue\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n",
    b"HTTP/1.1 100",
)


@pytest.mark.parametrize("sent", [ANSWERED, SILENT, DRIPPING_HEAD, DRIPPING_FORM])
def test_many_addresses_together_shut_nobody_out(tmp_path: Path, sent: tuple[bytes, bytes]) -> None:
    section = ServerSection(port=0, max_connections=6)
    with served_on_sqlite(tmp_path, section) as node, strangers(node, 12, *sent) as many:
        with node.client(node.token("a", Scope.PULL)) as client:
            assert client.get("/sync/state").status_code == 200
        assert is_answered(node)
        # It was the oldest who made room.
        assert is_hung_up_on(many[0])


def test_who_is_known_keeps_the_connection_while_strangers_come(tmp_path: Path) -> None:
    with served_on_sqlite(tmp_path, ServerSection(port=0, max_connections=6)) as node:
        asked = as_known(node, "/sync/state")
        with closing(connected(node)) as known:
            for _ in range(2):
                known.sendall(asked)
                answer = b""
                while not answer.endswith(b"]}"):
                    answer += known.recv(65_536) or pytest.fail("it was hung up on")
                with strangers(node, 12, *ANSWERED), strangers(node, 12, *SILENT):
                    pass


def test_a_pull_that_waits_is_not_cut_off_by_strangers(tmp_path: Path) -> None:
    with served_on_sqlite(tmp_path, ServerSection(port=0, max_connections=6)) as node, closing(connected(node)) as held:
        held.sendall(as_known(node, "/sync/pull?wait=50"))
        wait_for(lambda: node.tokens.all()[0].last_used_us is not None, 10, "the pull to be let in")
        with strangers(node, 12, *DRIPPING_FORM), strangers(node, 12, *ANSWERED):
            node.world.execute("INSERT INTO item VALUES (1, 'new', 1)")
            assert held.recv(65_536).startswith(b"HTTP/1.1 200")


def test_who_is_hung_up_on_in_the_middle_of_a_form_is_no_fault(node: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "common.web"):
        with strangers(node, 1, *DRIPPING_FORM):
            pass
        wait_for(lambda: any(one.message == "http.request" for one in caplog.records), 10, "the request to end")
    assert [one.message for one in caplog.records if one.levelname in ("WARNING", "ERROR")] == []


def connected(node: Served) -> socket.socket:
    return socket.create_connection((urlsplit(node.url).hostname, urlsplit(node.url).port), 30)


def as_known(node: Served, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {node.token('a', Scope.PULL)}\r\n\r\n".encode()


def is_answered(node: Served) -> bool:
    with node.client() as client:
        try:
            return client.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False


def test_a_body_with_two_lengths_is_refused_and_nothing_behind_it_is_read(node: Served) -> None:
    where = (urlsplit(node.url).hostname, urlsplit(node.url).port)
    both = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    with closing(socket.create_connection(where, 10)) as one:
        one.sendall(b"POST /sync/push HTTP/1.1\r\nHost: a\r\n" + both + b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b"".join(iter(lambda: one.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1 ") == 1


def test_state_shows_others_only_to_ops(node: Served) -> None:
    node.world.execute(
        "INSERT INTO rf_sync_state (peer, direction, incarnation, last_lsn, highest_lsn, updated_us)"
        " VALUES ('a', 'in', 'i', 3, 5, 1), ('b', 'in', 'i', 4, 4, 1)"
    )
    with node.client(node.token("a", Scope.PULL)) as client:
        (own,) = client.get("/sync/state").json()["peers"]
    assert (own["peer"], own["last_lsn"], own["highest_lsn"]) == ("a", 3, 5)
    with node.client(node.token("a", Scope.OPS)) as client:
        assert [one["peer"] for one in client.get("/sync/state").json()["peers"]] == ["a", "b"]


def test_the_probes_and_the_description_are_open(node: Served) -> None:
    with node.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        description = client.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    assert "/sync/state" in description["paths"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/", "/page/login"])
def test_head_is_get_without_a_body(node: Served, path: str) -> None:
    """Load balancers and `wget --spider` ask so."""
    with node.client() as client:
        asked, told = client.head(path), client.get(path)
    assert (asked.status_code, asked.content) == (told.status_code, b"")
    assert asked.headers.get("content-type") == told.headers.get("content-type")


def test_head_takes_nothing(node: Served) -> None:
    with node.client(node.token("a", Scope.PULL)) as client:
        assert client.head("/sync/pull").status_code == 405


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_a_probe_may_be_asked_with_anything(node: Served, path: str) -> None:
    with node.client() as client:
        assert client.get(path, params={"t": "123", "collect[]": ["a", "b"]}).status_code == 200


def asked_plainly(node: Served, request: bytes) -> tuple[bytes, bytes]:
    """Send bytes as they are; return the head and the body of what comes until the node hangs up."""
    with closing(socket.create_connection((urlsplit(node.url).hostname, urlsplit(node.url).port), 10)) as one:
        one.sendall(request + b"Connection: close\r\n\r\n")
        head, _, body = b"".join(iter(lambda: one.recv(65_536), b"")).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://node.example/readyz", 200),
        ("HTTP://node.example:80/readyz?t=1", 200),
        ("https://node.example/sync/state", 401),
        ("http://node.example", 303),
        ("http://node.example?next=1", 303),
        ("http:///readyz", 404),
        ("http://anna@node.example/readyz", 404),
    ],
)
def test_a_target_may_name_the_host_too(node: Served, target: str, status: int) -> None:
    head, _ = asked_plainly(node, f"GET {target} HTTP/1.1\r\nHost: other\r\n".encode())
    assert head.startswith(b"HTTP/1.1 %d " % status), head


def test_the_host_in_the_target_counts_and_not_that_of_the_header(node: Served) -> None:
    """So a name that leads to this machine does not pass for it."""
    head, _ = asked_plainly(node, b"GET http://node.example/metrics HTTP/1.1\r\nHost: localhost\r\n")
    assert head.startswith(b"HTTP/1.1 401 ")
    head, _ = asked_plainly(node, b"GET http://localhost/metrics HTTP/1.1\r\nHost: node.example\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")


def test_a_body_to_a_target_with_its_host_may_be_as_large_as_the_paths_may(node: Served) -> None:
    head = b"POST http://a/sync/push HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n"
    assert asked_plainly(node, head)[0].startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["no host", "TLS", "a length that is none"],
)
def test_what_is_no_http_is_refused_as_everything_is(node: Served, sent: bytes) -> None:
    with closing(socket.create_connection((urlsplit(node.url).hostname, urlsplit(node.url).port), 10)) as one:
        one.sendall(sent)
        head, _, body = b"".join(iter(lambda: one.recv(65_536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] == 400


def test_readyz_says_no_while_the_database_is_away(node: Served) -> None:
    file = Path(str(node.world.node.database.engine.url.database))
    node.world.node.database.engine.dispose()
    away = file.rename(file.with_suffix(".away"))
    with node.client() as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert client.get("/healthz").status_code == 200
    away.rename(file)


def test_readyz_says_no_while_work_waits_without_progress(node: Served) -> None:
    world, a = node.world, Origin("a")
    one, _, three = (a.put(number, "x", number) for number in range(1, 4))
    world.receive(one.body, three.body)
    with node.client() as client:
        assert client.get("/readyz").status_code == 200
        row = f"('source a', 1, 'inc1/1', {world.clock.us - 400_000_000}, {world.clock.us})"
        world.execute(f"INSERT INTO rf_watch (work, pending, mark, still_us, looked_us) VALUES {row}")
        # What was read a moment ago is told again.
        wait_for(lambda: client.get("/readyz").status_code == 503, 10, "the next look")
        answer = client.get("/readyz")
        elsewhere = client.get("/readyz", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (answer.status_code, answer.json()["ready"], answer.json()["oldest_unapplied_seconds"]) == (503, False, 400)
    assert "1 changes of a not yet applied" in answer.json()["reason"]
    # Whoever is not on this machine is told the same, and no names.
    assert elsewhere.status_code == 503
    assert elsewhere.json() == answer.json() | {"reason": probes._STALLED}


@pytest.mark.parametrize("version", ["abc", ""])
def test_metrics_in_a_version_that_is_none_are_plain_text(node: Served, version: str) -> None:
    with node.client() as client:
        answer = client.get("/metrics", headers={"Accept": f"application/openmetrics-text;version={version}"})
    assert answer.status_code == 200
    assert "rowferry_" in answer.text


def test_however_often_strangers_ask_the_database_is_asked_now_and_then(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[None] = []

    def counted(*given: Any) -> Waits:
        reads.append(None)
        return read_waits(*given)

    monkeypatch.setattr("common.web.fresh.FRESH_SECONDS", 3_600.0)
    monkeypatch.setattr("common.web.probes.read_waits", counted)
    with node.client() as client, ThreadPoolExecutor(8) as strangers:
        asked = [strangers.submit(client.get, "/readyz") for _ in range(40)]
        assert {one.result().status_code for one in asked} == {200}
    assert len(reads) == 1


def test_strangers_who_wait_for_the_database_take_no_threads_of_others(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, reads = threading.Event(), threading.Semaphore(0)

    def slow(*given: Any) -> Waits:
        reads.release()
        assert goes_on.wait(60)
        return read_waits(*given)

    monkeypatch.setattr("common.web.probes.read_waits", slow)
    token = node.token("anna", Scope.OPS)
    with node.client() as strangers, ThreadPoolExecutor(20) as pool, node.client(token) as known:
        asked = [pool.submit(strangers.get, "/readyz", timeout=60) for _ in range(20)]
        try:
            assert reads.acquire(timeout=60)
            wait_for(lambda: known.get("/openapi.json").status_code == 200, 30, "the server's loop")
            assert known.get("/dead-letters").status_code == 200
        finally:
            goes_on.set()
        assert {one.result().status_code for one in asked} == {200}


def test_every_answer_has_a_request_id_and_security_headers(node: Served) -> None:
    with node.client() as client:
        for path in ("/healthz", "/nowhere"):
            answer = client.get(path, headers={"X-Request-Id": "mine-7"})
            assert answer.headers["x-request-id"] == "mine-7"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == "no-store"
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
            assert "server" not in answer.headers
        assert client.get("/healthz", headers={"X-Request-Id": "no good\tid"}).headers["x-request-id"] != "no good\tid"
        assert problem(client.get("/nowhere"), 404)
        assert problem(client.post("/healthz"), 405)


def test_a_method_that_is_none_is_answered_with_those_that_are(node: Served) -> None:
    with node.client() as client:
        for path, methods in (
            ("/sync/heartbeat", "GET, POST"),
            ("/dead-letters/x/replay", "POST"),
            ("/healthz", "GET, HEAD"),
            ("/sync/pull", "GET"),
        ):
            answer = client.request("DELETE", path)
            assert problem(answer, 405)
            assert answer.headers["allow"] == methods
        assert client.request("DELETE", "/page/login").status_code == 405


def test_a_body_that_is_too_large_is_refused_before_it_is_read(node: Served) -> None:
    with node.client(node.token()) as client:
        said = client.post("/sync/state", content=b"x" * (1024 * 1024 + 1))
        assert problem(said, 413)


def test_a_client_that_dawdles_over_its_header_is_hung_up_on(node: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PatientProtocol, "head_seconds", 0.3)
    parts = urlsplit(node.url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=20)) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        assert slow.recv(1000) == b""
    with node.client() as client:
        assert client.get("/healthz").status_code == 200
        time.sleep(0.5)
        assert client.get("/healthz").status_code == 200


def test_a_taken_port_and_an_open_network_without_tls_are_refused_with_the_remedy(node: Served) -> None:
    port = urlsplit(node.url).port or 0
    with pytest.raises(RowferryError, match=r"server\.port.*in use"), serving(None, ServerSection(port=port)):  # type: ignore[arg-type]
        pass
    with pytest.raises(ConfigError, match=r"server\.tls_cert_file"):
        check_exposure(ServerSection(host="0.0.0.0"))
    for allowed in ({"plain_http": True}, {"proxies": ("10.0.0.1",)}, {"host": "127.0.0.2"}):
        check_exposure(ServerSection.model_validate({"host": "0.0.0.0"} | allowed))


def test_tls_by_certificate_files(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert]
    subprocess.run([*made, *names], check=True, capture_output=True)
    server = ServerSection(port=0, tls_cert_file=cert, tls_key_file=key)
    with served_on_sqlite(tmp_path, server) as node:
        with httpx.Client(verify=ssl.create_default_context(cafile=str(cert)), trust_env=False) as client:
            answer = client.get(f"{node.url}/healthz")
            assert answer.status_code == 200
            assert "max-age" in answer.headers["strict-transport-security"]
        with httpx.Client(trust_env=False) as stranger, pytest.raises(httpx.ConnectError, match="certificate"):
            stranger.get(f"{node.url}/healthz")
