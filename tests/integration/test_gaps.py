"""Which stretches of a source's log are missing, who is asked for them and how often, and what is noted of requests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from common.clock import to_iso
from common.errors import OutageError
from common.runtime.supervisor import Supervisor
from common.wire.control import Gone, Request, Unknown, control_lines, encode_control
from consumer.asking import GapAsking
from consumer.gaps import find_gaps
from consumer.statements import reading
from consumer.verify import IDENTITY_ERROR
from tests.support.applying import DATABASES, Origin, World, close_world, open_world, resealed, sqlite_url, world_on
from tests.support.producing import HandSink
from tests.support.waiting import wait_for

PATIENCE = {"gap_seconds": 0.05}


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path, limits=PATIENCE) as made:
        yield made


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path), limits=PATIENCE)
    yield made
    close_world(made)


def gaps(world: World) -> list[tuple[str, str, int, int]]:
    with reading(world.node.database) as connection:
        found = find_gaps(connection)
    return [(gap.peer, gap.incarnation, gap.after_lsn, gap.until_lsn) for gap in found]


def requests(world: World) -> list[tuple[object, ...]]:
    return world.query(
        "SELECT peer, direction, incarnation, after_lsn, until_lsn, asked, gone_until_lsn FROM rf_request"
    )


def request(after_lsn: int, until_lsn: int, **changes: str) -> Request:
    fields = {"from_node": "b", "to_node": "here", "incarnation": "i1", "asked_at": to_iso(1)} | changes
    return Request(after_lsn=after_lsn, until_lsn=until_lsn, **fields)


def said(world: World, *controls: Request | Gone, **fields: object) -> None:
    world.receive(b"".join(map(encode_control, controls)), source_node=controls[0].sender, **fields)


def test_the_first_stretch_that_is_missing(world: World) -> None:
    a = Origin("a")
    one, two, three, four, five, six = (a.put(number, "x", number) for number in range(1, 7))
    world.receive(one.body)
    assert gaps(world) == []
    world.receive(six.body)
    assert gaps(world) == [("a", "inc1", 1, 5)]
    world.receive(four.body)
    assert gaps(world) == [("a", "inc1", 1, 3)]
    world.receive(two.body, three.body)
    assert gaps(world) == [("a", "inc1", 4, 5)]
    world.receive(five.body)
    assert gaps(world) == []


def test_each_incarnation_has_its_own(world: World) -> None:
    old, new = Origin("a", "old"), Origin("a", "new")
    old.put(1, "never came", 10)
    new.made = 10
    new.put(2, "never came", 11)
    world.receive(old.put(3, "x", 12).body, new.put(4, "x", 13).body)
    assert sorted(gaps(world)) == [("a", "new", 0, 1), ("a", "old", 0, 1)]


def test_what_was_set_aside_is_not_missing(world: World) -> None:
    a = Origin("a")
    one, damaged, never, last = (a.put(number, "x", number) for number in range(1, 5))
    world.receive(one.body, damaged.body.replace(b'"x"', b'"y"'))
    assert [row[1:] for row in world.letters()] == [("checksum", "dead")]
    assert gaps(world) == []
    world.receive(last.body)
    # The watermark waits at 1 for what tells that the damaged one was the next; only what comes after it is missing.
    assert gaps(world) == [("a", "inc1", 2, 3)]
    world.receive(never.body)
    assert gaps(world) == []


def test_a_damaged_batch_that_lies_hides_nothing(world: World) -> None:
    a = Origin("a")
    one, lies, last = (a.put(number, "x", number) for number in range(1, 4))
    world.receive(one.body, lies.body.replace(b'"to_lsn":2', b'"to_lsn":9000'))
    world.receive(last.body)
    assert gaps(world) == [("a", "inc1", 1, 2)]


def test_a_poison_that_can_be_read_is_passed(world: World) -> None:
    a = Origin("a")
    one, poison, last = (a.put(number, "x", number) for number in range(1, 4))
    world.receive(one.body, resealed(poison.body, b'"item"', b'"nowhere"'), last.body)
    assert (world.watermark("a"), gaps(world)) == (3, [])


def test_what_others_ask_for_is_kept_as_one_stretch(world: World) -> None:
    said(world, request(10, 20))
    assert requests(world) == [("b", "in", "i1", 10, 20, 1, None)]
    said(world, request(15, 30), request(12, 16))
    assert requests(world) == [("b", "in", "i1", 10, 30, 3, None)]
    said(world, request(2, 5))
    assert requests(world) == [("b", "in", "i1", 2, 30, 4, None)]
    said(world, request(0, 1, incarnation="i0"), request(4, 5, from_node="b"))
    said(world, request(7, 9, from_node="c"))
    assert sorted(row[:5] for row in requests(world)) == [
        ("b", "in", "i0", 0, 1),
        ("b", "in", "i1", 2, 30),
        ("c", "in", "i1", 7, 9),
    ]
    assert (world.letters(), len(world.source.acked)) == ([], 5)


@pytest.mark.parametrize(
    ("one", "fields"),
    [
        (request(1, 2), {"source_node": "c"}),
        (request(1, 2), {"source_node": "b", "headers": {IDENTITY_ERROR: "its user_id is 'c'"}}),
        (request(1, 2, to_node="other"), {"source_node": "b"}),
        (request(1, 2, from_node="Here"), {"source_node": "Here"}),
    ],
)
def test_who_can_not_be_believed_is_told_of(
    lite: World, one: Request, fields: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    lite.receive(encode_control(one), **fields)
    assert ([record.message for record in caplog.records], requests(lite)) == (["control_refused"], [])
    assert (lite.letters(), len(lite.source.acked)) == ([], 1)


def test_those_who_make_up_names_fill_nothing(lite: World, caplog: pytest.LogCaptureFixture) -> None:
    lite.receive(b"".join(encode_control(request(0, 1, from_node=f"n{number}")) for number in range(1_100)))
    assert len(requests(lite)) == 1_000
    # Told loudly, and once: a line a message would fill the log.
    (line,) = (record for record in caplog.records if record.message == "request_refused")
    assert (line.levelno, "verify_user" in vars(line)["remedy"]) == (logging.ERROR, True)


@pytest.mark.parametrize("how", ["heard of", "named"])
def test_who_is_known_takes_the_place_of_a_made_up_name(tmp_path: Path, how: str) -> None:
    world = open_world(
        sqlite_url(tmp_path), **({"peers": {"b": {"url": "http://127.0.0.1:9"}}} if how == "named" else {})
    )
    try:
        if how == "heard of":
            world.receive(Origin("b").put(1, "one", 10).body)
        world.receive(b"".join(encode_control(request(0, 1, from_node=f"n{number}")) for number in range(1_000)))
        world.receive(encode_control(request(0, 1, from_node="b")), encode_control(request(0, 1, from_node="n1001")))
        asked = {row[0] for row in world.query("SELECT peer FROM rf_request WHERE direction = 'in'")}
        assert (len(asked), "b" in asked, "n0" in asked, "n1001" in asked) == (1_000, True, False, False)
    finally:
        close_world(world)


def test_what_is_refused_fills_no_log(lite: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        for number in range(300):
            lite.receive(encode_control(request(1, 2)), source_node="c")
            lite.receive(encode_control(request(1, 2, from_node=f"n{number}")), source_node=f"x{number}")
            lite.receive(f'{{"type":"greeting-{number}","format":"rowferry/1.4"}}\n'.encode())
    told = [record.message for record in caplog.records]
    assert told.count("control_refused") + told.count("control_unknown") <= 102


def test_a_line_of_a_later_release_stops_nothing(lite: World, caplog: pytest.LogCaptureFixture) -> None:
    a = Origin("a")
    later = b'{"type":"greeting","format":"rowferry/1.4","from_node":"a"}\n'
    assert control_lines(later) == [Unknown("greeting", "rowferry/1.4")]
    with caplog.at_level(logging.INFO):
        lite.receive(later + a.put(1, "one", 10).body + later + a.put(2, "two", 11).body + later, later)
    assert [row[1] for row in lite.rows()] == ["one", "two"]
    assert lite.letters() == []
    assert [record.message for record in caplog.records] == ["control_unknown"]
    lite.receive(b'{"type":"greeting"}\n', encode_control(request(1, 2)).replace(b"rowferry/1", b"rowfarry/1"))
    assert {row[1] for row in lite.letters()} == {"format"}


class Asking:
    """A node that asks, and the ways it opened."""

    def __init__(self, world: World, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.sinks: list[tuple[str, HandSink]] = []
        self.away = False
        self.service = GapAsking(world.node, self._open, threading.Event(), monotonic)

    def _open(self, to_node: str) -> HandSink:
        if self.away:
            raise OutageError("nobody would get it")
        sink = HandSink()
        sink.confirms_at_once = True
        self.sinks.append((to_node, sink))
        return sink

    def until(self, count: int) -> list[tuple[str, int, int]]:
        """Step until `count` requests were sent; return to whom, and for what."""

        def sent() -> bool:
            self.service.step(0.01)
            return len(self.sinks) >= count

        wait_for(sent, 30, f"{count} requests")
        assert all(sink.closed for _, sink in self.sinks)
        found = []
        for to_node, sink in self.sinks:
            (envelope,) = sink.sent
            (asked,) = control_lines(envelope.body) or ()
            assert isinstance(asked, Request)
            assert (asked.from_node, asked.to_node, envelope.source_node) == ("here", to_node, "here")
            found.append((to_node, asked.after_lsn, asked.until_lsn))
        return found


def test_a_source_is_asked_until_it_comes(world: World) -> None:
    asking = Asking(world)
    a = Origin("a")
    one, two, three, four = (a.put(number, "x", number) for number in range(1, 5))
    world.receive(one.body, four.body)
    assert asking.until(2) == [("a", 1, 3)] * 2
    assert requests(world) == [("a", "out", "inc1", 1, 3, 2, None)]
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'gap-asked'") == 1
    world.receive(two.body)
    assert asking.until(3)[2:] == [("a", 2, 3)]
    assert requests(world) == [("a", "out", "inc1", 2, 3, 1, None)]
    world.receive(three.body)
    wait_for(lambda: asking.service.step(0.01) or not requests(world), 30, "the end of asking")
    assert len(asking.sinks) == 3


def test_each_further_time_after_a_longer_pause(lite: World) -> None:
    now = 0.0
    asking = Asking(lite, lambda: now)
    a = Origin("a")
    one, _, three, four = (a.put(number, "x", number) for number in range(1, 5))
    lite.receive(one.body, four.body)
    asked_at: list[float] = []
    while now < 10:
        asking.service.step(0)
        asked_at += [now] * (len(asking.sinks) - len(asked_at))
        now += 0.01
    pauses = [round((later - earlier) / 0.05) for earlier, later in pairwise(asked_at)]
    # What is seen at one look is old enough after the patience; and a look is taken each half of it.
    assert pauses == [2, 4, 8, 16, 32, 64]
    # Part of it comes: what is still missing is asked for after the first patience again.
    lite.receive(three.body)
    asked = len(asking.sinks)
    while len(asking.sinks) == asked and now < 12:
        asking.service.step(0)
        now += 0.01
    assert now < 12


@pytest.fixture(params=DATABASES)
def patient(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path) as made:
        yield made


def test_who_runs_once_in_a_while_asks_too(patient: World) -> None:
    """Its processes end before a gap is old enough to be asked for."""
    world, a = patient, Origin("a")
    one, _, _, four, five = (a.put(number, "x", number) for number in range(1, 6))
    world.receive(one.body, four.body)

    def once() -> Asking:
        asking = Asking(world)
        assert Supervisor([asking.service], threading.Event()).run_once().drained
        return asking

    assert once().until(1) == [("a", 1, 3)]
    world.execute("UPDATE rf_request SET asked = 3")
    assert once().sinks == [], "not as often as it is run"
    world.execute("UPDATE rf_request SET last_asked_us = 0")
    assert once().until(1) == [("a", 1, 3)]
    assert requests(world) == [("a", "out", "inc1", 1, 3, 4, None)]
    world.receive(five.body)


def test_a_source_that_is_away_costs_nobody_anything(lite: World, caplog: pytest.LogCaptureFixture) -> None:
    asking = Asking(lite)
    a = Origin("a")
    a.put(1, "never came", 10)
    lite.receive(a.put(2, "x", 11).body)
    asking.away = True
    wait_for(lambda: asking.service.step(0.01), 30, "a try")
    assert [record.message for record in caplog.records] == ["gap_not_asked"]
    # It counts, so that somebody is told when it goes on like this.
    assert requests(lite) == [("a", "out", "inc1", 0, 1, 1, None)]
    asking.away = False
    assert asking.until(1) == [("a", 0, 1)]
    assert requests(lite) == [("a", "out", "inc1", 0, 1, 2, None)]


def test_what_the_log_has_no_more_is_told_once(lite: World, caplog: pytest.LogCaptureFixture) -> None:
    asking = Asking(lite)
    a = Origin("a")
    a.put(1, "purged", 10)
    lite.receive(a.put(2, "x", 11).body)
    gone = Gone(from_node="a", to_node="here", incarnation="inc1", after_lsn=0, until_lsn=1)
    said(lite, gone)
    assert requests(lite) == []
    asking.until(1)
    for _ in range(2):
        said(lite, gone)
    assert requests(lite) == [("a", "out", "inc1", 0, 1, 1, 1)]
    assert [record.message for record in caplog.records].count("gap_cannot_be_filled") == 1
    asking.until(2)
    assert requests(lite) == [("a", "out", "inc1", 0, 1, 2, 1)]
