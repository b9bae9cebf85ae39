"""The intake loop on real databases: what is applied, acknowledged, given back, waits, and is tried again."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from common.errors import OutageError
from common.ports.source import Delivery
from common.versions import Version
from common.wire.decode import Broken, parts_in
from common.wire.limits import Limits
from common.wire.records import Part
from consumer import arrivals
from consumer.apply.ledger import Ledger
from consumer.apply.prepare import Prepared, Preparer
from consumer.attempts import Attempts
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.dedup import TxKey
from consumer.inbox import Inbox
from consumer.incoming import Incoming
from consumer.intake import Intake
from consumer.plain.ledger import Ledger as PlainLedger
from tests.support.applying import (
    MemorySource,
    Origin,
    World,
    Write,
    close_world,
    item,
    only_the_long_way,
    open_world,
    sqlite_url,
)


def test_rows_dedup_watermark_and_audit_come_in_one_go(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body + a.put(2, "two", 20).body)

    assert [row[:2] for row in world.rows()] == [(1, "one"), (2, "two")]
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 2
    assert world.watermark("a") == 2
    assert world.query("SELECT action, count(*) FROM rf_audit GROUP BY action") == [("applied", 2)]
    assert world.query("SELECT node_id FROM rf_node WHERE NOT is_self") == [("a",)]
    assert len(world.source.acked) == 1
    assert world.letters() == []


def test_a_stop_ends_a_backlog_after_the_commit_in_hand(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.rounds._MOST_BYTES", 1)
    a, stop, source = Origin("a"), threading.Event(), MemorySource()
    bodies = [a.put(number, f"a{number}", number).body for number in range(1, 6)]
    source.put(*bodies)
    acknowledge = source.ack

    def acknowledge_and_stop(deliveries: list[Delivery]) -> None:
        acknowledge(deliveries)
        stop.set()

    monkeypatch.setattr(source, "ack", acknowledge_and_stop)
    intake = Intake(world.node, "test", lambda: source, None, stop)
    assert intake.step(0)
    intake.close()
    assert [row[0] for row in world.rows()] == [1]
    assert len(source.acked) == 1
    assert [failed for _, failed in source.given_back] == [False] * 4
    assert world.query("SELECT * FROM rf_attempt") == []
    world.receive(*bodies)
    while world.intakes[-1].step(0):
        pass
    assert [row[0] for row in world.rows()] == [1, 2, 3, 4, 5]


def test_after_a_kill_only_what_may_have_been_in_hand_is_begun_with_care(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backlog that never lets the node rest must not keep it slow for as long as it lasts."""
    monkeypatch.setattr("consumer.intake._MOST_DELIVERIES", 2)
    monkeypatch.setattr("consumer.rounds._WORTH_READING_AHEAD", 1)
    a, begun, begin = Origin("a"), set[str](), Attempts.begin

    def noted(self: Attempts, keys: Sequence[TxKey]) -> Mapping[TxKey, int]:
        begun.update(tx_id for _, tx_id in keys)
        return begin(self, keys)

    monkeypatch.setattr(Attempts, "begin", noted)
    txs = [a.put(number, f"a{number}", number) for number in range(1, 8)]
    Attempts(world.node).mark_busy("test")
    world.receive(*(tx.body for tx in txs))
    while world.intakes[-1].step(0):
        pass
    assert [row[0] for row in world.rows()] == [1, 2, 3, 4, 5, 6, 7]
    assert begun & {tx.tx_id for tx in txs} == {tx.tx_id for tx in txs[:2]}


def test_the_same_bytes_again_change_nothing(world: World) -> None:
    a = Origin("a")
    bodies = [a.put(1, "one", 10).body, a.put(1, "uno", 20, Version(0, 10, "a"), "U").body]
    world.receive(*bodies)
    before = world.query("SELECT * FROM rf_audit"), world.rows(), world.query("SELECT * FROM rf_sync_state")
    world.receive(*bodies, *reversed(bodies))
    world.receive(b"".join(bodies))

    assert (world.query("SELECT * FROM rf_audit"), world.rows(), world.query("SELECT * FROM rf_sync_state")) == before
    assert len(world.source.acked) == 7


def test_own_batches_are_dropped(world: World) -> None:
    world.receive(Origin("here").put(1, "own", 10).body)
    assert world.rows() == []
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 0
    assert len(world.source.acked) == 1


def test_a_gap_holds_the_watermark_and_not_the_rows(world: World) -> None:
    a = Origin("a")
    one, two, three = (a.put(number, "x", number) for number in range(1, 4))
    world.receive(one.body, three.body)
    assert world.watermark("a") == 1
    assert world.one("SELECT highest_lsn FROM rf_sync_state") == 3
    assert [row[0] for row in world.rows()] == [1, 3]
    world.receive(two.body)
    assert world.watermark("a") == 3


def test_unique_values_that_change_places(world: World) -> None:
    a = Origin("a")
    world.receive(
        a.tx(
            Write("I", "code", {"id": 1, "code": "x"}, 10),
            Write("I", "code", {"id": 2, "code": "y"}, 11),
        ).body
    )
    world.receive(
        a.tx(
            Write("U", "code", {"id": 1, "code": "y"}, 20, Version(0, 10, "a")),
            Write("U", "code", {"id": 2, "code": "x"}, 21, Version(0, 11, "a")),
        ).body
    )
    assert world.rows("code") == [(1, "y"), (2, "x")]
    assert world.letters() == []


def test_a_child_waits_for_its_parent(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    child = a.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    world.receive(child.body)
    assert world.rows("child") == []
    assert world.letters() == [(child.tx_id, "foreign-key", "early")]
    assert world.watermark("a") == 1
    assert world.intakes[-1].set_aside == 1

    world.receive(b.tx(Write("I", "parent", {"id": 7, "name": "p"}, 20)).body)
    assert world.rows("child") == [(1, 7)]
    assert world.letters() == [(child.tx_id, "foreign-key", "replayed")]


def test_a_child_waits_no_longer_than_its_time(world: World) -> None:
    a = Origin("a")
    child = a.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    world.receive(child.body)
    world.clock.pass_seconds(86_000)
    world.receive()
    assert world.letters() == [(child.tx_id, "foreign-key", "early")]
    world.clock.pass_seconds(3_600)
    world.receive()
    assert world.letters() == [(child.tx_id, "foreign-key", "dead")]
    assert world.one("SELECT attempts FROM rf_dead_letter") == 3
    details = [detail for (detail,) in world.query("SELECT detail FROM rf_audit ORDER BY id")]
    assert ['"early"' in detail for detail in details] == [True, False], "told once, not at every try"


def test_parents_and_children_of_one_group_need_no_order(world: World) -> None:
    a = Origin("a")
    child = a.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    parent = a.tx(Write("I", "parent", {"id": 7, "name": "p"}, 20))
    world.receive(child.body + parent.body)
    assert world.rows("child") == [(1, 7)]
    assert world.letters() == []


def test_an_outage_of_the_source_gives_everything_back_and_sets_nothing_aside(world: World) -> None:
    a = Origin("a")
    world.source.fail_ack = True
    world.source.put(a.put(1, "one", 10).body)
    intake = world.intake()
    with pytest.raises(OutageError):
        intake.step(0)
    assert [failed for _, failed in world.source.given_back] == [False]
    assert world.source.closed == 1
    world.source.fail_ack = False
    intake.step(0)
    assert len(world.source.acked) == 1
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'applied'") == 1
    assert world.letters() == []
    assert world.one("SELECT count(*) FROM rf_attempt WHERE source_node <> ''") == 0


def test_nothing_is_acknowledged_before_its_commit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time that something is acknowledged another connection sees it committed; what fails is not acknowledged."""
    a, seen = Origin("a"), list[int]()
    ack, write, write_plain = world.source.ack, Ledger.write, PlainLedger.end

    def looking(deliveries: list[Delivery]) -> None:
        seen.append(world.one("SELECT count(*) FROM rf_applied_tx"))
        ack(deliveries)

    def failing(*arguments: Any) -> None:
        write(*arguments)
        raise OutageError("the database is away")

    def failing_plain(*arguments: Any, **named: Any) -> None:
        write_plain(*arguments, **named)
        raise OutageError("the database is away")

    monkeypatch.setattr(world.source, "ack", looking)
    world.receive(a.put(1, "one", 10).body, a.put(2, "two", 10).body)
    monkeypatch.setattr(Ledger, "write", failing)
    monkeypatch.setattr(PlainLedger, "end", failing_plain)
    world.source.put(a.put(3, "three", 10).body)
    with pytest.raises(OutageError):
        world.intakes[-1].step(0)
    assert seen == [2]
    assert len(world.source.acked) == 2


def test_parts_that_are_all_there_go_after_what_was_sent_before_them(world: World) -> None:
    """A process that read ahead and died: the parts are stored, the tx before them is not applied, and comes again."""
    a = Origin("a")
    first = a.put(100, "first", 10)
    large = a.tx(*(item(number, "x" * 400, number) for number in range(1, 60)))
    parts = large.parts(4096)
    dead = Inbox(world.node)
    for part in parts:
        for one in parts_in(part):
            assert isinstance(one, Part)
            dead.take(one, "test")
    Attempts(world.node).mark_busy("test")
    world.source.put(first.body, parts[-1], redelivered=True)
    world.receive()
    assert world.query("SELECT tx_id FROM rf_audit ORDER BY id") == [(first.tx_id,), (large.tx_id,)]


def test_large_dead_letters_take_no_room_from_what_is_unfinished(world: World) -> None:
    """Their bodies stand among the parts for as long as a person leaves them."""
    a, limits = Origin("a"), Limits(max_unfinished_txs=2)
    world.intake()._inbox._limits = limits
    for number in range(1, 4):
        unknown = (Write("I", "nowhere", {"id": row, "name": "x" * 400}, row) for row in range(1, 60))
        world.receive(*a.tx(*unknown).parts(4096))
        assert len(world.letters()) == number, "so many stand apart, and each has its parts"
    world.receive(*a.tx(*(item(number, "x" * 400, number) for number in range(1, 60))).parts(4096))
    assert [reason for _, reason, _ in world.letters()] == ["unknown-table"] * 3
    assert len(world.rows()) == 59

    begun = [a.tx(*(item(number, "y" * 400, number) for number in range(100, 160))).parts(4096) for _ in range(3)]
    world.receive(*(parts[0] for parts in begun))
    assert [reason for _, reason, _ in world.letters()] == ["unknown-table"] * 3 + ["limit"], (
        "two at most are waited for"
    )


def test_parts_that_are_all_there_and_come_no_more_are_taken_up(world: World) -> None:
    parts = Origin("a").tx(*(item(number, "x" * 400, number) for number in range(1, 60))).parts(4096)
    dead = Inbox(world.node)
    for part in parts:
        for one in parts_in(part):
            assert isinstance(one, Part)
            dead.take(one, "test")
    assert world.intake().step(0)
    assert len(world.rows()) == 59
    assert not world.intakes[-1].step(0)


def test_an_error_that_nobody_foresaw_counts_like_a_kill(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a = Origin("a")
    fine, bad = a.put(1, "fine", 10), a.put(2, "bad", 20)
    only_the_long_way(monkeypatch)
    prepare = Preparer.prepare

    def fails(self: Preparer, incoming: Incoming) -> Prepared:
        if incoming.tx_id == bad.tx_id and incoming.error is None:
            raise ZeroDivisionError
        return prepare(self, incoming)

    monkeypatch.setattr(Preparer, "prepare", fails)
    world.source.put(fine.body, bad.body)
    intake = world.intake()
    for _ in range(4):
        with pytest.raises(ZeroDivisionError):
            intake.step(0)
    intake.step(0)
    assert [row[1] for row in world.rows()] == ["fine"]
    assert world.letters() == [(bad.tx_id, "crash", "dead")]
    assert {failed for _, failed in world.source.given_back} == {True}


def test_a_waiting_tx_that_fails_unforeseen_when_tried_again_is_set_aside(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = Origin("a"), Origin("b")
    child = a.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    world.receive(child.body)
    prepare = Preparer.prepare

    def fails(self: Preparer, incoming: Incoming) -> Prepared:
        if incoming.tx_id == child.tx_id and incoming.error is None:
            raise ZeroDivisionError
        return prepare(self, incoming)

    monkeypatch.setattr(Preparer, "prepare", fails)
    world.source.put(b.tx(Write("I", "parent", {"id": 7, "name": "p"}, 20)).body)
    failures = 0
    for _ in range(8):
        world.clock.pass_seconds(60)
        try:
            world.intakes[-1].step(0)
        except ZeroDivisionError:
            failures += 1
    assert 3 <= failures <= 5
    assert world.letters() == [(child.tx_id, "crash", "dead")]
    assert world.rows("parent") == [(7, "p")]
    assert world.one("SELECT count(*) FROM rf_attempt WHERE source_node <> ''") == 0


def test_a_batch_that_can_t_be_read_takes_no_other_of_its_message_along(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = Origin("a")
    txs = [a.put(number, f"row {number}", number) for number in (1, 2, 3)]

    def fails(body: BinaryIO, limits: Limits) -> Iterator[Part | Broken]:
        return fails_in(body.read(), limits)

    def fails_in(body: bytes, limits: Limits) -> Iterator[Part | Broken]:
        if b"row 2" in body:
            raise ZeroDivisionError
        return parts_in(body, limits)

    monkeypatch.setattr(arrivals, "read_parts", fails)
    monkeypatch.setattr(arrivals, "parts_in", fails_in)
    spaced = b"".join(tx.body.replace(b'{"type":"end"', b'{ "type" : "end"') for tx in txs)
    world.source.put(gzip.compress(spaced), content_encoding="gzip", source_node="a")
    intake = world.intake()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            intake.step(0)
    intake.step(0)
    assert [row[1] for row in world.rows()] == ["row 1", "row 3"]
    assert [(reason, state) for _, reason, state in world.letters()] == [("crash", "dead")]
    # With a release that can read it, it is the tx that it always was.
    DeadLetters(world.node).replay(Selection(), Replay("tester"), lambda _: None)
    assert [row[1] for row in world.rows()] == ["row 1", "row 2", "row 3"]
    assert [(reason, state) for _, reason, state in world.letters()] == [("crash", "replayed")]
    assert world.one("SELECT count(*) FROM rf_attempt WHERE source_node <> ''") == 0


def test_an_outage_is_no_attempt(world: World) -> None:
    a = Origin("a")
    world.source.fail_ack = True
    world.source.put(a.put(1, "one", 10).body)
    intake = world.intake()
    for _ in range(8):
        with pytest.raises(OutageError):
            intake.step(0)
    world.source.fail_ack = False
    intake.step(0)
    assert world.letters() == []
    assert [row[1] for row in world.rows()] == ["one"]


def test_what_is_applied_is_not_captured(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body)
    assert world.node.database.sealer(world.node.facts).seal().changes == 0


def test_nothing_is_received_while_the_database_is_away(tmp_path: Path) -> None:
    """What is received and given back counts as a delivery, and a long outage must not use up the broker's limit."""
    opened: list[int] = []

    def open_source() -> MemorySource:
        opened.append(1)
        return world.source

    world = open_world(sqlite_url(tmp_path))
    intake = Intake(world.node, "test", open_source, None, threading.Event())
    try:
        intake.step(0)
        world.source.put(Origin("a").put(1, "one", 20).body)
        (tmp_path / "app.db").rename(tmp_path / "away.db")
        (tmp_path / "app.db").mkdir()
        world.node.database.close()
        with pytest.raises(OutageError):
            intake.step(0)
        for _ in range(3):
            with pytest.raises(OutageError):
                intake.step(0)
        assert len(opened) == 1
        (tmp_path / "app.db").rmdir()
        (tmp_path / "away.db").rename(tmp_path / "app.db")
        assert intake.step(0)
        assert [row[1] for row in world.rows()] == ["one"]
        assert len(opened) == 2
    finally:
        intake.close()
        close_world(world)
