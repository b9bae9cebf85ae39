"""`GET /sync/pull` from a served node: its own batches and those it hands on, marks, waiting, limits."""

from __future__ import annotations

import collections
import gzip
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from itertools import islice
from typing import Any

import httpx
import pytest
from backports import zstd

from common.errors import OutageError
from common.http import streams
from common.http.problems import BrokenOffError, ProblemError
from common.http.scopes import Scope
from common.http.wire import AGAIN_PATH, PULL_PATH
from common.wire.decode import Broken, read_body
from common.wire.records import Part
from producer.pull_cursor import PullCursor
from producer.pull_plan import Answer, Planner
from tests.support.applying import DATABASES, Origin, item, sqlite_url
from tests.support.waiting import wait_for
from tests.support.web import Served, served


@pytest.fixture(params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("node")
    url = sqlite_url(folder) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    with served(url, node={"id": "here", "database": url, "role": "main"}) as one:
        yield one


def parts(body: bytes) -> list[Part]:
    found = []
    for part in read_body(body):
        assert not isinstance(part, Broken), part
        found.append(part)
    return found


def insert(node: Served, *numbers: int) -> None:
    """Write rows as the application, each in a transaction of its own."""
    for number in numbers:
        node.world.execute(f"INSERT INTO item VALUES ({number}, 'mine', 1)")


def pull(client: httpx.Client, **asked: object) -> tuple[list[Part], str]:
    answer = client.get("/sync/pull", params=asked)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    found = parts(answer.content)
    assert int(answer.headers["rowferry-txs"]) == len({part.header.tx_id for part in found})
    return found, answer.headers["rowferry-cursor"]


def push(client: httpx.Client, body: bytes) -> None:
    answer = client.post("/sync/push", content=body)
    assert answer.status_code == 200, answer.text


def raws(found: list[Part]) -> list[bytes]:
    return [part.raw for part in found]


def sources(found: list[Part]) -> list[str]:
    return [part.header.source_node for part in found]


def test_what_is_written_while_it_is_asked_for_keeps_nobody_from_what_others_sent(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub that writes all the time has sealed something new at each look."""
    original = Planner._stretch
    numbers = iter(range(100, 200))

    def meanwhile(planner: Planner, *asked: Any) -> Any:
        found = original(planner, *asked)
        insert(node, next(numbers))
        node.world.node.database.sealer(node.world.node.facts).seal()
        return found

    other = Origin("other")
    with node.client(node.token("other", Scope.PUSH, Scope.PULL, Scope.FORWARD)) as pusher:
        push(pusher, other.put(1, "x", 10).body)
    monkeypatch.setattr(Planner, "_stretch", meanwhile)
    with node.client(node.token("b")) as client:
        found, _ = pull(client)
    assert "other" in sources(found)


def test_an_answer_tells_whether_there_is_more(node: Served) -> None:
    insert(node, 1, 2)
    said: list[str] = []
    mark = "0"
    with node.client(node.token("b")) as client:
        for _ in range(3):
            answer = client.get("/sync/pull", params={"after": mark, "limit": 1})
            mark = answer.headers["rowferry-cursor"]
            said.append(answer.headers["rowferry-more"])
    assert (said[0], said[-1]) == ("true", "false")


def test_a_mark_leads_through_everything_once(node: Served) -> None:
    with node.client(node.token("b")) as client:
        assert pull(client)[0] == []
        insert(node, 1)
        first, mark = pull(client)
        assert sources(first) == ["here"]
        insert(node, 2)
        second, after = pull(client, after=mark)
        assert [part.header.from_lsn for part in second] == [2]
        assert pull(client, after=after)[0] == []
        assert raws(pull(client, after=mark)[0]) == raws(second)
        everything, _ = pull(client, after=0)
        assert raws(everything) == raws(first + second)


def test_others_batches_are_handed_on_as_they_came_but_not_to_their_own_node(node: Served) -> None:
    a, b, hub = Origin("a"), Origin("b"), node.token("hub")
    one, two = a.put(1, "one", 10), b.put(2, "two", 20)
    dead = a.put(1, "x" * 5, 10, op="D")
    large = a.tx(*(item(100 + number, "x" * 300, number + 1) for number in range(40)))
    with node.client(hub) as client:
        push(client, one.body + two.body + dead.body)
        push(client, b"".join(large.parts(4096)))
        push(client, one.body)
    with node.client(node.token("c", Scope.PULL)) as client:
        found, mark = pull(client)
        assert b"".join(part.raw for part in found) == one.body + two.body + dead.body + b"".join(large.parts(4096))
        assert pull(client, after=mark)[0] == []
        assert pull(client, after=0, forwarded="false")[0] == []
    with node.client(node.token("b", Scope.PULL)) as client:
        found, mark = pull(client)
        assert set(sources(found)) == {"a"}
        later = b.put(3, "three", 30)
        with node.client(hub) as pusher:
            push(pusher, later.body)
        assert pull(client, after=mark)[0] == []


def test_a_limit_cuts_between_txs_and_nothing_is_left_out(node: Served) -> None:
    insert(node, 1)
    with node.client(node.token("c")) as client:
        pull(client, after=0)
        insert(node, 2)
        a = Origin("a")
        push_bodies = [a.put(10 + number, "one", 10).body for number in range(3)]
        with node.client(node.token("a")) as pusher:
            push(pusher, b"".join(push_bodies))
        seen: list[bytes] = []
        mark: str | int = 0
        for _ in range(10):
            found, mark = pull(client, after=mark, limit=2)
            assert len(found) <= 2
            seen += [part.raw for part in found]
            if not found:
                break
        assert seen[-3:] == push_bodies
        assert len(seen) == len(set(seen))


def test_where_a_node_is_survives_a_new_token(node: Served) -> None:
    insert(node, 1)
    with node.client(node.token("b")) as client:
        _, mark = pull(client)
        insert(node, 2)
        second, later = pull(client, after=mark)
    with node.client(node.token("b")) as client:
        assert pull(client)[0] == second
        pull(client, after=later)
        assert pull(client)[0] == []
        (row,) = client.get("/sync/state").json()["peers"][:1]
    assert (row["peer"], row["direction"]) == ("b", "out")
    assert row["last_lsn"] == second[0].header.to_lsn
    assert row["last_tx_id"] == second[0].header.tx_id


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_an_answer_may_be_wrapped(node: Served, encoding: str) -> None:
    insert(node, 1)
    with (
        node.client(node.token("b")) as client,
        client.stream("GET", "/sync/pull", headers={"Accept-Encoding": encoding}) as answer,
    ):
        assert answer.headers["content-encoding"] == encoding
        raw = b"".join(answer.iter_raw())
    assert len(parts(gzip.decompress(raw) if encoding == "gzip" else zstd.decompress(raw))) == 1


def test_a_pull_waits_for_news_of_either_kind(node: Served) -> None:
    with node.client(node.token("b")) as client:
        mark = pull(client)[1]
        for bring in (lambda: insert(node, 1), lambda: bring_others(node)):
            later = threading.Timer(0.4, bring)
            later.start()
            began = time.monotonic()
            found, mark = pull(client, after=mark, wait=50)
            assert len(found) == 1
            assert time.monotonic() - began < 45
            later.join()


def bring_others(node: Served) -> None:
    with node.client(node.token("a")) as pusher:
        push(pusher, Origin("a").put(9, "nine", 10).body)


def test_a_token_that_is_revoked_while_a_pull_waits_gets_nothing(node: Served) -> None:
    token = node.token("b")

    def revoke_and_insert() -> None:
        node.tokens.revoke(token.split("_")[1], "test")
        insert(node, 1)

    with node.client(token) as client:
        later = threading.Timer(0.5, revoke_and_insert)
        later.start()
        assert client.get("/sync/pull", params={"wait": 50}).status_code == 401
        later.join()


def test_a_pull_that_waits_ends_when_its_token_expires(node: Served) -> None:
    token = node.token("b", lives_us=60_000_000)
    with node.client(token) as client:
        later = threading.Timer(0.5, lambda: node.world.clock.pass_seconds(61))
        later.start()
        began = time.monotonic()
        assert client.get("/sync/pull", params={"wait": 25}).status_code == 401
        assert time.monotonic() - began < 15
        later.join()


ONCE_MORE = f"{AGAIN_PATH}?source=here&incarnation={{incarnation}}&after_lsn=0&until_lsn=100"


@pytest.mark.parametrize("path", [PULL_PATH, ONCE_MORE])
def test_an_answer_breaks_off_when_its_token_is_revoked(
    node: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    monkeypatch.setattr(streams, "_LOOK_SECONDS", 0.0)
    for number in range(8):
        node.world.execute(f"INSERT INTO item VALUES ({number}, '{'x' * 1_000_000}', 1)")
    token = node.token("b")
    with node.client(node.token("c")) as other:
        # Sealed before, so that both ways have something to give.
        pull(other)
    path = path.format(incarnation=node.world.node.facts.incarnation)
    with node.client(token) as client, client.stream("GET", path, headers={"Accept-Encoding": ""}) as answer:
        assert answer.status_code == 200
        rest = answer.iter_bytes()
        next(rest)
        node.tokens.revoke(token.split("_")[1], "test")
        # Dropped, not ended: what was still to be sent is not.
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            collections.deque(rest, 0)
    assert "http.failed" not in [record.message for record in caplog.records]


def test_a_large_part_is_given_in_pieces_with_a_look_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_LOOK_SECONDS", 0.0)
    looks = 0

    def check() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise ProblemError(401, "revoked")

    given: list[bytes] = []
    with pytest.raises(BrokenOffError):
        given.extend(streams.while_admitted(iter([bytes(4_000_000)]), check))
    looks = -1_000
    assert b"".join(streams.while_admitted(iter([b"a" * 300_000, b"", b"b"]), check)) == b"a" * 300_000 + b"b"


@pytest.mark.parametrize("path", [PULL_PATH, ONCE_MORE])
def test_answers_that_are_not_taken_count_until_their_end(node: Served, path: str) -> None:
    """Each holds a read of the log: forty of one token had 691 MB."""
    for number in range(12):
        node.world.execute(f"INSERT INTO item VALUES ({number}, '{'x' * 1_000_000}', 1)")
    path = path.format(incarnation=node.world.node.facts.incarnation)
    with node.client(node.token("c")) as other, node.client(node.token("b")) as client, ExitStack() as held:
        pull(other, limit=1)
        for _ in range(4):
            assert held.enter_context(client.stream("GET", path, headers={"Accept-Encoding": ""})).status_code == 200
        refused = client.get(path)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:rowferry:busy")
        assert int(refused.headers["retry-after"]) > 0
        assert pull(other, limit=1)[0] != []
        held.close()
        wait_for(lambda: client.get(path).status_code == 200, 20, "the places of who left to be free")


def test_one_node_holds_a_bounded_number_of_pulls(node: Served) -> None:
    """Each holds a connection that is never cut off: two addresses of one token had all of them."""
    token = node.token("b")
    with ThreadPoolExecutor(20) as threads, node.client(token) as client, node.client(node.token("c")) as other:

        def held() -> int:
            return client.get("/sync/pull", params={"wait": 50}).status_code

        waiting = [threads.submit(held) for _ in range(20)]
        refused = list(islice(as_completed(waiting, 40), 4))
        assert [one.result() for one in refused] == [429] * 4
        assert pull(client)[0] == pull(other, wait=0.1)[0] == []
        insert(node, 1)
        assert sorted(one.result(40) for one in waiting) == [200] * 16 + [429] * 4
        assert client.get("/sync/pull", params={"after": "0", "wait": 50}).status_code == 200


def test_a_mark_that_is_none_or_that_is_ahead_is_refused(node: Served) -> None:
    insert(node, 1)
    with node.client(node.token("b")) as client:
        mark = pull(client)[1]
        for odd in ("r1.zzz", mark[:-2], "r2." + mark[3:], "ä", "-1", "7", "nonsense", "x" * 1_001, "\0"):
            refused = client.get("/sync/pull", params={"after": odd})
            assert (refused.status_code, refused.json()["type"]) == (409, "urn:rowferry:cursor"), odd
            assert "leave it out" in refused.json()["detail"], odd
        assert client.get("/sync/pull?limit=1&limit=2").status_code == 422
        there = PullCursor.parse(mark)
        for foreign in (PullCursor("\0", 1, "\0", 1), PullCursor("x" * 300, 2**63 - 1, "y" * 300, 2**63 - 1)):
            assert client.get("/sync/pull", params={"after": str(foreign)}).status_code in (200, 409), foreign
        beyond = PullCursor(there.incarnation, there.lsn + 5, there.era, there.seq)
        refused = client.get("/sync/pull", params={"after": str(beyond)})
        assert (refused.status_code, refused.json()["type"]) == (409, "urn:rowferry:rewound")


def test_a_new_incarnation_gives_everything_that_is_there(node: Served) -> None:
    insert(node, 1)
    with node.client(node.token("b")) as client:
        everything, _ = pull(client)
        unknown = PullCursor("an-incarnation-of-before", 99, "an-incarnation-of-before", 99)
        assert pull(client, after=unknown)[0] == everything


def test_a_pull_needs_its_scope(node: Served) -> None:
    with node.client(node.token("b", Scope.PUSH)) as client:
        assert client.get("/sync/pull").status_code == 403
    with node.client() as client:
        assert client.get("/sync/pull").status_code == 401


def test_an_answer_that_nobody_takes_counts_until_no_thread_makes_more_of_it(
    node: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hanging up and asking again one token had as many reads of the log as there are threads."""
    may_go_on, begun = threading.Event(), threading.Semaphore(0)
    real = Planner.stream

    def slow(planner: Planner, answer: Answer) -> Iterator[bytes]:
        pieces = real(planner, answer)
        yield next(pieces)
        begun.release()
        may_go_on.wait(60)
        yield from pieces

    monkeypatch.setattr(Planner, "stream", slow)
    for number in range(12):
        node.world.execute(f"INSERT INTO item VALUES ({number}, '{'x' * 1_000_000}', 1)")
    with node.client(node.token("b")) as client:
        try:
            for _ in range(4):
                with client.stream("GET", PULL_PATH, headers={"Accept-Encoding": ""}) as answer:
                    assert answer.status_code == 200
                    assert begun.acquire(timeout=20)
            # All four have hung up; their threads are still at it.
            assert client.get(PULL_PATH).status_code == 429
        finally:
            may_go_on.set()
        wait_for(lambda: client.get(PULL_PATH).status_code == 200, 20, "the threads to come to their end")


def test_a_database_that_goes_away_amid_an_answer_breaks_it_off(
    node: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def cut(planner: Planner, answer: Answer) -> Iterator[bytes]:
        yield bytes(200_000)
        raise OutageError("the database is gone")

    monkeypatch.setattr(Planner, "stream", cut)
    insert(node, 1)
    with node.client(node.token("b")) as client, pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        client.get(PULL_PATH, headers={"Accept-Encoding": ""})
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []
