"""Answers from the log: what was asked for, to the asker alone, as far as it is there; no cursor moves."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from common.clock import SystemClock
from common.config.model import Config
from common.errors import OutageError
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.control import Gone, control_lines
from producer.answering import Answering
from producer.log import NodeLogs
from producer.packing import Packing
from tests.support.producing import FACTS, INCARNATION, HandSink, MemoryDatabase, MemoryLog, tx_ids

SIZES = Packing(max_batch_bytes=8192, message_bytes=4096)
CONFIG = Config.model_validate({"node": {"id": FACTS.node_id, "database": "sqlite:///unused"}})


class Asked:
    """A node that answers, and what it sent to whom."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self.log = database.logs[INCARNATION]
        self.clock = SystemClock()
        self.stop = threading.Event()
        self.sinks: dict[str, HandSink] = {}
        self.away: set[str] = set()
        self.opened: list[str] = []
        self.now = 0.0
        self.service = self.new_service()

    def new_service(self) -> Answering:
        """As a new process has it: nobody rests."""
        node = Node(CONFIG, self.database.as_port, FACTS, self.clock)
        logs = NodeLogs(self.database.as_port, FACTS)
        return Answering(node, self._open, logs, SIZES, self.stop, lambda: self.now)

    def ask(self, peer: str, after_lsn: int, until_lsn: int, incarnation: str = INCARNATION, age_us: int = 0) -> None:
        asked_us = self.clock.now_us() - age_us
        row = {"peer": peer, "direction": "in", "incarnation": incarnation, "after_lsn": after_lsn}
        row |= {"until_lsn": until_lsn, "asked": 1, "first_asked_us": asked_us, "last_asked_us": asked_us}
        with self.database.engine.begin() as connection:
            connection.execute(sa.insert(rf.request).values(row))

    def waiting(self) -> list[tuple[object, ...]]:
        query = sa.select(rf.request.c.peer, rf.request.c.after_lsn, rf.request.c.until_lsn)
        with self.database.engine.begin() as connection:
            return [tuple(row) for row in connection.execute(query)]

    def hear_of(self, peer: str) -> None:
        row = {"node_id": peer, "role": "branch", "incarnation": "i", "is_self": False}
        row |= {"first_seen_us": 1, "last_seen_us": 1}
        with self.database.engine.begin() as connection:
            connection.execute(sa.insert(rf.node).values(row))

    def run_for(self, seconds: float, every: float = 1.0) -> None:
        until = self.now + seconds
        while self.now < until:
            self.service.step(0)
            self.now += every

    def _open(self, to_node: str) -> HandSink:
        self.opened.append(to_node)
        if to_node in self.away:
            raise OutageError("nobody would get it")
        sink = self.sinks[to_node] = HandSink()
        sink.confirms_at_once = True
        return sink


@pytest.fixture
def asked(tmp_path: Path) -> Iterator[Asked]:
    database = MemoryDatabase(tmp_path / "node.db")
    yield Asked(database)
    database.close()


def gone(sink: HandSink) -> list[tuple[int, int]]:
    found = [line for envelope in sink.sent for line in control_lines(envelope.body) or ()]
    assert all(isinstance(line, Gone) for line in found)
    return [(line.after_lsn, line.until_lsn) for line in found if isinstance(line, Gone)]


def test_just_what_was_asked_for(asked: Asked) -> None:
    txs = [asked.log.add("x", "y") for _ in range(10)]
    asked.ask("b", 4, 8)
    assert asked.service.step(0)
    assert tx_ids(asked.sinks["b"].sent) == [tx.header.tx_id for tx in txs[2:4]]
    assert (asked.sinks["b"].closed, asked.waiting(), gone(asked.sinks["b"])) == (True, [], [])
    with asked.database.engine.begin() as connection:
        assert connection.execute(sa.select(rf.cursor)).all() == []
    assert not asked.new_service().step(0)


def test_whole_txs_where_what_was_asked_for_ends_inside_one(asked: Asked) -> None:
    txs = [asked.log.add("x", "y", "z") for _ in range(3)]
    asked.ask("b", 1, 4)
    asked.service.step(0)
    assert tx_ids(asked.sinks["b"].sent) == [tx.header.tx_id for tx in txs[:2]]
    assert asked.waiting() == []


def test_a_large_tx_goes_in_parts(asked: Asked) -> None:
    large = asked.log.add(*["x" * 500] * 100)
    asked.ask("b", 0, 100)
    asked.service.step(0)
    assert len(asked.sinks["b"].sent) > 5
    assert set(tx_ids(asked.sinks["b"].sent)) == {large.header.tx_id}


def test_what_the_log_has_no_more_is_said(asked: Asked) -> None:
    txs = [asked.log.add("x") for _ in range(5)]
    del asked.log.txs[:3]
    asked.ask("b", 1, 4)
    asked.service.step(0)
    assert gone(asked.sinks["b"]) == [(1, 3)]
    assert tx_ids(asked.sinks["b"].sent) == [txs[3].header.tx_id]
    assert asked.waiting() == []


@pytest.mark.parametrize(("after_lsn", "until_lsn"), [(5, 9), (7, 9)])
def test_what_it_never_had_is_said_too(asked: Asked, after_lsn: int, until_lsn: int) -> None:
    """A node that was put back from a backup is asked for what others got from it before."""
    for _ in range(5):
        asked.log.add("x")
    asked.ask("b", after_lsn, until_lsn)
    asked.service.step(0)
    assert (gone(asked.sinks["b"]), asked.waiting()) == ([(after_lsn, until_lsn)], [])


def test_another_incarnation(asked: Asked) -> None:
    asked.database.logs["inc-0"] = earlier = MemoryLog("inc-0")
    tx = earlier.add("from before")
    asked.log.add("from now")
    asked.database.note_txs()
    asked.ask("b", 0, 1, "inc-0")
    asked.ask("c", 0, 1, "never-was")
    asked.service.step(0)
    assert tx_ids(asked.sinks["b"].sent) == [tx.header.tx_id]
    assert gone(asked.sinks["c"]) == [(0, 1)]


def test_an_asker_that_is_away_keeps_nobody_waiting(asked: Asked) -> None:
    asked.log.add("x")
    asked.away.add("b")
    asked.ask("b", 0, 1)
    asked.ask("c", 0, 1)
    assert asked.service.step(0)
    assert (len(asked.sinks["c"].sent), asked.waiting()) == (1, [("b", 0, 1)])
    asked.away.clear()
    assert asked.new_service().step(0)
    assert (len(asked.sinks["b"].sent), asked.waiting()) == (1, [])


def test_who_was_answered_rests(asked: Asked) -> None:
    asked.log.add("x")
    asked.ask("b", 0, 1)
    asked.service.step(0)
    asked.ask("b", 0, 1)
    for _ in range(3):
        asked.service.step(0)
    assert asked.waiting() == [("b", 0, 1)]
    asked.new_service().step(0)
    assert asked.waiting() == []


def test_an_old_request_is_forgotten(asked: Asked) -> None:
    asked.log.add("x")
    asked.ask("b", 0, 1, age_us=7_200_000_000)
    assert not asked.service.step(0)
    assert (asked.sinks, asked.waiting()) == ({}, [])


def test_who_is_away_is_tried_once_whatever_else_it_asks_for(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    asked.log.add("x")
    asked.away.add("a")
    for number in range(5):
        asked.ask("a", 0, 1, incarnation=f"made-up-{number}")
    asked.ask("b", 0, 1)
    with caplog.at_level("WARNING"):
        asked.service.step(0)
    assert [record.message for record in caplog.records] == ["answer.interrupted"]
    assert len(asked.sinks["b"].sent) == 1


def test_made_up_askers_fill_no_log(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    asked.log.add("x")
    for number in range(400):
        asked.away.add(f"made-up-{number}")
        asked.ask(f"made-up-{number}", 5, 9)
    with caplog.at_level("INFO"):
        for _ in range(3):
            asked.service.step(0)
            asked.now += 700
    assert len(caplog.records) < 150


def test_who_is_away_is_tried_less_and_less_often(asked: Asked) -> None:
    asked.log.add("x")
    asked.away.add("b")
    asked.ask("b", 0, 1)
    tried: list[float] = []
    while asked.now < 3_600:
        asked.service.step(0)
        tried += [asked.now] * (len(asked.opened) - len(tried))
        asked.now += 10
    waits = [after - before for before, after in itertools.pairwise(tried)]
    assert waits[:6] == [30, 60, 120, 240, 480, 600]
    assert set(waits[5:]) == {600}


def test_who_was_away_begins_anew_when_it_was_answered(asked: Asked) -> None:
    asked.log.add("x")
    asked.away.add("b")
    asked.ask("b", 0, 1)
    asked.run_for(100)
    asked.away.clear()
    asked.run_for(200)
    assert asked.waiting() == []
    asked.away.add("b")
    asked.ask("b", 0, 1)
    asked.run_for(10)
    asked.away.clear()
    asked.run_for(31)
    assert asked.waiting() == []


def test_made_up_askers_cost_few_connections_and_keep_nobody_waiting(asked: Asked) -> None:
    asked.log.add("x")
    for number in range(300):
        asked.away.add(f"made-up-{number}")
        asked.ask(f"made-up-{number}", 0, 1)
    asked.hear_of("b")
    asked.run_for(5)
    asked.ask("b", 0, 1)
    asked.run_for(2)
    assert len(asked.sinks["b"].sent) == 1
    asked.run_for(593, every=10)
    assert len(asked.opened) <= 102
    assert len(set(asked.opened)) > 90


def test_a_stranger_that_is_there_is_answered_among_made_up_ones(asked: Asked) -> None:
    """A node that asks before its first heartbeat was heard."""
    asked.log.add("x")
    for number in range(50):
        asked.away.add(f"made-up-{number}")
        asked.ask(f"made-up-{number}", 0, 1)
    asked.ask("new", 0, 1)
    asked.run_for(400, every=10)
    assert len(asked.sinks["new"].sent) == 1
