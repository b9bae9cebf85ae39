"""The relay: what is confirmed moves the cursor, nothing else does, and nothing is skipped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.clock import SystemClock
from common.errors import OutageError
from producer.cursors import Cursors
from producer.log import NodeLogs
from producer.packing import Packing
from producer.relay import Relay
from tests.support.producing import FACTS, INCARNATION, HandSink, MemoryDatabase, MemoryLog, tx_ids

SIZES = Packing(max_batch_bytes=8192, message_bytes=4096)


class Setup:
    """A relay with its database, and each sink that it opened."""

    def __init__(self, database: MemoryDatabase) -> None:
        self.database = database
        self.log = database.logs[INCARNATION]
        self.cursors = Cursors(database.as_port, SystemClock())
        self.stop = threading.Event()
        self.sinks: list[HandSink] = []
        self.prepare: Callable[[HandSink], None] = lambda sink: None
        self.on_confirmed: Callable[[], None] = lambda: None
        self.relay = self.new_relay()

    def new_relay(self) -> Relay:
        logs = NodeLogs(self.database.as_port, FACTS)
        return Relay("hand", self._open, logs, self.cursors, SIZES, self.stop)

    @property
    def sink(self) -> HandSink:
        return self.sinks[-1]

    @property
    def cursor(self) -> int:
        return self.cursors.load("hand", INCARNATION)

    def _open(self, on_confirmed: Callable[[], None]) -> HandSink:
        self.sinks.append(HandSink())
        self.on_confirmed = on_confirmed
        self.prepare(self.sink)
        return self.sink

    def drain(self) -> None:
        while self.relay.step(0):
            self.sink.confirm()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    database = MemoryDatabase(tmp_path / "node.db")
    yield Setup(database)
    database.close()


def test_idle_sends_one_tx_at_once(setup: Setup) -> None:
    assert not setup.relay.step(0)
    setup.log.add("one")
    assert setup.relay.step(0)
    assert [envelope.txs for envelope in setup.sink.sent] == [1]
    assert setup.sink.sent[0].closes_lsn == 1


def test_a_backlog_is_packed_and_nothing_is_skipped(setup: Setup) -> None:
    expected = [setup.log.add(f"note {number}").header.tx_id for number in range(200)]
    setup.drain()
    assert tx_ids(setup.sink.sent) == expected
    assert max(envelope.txs for envelope in setup.sink.sent) > 3
    assert all(len(envelope.body) <= SIZES.message_bytes for envelope in setup.sink.sent)
    assert [envelope.closes_lsn for envelope in setup.sink.sent] == [one.to_lsn for one in setup.sink.sent]
    assert setup.cursor == 200


def test_the_cursor_follows_the_confirmed_prefix_alone(setup: Setup) -> None:
    for number in range(60):
        setup.log.add(f"note {number}")
    setup.relay.step(0)
    for _ in range(3):
        assert setup.relay.step(0)
    assert setup.cursor == 0
    setup.sink.confirm(2)
    setup.relay.step(0)
    setup.relay.step(0)
    setup.relay.close()
    assert setup.sink.closed
    assert setup.cursor in (0, setup.sink.sent[1].to_lsn)
    setup.relay = setup.new_relay()
    setup.drain()
    assert setup.cursor == 60


def test_the_prefix_is_noted_while_more_is_under_way(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.relay._SAVE_SECONDS", 0.0)
    for number in range(60):
        setup.log.add(f"note {number}")
    setup.relay.step(0)
    setup.sink.confirm(2)
    assert setup.relay.step(0)
    assert setup.cursor == setup.sink.sent[1].to_lsn
    assert setup.relay.step(0), "unconfirmed envelopes are work"


def test_what_is_confirmed_soon_after_another_is_noted_with_it(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.relay._SAVE_SECONDS", 3600.0)
    for number in range(3):
        setup.log.add(f"note {number}")
        setup.relay.wake()
        assert setup.relay.step(0.001)
        setup.sink.confirm()
        assert setup.relay.step(0.001)
    assert setup.relay.step(0.001), "what is not noted is work"
    assert setup.cursor == 0
    setup.relay.close()
    assert setup.cursor == 3, "noted at the end, though nothing is under way"


def test_a_confirm_alone_is_no_reason_to_look_at_the_log(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    read = setup.log.read
    monkeypatch.setattr(setup.log, "read", lambda after, most: looks.append(after) or read(after, most))
    setup.log.add("one")
    assert setup.relay.step(30)
    confirmed = setup.sink.confirmed

    def confirmed_at_once() -> int:
        setup.on_confirmed()
        return confirmed()

    monkeypatch.setattr(setup.sink, "confirmed", confirmed_at_once)
    assert setup.relay.step(30), "there may have been more"
    setup.sink.confirm()
    assert setup.relay.step(30)
    assert looks == [0, 1]
    setup.log.add("two")
    setup.relay.wake()
    assert setup.relay.step(30)
    assert (looks, len(setup.sink.sent)) == ([0, 1, 1], 2)


def test_what_another_process_sealed_is_found_without_being_told(setup: Setup) -> None:
    assert not setup.relay.step(0)
    setup.log.add("one")
    setup.drain()
    setup.log.add("two")
    setup.drain()
    assert len(tx_ids(setup.sink.sent)) == 2


def test_a_large_tx_holds_the_cursor_until_its_last_part(setup: Setup) -> None:
    setup.log.add("small")
    setup.log.add(*("x" * 900 for _ in range(40)))
    setup.relay.step(0)
    parts = setup.sink.sent[1:]
    assert len(parts) > 3
    assert [part.closes_lsn for part in parts] == [None] * (len(parts) - 1) + [41]
    assert {part.tx_id for part in parts} == {setup.log.txs[1].header.tx_id}
    setup.sink.confirm(len(setup.sink.sent) - 1)
    setup.relay.step(0)
    setup.relay.close()
    assert setup.cursor in (0, 1)
    setup.relay = setup.new_relay()
    setup.drain()
    assert setup.cursor == 41


def test_killed_between_confirm_and_cursor_sends_again(setup: Setup) -> None:
    first = setup.log.add("one").header.tx_id
    setup.relay.step(0)
    setup.sink.confirm()
    # No close: the process is gone before the next step.
    setup.relay = setup.new_relay()
    setup.drain()
    assert tx_ids(setup.sinks[0].sent) == tx_ids(setup.sinks[1].sent) == [first]
    assert setup.sinks[0].sent[0].body == setup.sinks[1].sent[0].body
    assert setup.cursor == 1


def test_an_outage_opens_a_new_sink_at_the_durable_cursor(setup: Setup) -> None:
    expected = [setup.log.add("one").header.tx_id]
    setup.drain()
    expected += [setup.log.add("two").header.tx_id, setup.log.add("three").header.tx_id]
    setup.relay.step(0)
    setup.sink.confirm()
    setup.sink.fails = True
    with pytest.raises(OutageError):
        setup.relay.step(0)
    assert setup.sink.closed
    assert setup.cursor == 1, "what an outage interrupts is not confirmed"
    setup.drain()
    assert len(setup.sinks) == 2
    assert tx_ids(setup.sinks[1].sent) == expected[1:]
    assert setup.cursor == 3


def test_an_outage_in_mid_stream(setup: Setup) -> None:
    expected = [setup.log.add("y" * 3000).header.tx_id for _ in range(5)]
    setup.prepare = lambda sink: setattr(sink, "fails", len(setup.sinks) == 1)
    with pytest.raises(OutageError):
        setup.relay.step(0)
    setup.drain()
    assert tx_ids(setup.sink.sent) == expected


def test_a_window_bounds_what_is_unconfirmed(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.relay._WINDOW_BYTES", 20_000)
    monkeypatch.setattr("producer.relay._MOST_READ_BYTES", 10_000)
    for _ in range(40):
        setup.log.add("z" * 3000)
    for _ in range(20):
        assert setup.relay.step(0)
    assert 20_000 <= sum(len(envelope.body) for envelope in setup.sink.sent) < 50_000
    setup.drain()
    assert len(tx_ids(setup.sink.sent)) == 40


def test_what_an_earlier_incarnation_left_goes_first(setup: Setup) -> None:
    old = setup.database.logs["inc-0"] = MemoryLog("inc-0")
    expected = [old.add("old one").header.tx_id, old.add("old two").header.tx_id]
    setup.log.tx_ids.next(2_000_000)
    expected.append(setup.log.add("new").header.tx_id)
    setup.database.note_txs()
    setup.cursors.save("hand", "inc-0", 1)
    setup.drain()
    assert [tx_ids(sink.sent) for sink in setup.sinks] == [expected[1:2], expected[2:]]
    assert setup.cursors.load("hand", "inc-0") == 2
    assert setup.cursor == 1


def test_after_stop_nothing_is_sent(setup: Setup) -> None:
    setup.log.add("one")
    setup.stop.set()
    assert not setup.relay.step(0)
    assert not setup.sinks


def test_close_waits_for_what_is_under_way(setup: Setup) -> None:
    setup.log.add("one")
    setup.relay.step(0)
    setup.sink.confirm()
    setup.relay.close()
    setup.relay.close()
    assert setup.cursor == 1


def test_a_cursor_never_goes_back(setup: Setup) -> None:
    setup.cursors.save("hand", INCARNATION, 5)
    setup.cursors.save("hand", INCARNATION, 3)
    assert setup.cursor == 5
