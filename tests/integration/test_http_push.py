"""`POST /sync/push` against a served node: what each tx came to, and what is refused whole."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from backports import zstd

from common.config.model import ServerSection
from common.http.callers import Caller
from common.http.scopes import Scope
from common.ports.source import Delivery
from common.versions import Version
from consumer.dedup import TxKey
from consumer.push_body import Body
from consumer.push_queue import Push, PushQueue, PushSource
from tests.support.applying import DATABASES, Origin, item, resealed, sqlite_url
from tests.support.waiting import wait_for
from tests.support.web import Served, served, served_on_sqlite


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("node")
    url = sqlite_url(folder) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    with served(url, ServerSection(port=0, max_body_bytes=1024 * 1024)) as one:
        yield one


def push(node: Served, token: str, body: bytes, **headers: str) -> httpx.Response:
    with node.client(token) as client:
        return client.post("/sync/push", content=body, headers=headers)


def outcomes(answer: httpx.Response) -> list[tuple[str, str | None]]:
    assert answer.status_code == 200, answer.text
    return [(one["outcome"], one["reason"]) for one in answer.json()["results"]]


def test_each_tx_is_told_what_it_came_to(node: Served) -> None:
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    a, token = Origin("a"), node.token("a", Scope.PUSH)
    good, clash = a.put(1, "one", 10), a.put(7, "theirs", 3 * 10**15)
    unknown = resealed(a.put(3, "x", 30).body, b'"item"', b'"nowhere"')
    answer = push(node, token, good.body + clash.body + unknown)
    assert outcomes(answer) == [("applied", None), ("conflict", None), ("dead-lettered", "unknown-table")]
    assert answer.json()["counts"] == {"applied": 1, "conflict": 1, "dead-lettered": 1}
    assert answer.json()["results"][2]["state"] == "dead"
    assert [row[1] for row in node.world.rows()] == ["one", "theirs"]
    assert node.world.watermark("a") == 3
    again = push(node, token, good.body + clash.body + unknown)
    assert outcomes(again) == [("duplicate", None), ("duplicate", None), ("dead-lettered", "unknown-table")]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_may_be_wrapped(node: Served, encoding: str) -> None:
    body = Origin("a").put(1, "one", 10).body
    packed = gzip.compress(body) if encoding == "gzip" else zstd.compress(body)
    answer = push(node, node.token("a"), packed, **{"Content-Encoding": encoding})
    assert outcomes(answer) == [("applied", None)]


def test_a_part_that_does_not_fit_is_told_of_as_set_aside(node: Served) -> None:
    large = Origin("a").tx(*(item(100 + number, "x" * 300, number + 1) for number in range(60)))
    first, second, *_ = large.parts(4096)
    token = node.token("a")
    push(node, token, first)
    begins = second.index(b'"tx_sha256":"') + 13
    other = resealed(second, second[begins : begins + 64], b"0" * 64)
    assert outcomes(push(node, token, other)) == [("dead-lettered", "content")]


def test_a_node_that_differs_from_another_in_case_alone_is_told_of_as_set_aside(node: Served) -> None:
    token = node.token("hub", Scope.PUSH, Scope.FORWARD)
    first, other = Origin("a").put(1, "one", 10).body, Origin("A").put(2, "two", 20).body
    assert outcomes(push(node, token, first + other)) == [("applied", None), ("dead-lettered", "source")]


def test_a_large_tx_is_applied_with_its_last_part(node: Served) -> None:
    large = Origin("a").tx(*(item(100 + number, "x" * 300, number + 1) for number in range(60)))
    *first, last = large.parts(4096)
    assert len(first) > 2
    token = node.token("a")
    assert outcomes(push(node, token, b"".join(first))) == [("incomplete", None)]
    assert node.world.rows() == []
    assert outcomes(push(node, token, last)) == [("applied", None)]
    assert len(node.world.rows()) == 60


def test_one_part_of_a_tx_that_is_all_here_is_a_duplicate(node: Served) -> None:
    first, *others = Origin("a").tx(*(item(100 + number, "x" * 300, number + 1) for number in range(60))).parts(4096)
    token = node.token("a")
    assert outcomes(push(node, token, b"".join([first, *others]))) == [("applied", None)]
    assert outcomes(push(node, token, first)) == [("duplicate", None)]


def test_a_torn_or_altered_body_is_refused_whole(node: Served) -> None:
    a, token = Origin("a"), node.token("a")
    one, two = a.put(1, "one", 10).body, a.put(2, "two", 20).body
    for bad in (one + two[:-30], one + two.replace(b"two", b"2wo"), one + b"nonsense\n", b"\xff\xfe" + one):
        answer = push(node, token, bad)
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["line"] >= 1
    packed = gzip.compress(one + two)
    assert push(node, token, packed[:-20], **{"Content-Encoding": "gzip"}).status_code == 422
    assert node.world.rows() == []
    assert node.world.letters() == []
    assert outcomes(push(node, token, one + two)) == [("applied", None)] * 2


def test_a_node_speaks_for_itself_alone_unless_it_forwards(node: Served) -> None:
    a, b = Origin("a").put(1, "one", 10), Origin("b").put(2, "two", 20)
    refused = push(node, node.token("a", Scope.PUSH), a.body + b.body)
    assert (refused.status_code, refused.json()["type"]) == (403, "urn:rowferry:source")
    assert node.world.rows() == []
    assert push(node, node.token("a", Scope.PULL), a.body).status_code == 403
    assert push(node, "", a.body).status_code == 401
    forwarder = node.token("hub", Scope.FORWARD)
    assert outcomes(push(node, forwarder, a.body + b.body)) == [("applied", None)] * 2


def test_a_tx_that_comes_too_early_waits_for_its_parent(node: Served) -> None:
    a, token = Origin("a"), node.token("a")
    parent, child = a.put(1, "one", 10), a.put(1, "later", 20, base=Version(0, 10, "a"), op="U")
    answer = push(node, token, child.body)
    assert answer.status_code == 200
    assert outcomes(push(node, token, parent.body))
    assert node.world.watermark("a") == 2


def test_limits_hold_while_the_body_streams(node: Served) -> None:
    token = node.token("a")
    bomb = gzip.compress(b"x" * (80 * 1024 * 1024))
    refused = push(node, token, bomb, **{"Content-Encoding": "gzip"})
    assert refused.status_code == 413, refused.text
    many = (b"x" * 65_536 for _ in range(40))
    with node.client(token) as client:
        # Without a length that says so: it is counted.
        refused = client.post("/sync/push", content=many)
    assert (refused.status_code, refused.headers["content-type"]) == (413, "application/problem+json")
    odd = push(node, token, b"", **{"Content-Encoding": "br"})
    assert odd.status_code == 415
    assert push(node, token, b"").json() == {"results": [], "counts": {}}


def test_another_main_node_is_refused_with_its_reason(tmp_path_factory: pytest.TempPathFactory) -> None:
    with served_on_sqlite(tmp_path_factory.mktemp("main")) as node:
        raised = resealed(Origin("a").put(1, "one", 10).body, b'"version":[0,10', b'"version":[1,10')
        first = push(node, node.token("a"), raised)
        other = resealed(Origin("b").put(2, "two", 10).body, b'"version":[0,10', b'"version":[1,10')
        second = push(node, node.token("b"), other)
    assert outcomes(first) == [("applied", None)]
    assert outcomes(second) == [("dead-lettered", "version")]


def test_more_txs_than_are_answered_at_once_are_refused_whole(node: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.push_body._MOST_TXS", 2)
    a = Origin("a")
    bodies = [a.put(number, "x", number).body for number in range(1, 4)]
    refused = push(node, node.token("a"), b"".join(bodies))
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:rowferry:limit")
    assert outcomes(push(node, node.token("a"), b"".join(bodies[:2]))) == [("applied", None)] * 2


def test_bodies_that_take_long_to_look_through_leave_threads_to_others(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, looked = threading.Event(), Body.txs

    def slow(body: Body, caller: Caller) -> list[TxKey]:
        go_on.wait(60)
        return looked(body, caller)

    monkeypatch.setattr(Body, "txs", slow)
    token, body = node.token("a"), Origin("a").put(1, "one", 10).body
    with ThreadPoolExecutor(14) as senders:
        pushes = [senders.submit(push, node, token, body) for _ in range(14)]
        try:
            with node.client(token) as client:
                assert all(client.get("/sync/state").status_code == 200 for _ in range(20))
        finally:
            go_on.set()
        assert {one.result().status_code for one in pushes} == {200}


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_body_of_very_many_pieces_that_hold_nothing_is_refused(node: Served, encoding: str) -> None:
    empty = gzip.compress(b"") if encoding == "gzip" else zstd.compress(b"")
    refused = push(node, node.token("a"), empty * (900_000 // len(empty)), **{"Content-Encoding": encoding})
    assert (refused.status_code, refused.json()["type"]) == (413, "urn:rowferry:limit")


def test_one_node_has_so_many_pushes_at_once_and_others_theirs(node: Served) -> None:
    hungry, other, body = node.token("a", Scope.PUSH), node.token("b", Scope.PUSH), Origin("b").put(1, "one", 10).body
    asked = (
        f"POST /sync/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {hungry}\r\nContent-Length: 900000\r\n"
        "Expect: 100-continue\r\n\r\n"
    ).encode()
    with ExitStack() as held:
        for _ in range(16):
            one = held.enter_context(closing(connected(node)))
            one.sendall(asked)
            assert one.recv(65_536).startswith(b"HTTP/1.1 100")
        with node.client(hungry) as client:
            refused = client.post("/sync/push", content=b"")
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:rowferry:busy")
        assert outcomes(push(node, other, body)) == [("applied", None)]
    wait_for(lambda: push(node, hungry, b"").status_code == 200, 10, "those that were given up to be over")


class Waiting:
    """Pushes wait in the queue until the test lets the intake go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on, self._queued = threading.Event(), threading.Semaphore(0)
        put, receive = PushQueue.put, PushSource.receive

        def noted(pushes: PushQueue, push: Push) -> bool:
            is_in = put(pushes, push)
            self._queued.release()
            return is_in

        def held(source: PushSource, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
            return receive(source, max_deliveries, 0) if self.go_on.wait(timeout_seconds) else []

        monkeypatch.setattr(PushQueue, "put", noted)
        monkeypatch.setattr(PushSource, "receive", held)

    def one_more(self) -> None:
        """Wait until one more is in the queue."""
        assert self._queued.acquire(timeout=20)


def test_what_is_said_to_be_of_the_nodes_own_log_is_no_duplicate_where_that_has_it_not(
    node: Served, caplog: pytest.LogCaptureFixture
) -> None:
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    node.world.node.database.sealer(node.world.node.facts).seal()
    made_up = Origin("here", made=5).put(1, "one", 10)
    real = made_up.body.replace(made_up.tx_id.encode(), str(node.world.one("SELECT tx_id FROM rf_tx")).encode())
    answer = push(node, node.token("hub", Scope.FORWARD), made_up.body + resealed(real, b"", b""))
    assert outcomes(answer) == [("ignored", None), ("duplicate", None)]
    assert [row[1] for row in node.world.rows()] == ["mine"]
    told = [one.message for one in caplog.records if one.levelno >= logging.WARNING]
    assert told == ["node_is_rewound", "push.own_unknown"]


@pytest.fixture
def waiting(node: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    held = Waiting(monkeypatch)
    yield held
    held.go_on.set()


def test_each_push_is_told_of_what_it_brought_itself(node: Served, waiting: Waiting) -> None:
    """All three name one tx, and are worked off in one round."""
    one = Origin("a").put(1, "one", 10)
    other = resealed(one.body, b'"one"', b'"two"')
    own, hub = node.token("a", Scope.PUSH), node.token("hub", Scope.FORWARD)
    with ThreadPoolExecutor(3) as senders:
        answers = []
        for token, body in ((own, one.body + one.body), (hub, other), (own, one.body)):
            answers.append(senders.submit(push, node, token, body))
            waiting.one_more()
        waiting.go_on.set()
        found = [outcomes(answer.result()) for answer in answers]
    assert found == [[("applied", None)], [("dead-lettered", "content")], [("duplicate", None)]]


def test_what_waits_in_the_queue_is_not_applied_once_its_token_is_revoked(node: Served, waiting: Waiting) -> None:
    revoked, other = node.token("a", Scope.PUSH), node.token("b", Scope.PUSH)
    with ThreadPoolExecutor(2) as senders:
        answers = []
        for token, body in (
            (revoked, Origin("a").put(1, "late", 10).body),
            (other, Origin("b").put(2, "two", 10).body),
        ):
            answers.append(senders.submit(push, node, token, body))
            waiting.one_more()
        node.tokens.revoke(revoked.split("_")[1], "test")
        waiting.go_on.set()
        refused, taken = (answer.result() for answer in answers)
    assert (refused.status_code, refused.json()["type"]) == (401, "urn:rowferry:revoked")
    assert outcomes(taken) == [("applied", None)]
    assert [row[1] for row in node.world.rows()] == ["two"]


def test_who_hangs_up_has_no_room_for_more_in_the_queue(
    node: Served, waiting: Waiting, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "common.web.guard")
    token, body = node.token("a", Scope.PUSH), Origin("a").put(1, "one", 10).body
    head = (
        f"POST /sync/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with ExitStack() as held:
        for _ in range(16):
            one = held.enter_context(closing(connected(node)))
            one.sendall(head.encode() + body)
            waiting.one_more()
    wait_for(lambda: hung_up(caplog) == 16, 10, "the server to see that they hung up")
    refused = push(node, token, b"")
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:rowferry:busy")
    waiting.go_on.set()
    wait_for(lambda: push(node, token, b"").status_code == 200, 10, "those of the queue to be worked off")
    assert [row[1] for row in node.world.rows()] == ["one"]


def test_who_hangs_up_while_its_body_is_looked_through_has_no_room_for_more(
    node: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "common.web.guard")
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def slow(_body: Body, _caller: Caller) -> list[TxKey]:
        begun.release()
        go_on.wait(20)
        return []

    monkeypatch.setattr(Body, "txs", slow)
    token = node.token("a", Scope.PUSH)
    head = f"POST /sync/push HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 2\r\n"
    try:
        with ExitStack() as held:
            for _ in range(16):
                one = held.enter_context(closing(connected(node)))
                one.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
                # Let in, and counted: a push that is asked for too soon would wait with them.
                assert one.recv(65_536).startswith(b"HTTP/1.1 100")
                one.sendall(b"{}")
            assert begun.acquire(timeout=10)
            assert begun.acquire(timeout=10)
            assert push(node, token, b"").status_code == 429
        wait_for(lambda: hung_up(caplog) == 16, 10, "the server to see that they hung up")
        assert push(node, token, b"").status_code == 429
        # Nor do more bodies than these two have a thread.
        assert not begun.acquire(blocking=False)
    finally:
        go_on.set()
    wait_for(lambda: push(node, token, b"").status_code == 200, 10, "those that hung up to be over")


@pytest.mark.parametrize("asked", ["push", "heartbeat", "resolve"])
def test_a_token_revoked_while_its_body_is_on_the_way_writes_nothing(node: Served, asked: str) -> None:
    """Who holds a stolen token may hold requests open with it, too."""
    node.world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    push(node, node.token("b", Scope.PUSH), Origin("b").put(7, "theirs", 3 * 10**15).body)
    node.world.execute("UPDATE rf_conflict SET state = 'waiting'")
    path, body = {
        "push": ("/sync/push", Origin("a").put(1, "late", 10).body),
        "heartbeat": ("/sync/heartbeat", b'{"kind":"none"}\n'),
        "resolve": ("/conflicts/1/resolve", b'{"take":"ours"}'),
    }[asked]
    token = node.token("a", Scope.PUSH, Scope.OPS)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/json\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    ).encode()
    with closing(connected(node)) as one:
        one.sendall(head)
        # It was let in, and its body is waited for.
        assert one.recv(65_536).startswith(b"HTTP/1.1 100")
        node.tokens.revoke(token.split("_")[1], "test")
        one.sendall(body)
        answer = b"".join(iter(lambda: one.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 401"), answer
    assert b"urn:rowferry:revoked" in answer
    assert [row[1] for row in node.world.rows()] == ["theirs"]
    assert node.world.one("SELECT state FROM rf_conflict") == "waiting"


def hung_up(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.message == "http.client_left" for record in caplog.records)


def connected(node: Served) -> socket.socket:
    where = urlsplit(node.url)
    return socket.create_connection((where.hostname, where.port), 10)


def test_a_body_for_which_the_disk_has_no_room_is_to_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    a = Origin("a")
    large = b"".join(a.put(number, os.urandom(2048).hex(), number).body for number in range(1, 1500))
    with served_on_sqlite(tmp_path) as node:
        token = node.token("a")
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(tmp_path / "no-such-folder"))
            refused = push(node, token, large)
            assert outcomes(push(node, token, a.put(5000, "small", 5000).body)) == [("applied", None)]
        assert refused.status_code == 503, refused.text
        assert refused.headers["Retry-After"] == "30"
        assert "no room" in refused.json()["detail"]
        told = [record for record in caplog.records if record.getMessage() == "push.no_room"]
        assert len(told) == 1
        assert "no-such-folder" in vars(told[0])["error"]
        assert [row[0] for row in node.world.rows()] == [5000]
        assert {outcome for outcome, _ in outcomes(push(node, token, large))} == {"applied"}
