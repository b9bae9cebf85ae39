"""What the intake sets aside, with which reason, and what it takes all the same."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import OutageError, PoisonError, Reason
from common.ports.source import Delivery
from common.wire.compress import Encoding, compress
from common.wire.limits import DEFAULT_LIMITS
from consumer import arrivals
from consumer.apply.group import Applier
from consumer.apply.grouping import Pace
from consumer.apply.prepare import Prepared
from consumer.apply.tx import GroupTransaction
from consumer.arrivals import pieces
from consumer.incoming import Incoming, Result
from consumer.intake import Intake
from tests.support.applying import (
    Origin,
    World,
    Write,
    close_world,
    item,
    only_the_long_way,
    open_world,
    resealed,
    sqlite_url,
)


def test_of_a_group_only_the_guilty_tx_is_set_aside(world: World) -> None:
    a = Origin("a")
    txs = [a.put(number, f"n{number}", number) for number in range(1, 10)]
    bad = a.tx(item(20, "x", 50), Write("I", "code", {"id": 1, "code": None}, 51))
    more = [a.put(number, f"n{number}", 60 + number) for number in range(10, 15)]
    world.receive(b"".join(tx.body for tx in (*txs, bad, *more)))

    assert [row[0] for row in world.rows()] == list(range(1, 15))
    assert world.letters() == [(bad.tx_id, "constraint", "dead")]
    assert world.watermark("a") == a.lsn
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 14


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (Write("I", "nowhere", {"id": 1, "name": "x", "price": "1"}, 10), "unknown-table"),
        (item(1, "x", 10, node="b"), "version"),
        (item(1, "x", 8_000_000_000_000_000), "version"),
        (Write("I", "item", {"id": None, "name": "x", "price": "1"}, 10), "null-key"),
        (Write("I", "item", {"id": 1, "name": "x"}, 10), "format"),
        (Write("I", "item", {"id": 1, "name": "x", "price": "1", "more": 1}, 10), "format"),
    ],
)
def test_what_may_not_be_applied_is_set_aside_with_its_reason(world: World, write: Write, reason: str) -> None:
    a = Origin("a")
    bad, good = a.tx(write), a.put(5, "fine", 99)
    world.receive(bad.body + good.body)
    assert world.letters() == [(bad.tx_id, reason, "dead")]
    assert [row[0] for row in world.rows()] == [5]
    assert world.watermark("a") == 2


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        (b'"pk":{"id":1}', b'"pk":{"id":2}', {"format"}),
        (b'"pk":{"id":1}', b'"pk":{"id":1,"id2":1}', {"format"}),
        (b'"pk":{"id":1}', b'"pk":[1]', {"format"}),
        (b'"one"', b'"\xff"', {"format"}),
        (b'"one"', b'"\\ud800"', {"format", "type"}),
        (b'"1.50"', b'"no number"', {"type"}),
        (b'"price":"1.50"', b'"price":{"$what":1}', {"format", "type"}),
        (b'"op":"I"', b'"op":"X"', {"format"}),
        (b'"version":[0,10,"a"]', b'"version":[0,10]', {"format"}),
        (b'"version":[0,10,"a"]', b'"version":[2,10,"a"]', {"version"}),
    ],
)
def test_what_a_sender_may_get_wrong_is_poison(world: World, old: bytes, new: bytes, reasons: set[str]) -> None:
    a = Origin("a")
    bad = resealed(a.put(1, "one", 10).body, old, new)
    world.receive(bad + a.put(5, "fine", 99).body)
    assert [reason for _, reason, _ in world.letters() if reason not in reasons] == []
    assert len(world.letters()) == 1
    assert [row[0] for row in world.rows()] == [5]
    assert world.watermark("a") == 2


def test_unknown_column_and_other_key(world: World) -> None:
    a = Origin("a")
    meta = a.tables["item"]
    a.tables["item"] = meta.model_copy(update={"columns": {**meta.columns, "colour": "text"}})
    first = a.tx(Write("I", "item", {"id": 1, "name": "x", "price": "1", "colour": "red"}, 10))
    a.tables["item"] = meta.model_copy(update={"pk": ("id", "name")})
    second = a.put(1, "x", 20)
    world.receive(first.body + second.body)
    assert [letter[1] for letter in world.letters()] == ["unknown-column", "type"]
    assert world.rows() == []


def test_torn_altered_and_foreign_bytes_are_kept_and_the_rest_applied(world: World) -> None:
    a = Origin("a")
    first, torn, altered, last = (a.put(number, f"n{number}", number) for number in range(1, 5))
    world.receive(
        first.body + torn.body[:-40] + b"\n",
        altered.body.replace(b"n3", b"x3") + last.body,
        b"no batch at all\n",
        source_node="a",
    )
    assert [row[1] for row in world.rows()] == ["n1", "n4"]
    reasons = {tx_id: reason for tx_id, reason, _ in world.letters()}
    assert reasons[altered.tx_id] == "checksum"
    assert reasons[torn.tx_id] in ("format", "checksum")
    assert len(reasons) == 3
    assert [tx_id for tx_id in reasons if tx_id.startswith("bytes-")]
    assert world.watermark("a") == 4

    world.receive(torn.body, altered.body)
    assert [row[1] for row in world.rows()] == ["n1", "n2", "n3", "n4"]
    assert {state for tx_id, _, state in world.letters() if not tx_id.startswith("bytes-")} == {"replayed"}


def test_a_damaged_copy_of_what_was_applied_is_no_dead_letter(world: World) -> None:
    a = Origin("a")
    tx = a.put(1, "one", 10)
    world.receive(tx.body)
    world.receive(tx.body.replace(b"one", b"two"))
    assert world.letters() == []
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'ignored-damaged-copy'") == 1


def test_one_tx_id_with_two_contents(world: World) -> None:
    tx = Origin("a").put(1, "one", 10)
    other = Origin("a").put(1, "two", 10)
    assert tx.tx_id == other.tx_id
    world.receive(tx.body)
    world.receive(other.body)
    assert world.letters() == [(tx.tx_id, "content", "dead")]
    assert [row[1] for row in world.rows()] == ["one"]
    world.receive(tx.body)
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 1


def test_the_lsns_of_a_damaged_batch_count_once_the_next_tx_confirms_them(world: World) -> None:
    a = Origin("a")
    one, two, three = (a.put(number, "x", number) for number in range(1, 4))
    world.receive(one.body, two.body.replace(b'"to_lsn":2', b'"to_lsn":900'))
    assert world.watermark("a") == 1
    assert world.one("SELECT highest_lsn FROM rf_sync_state") == 1
    world.receive(two.body)
    assert world.watermark("a") == 2

    b = Origin("b")
    one, two, three = (b.put(10 + number, "x", number) for number in range(1, 4))
    world.receive(one.body, two.body.replace(b'"x"', b'"y"'))
    assert world.watermark("b") == 1
    world.receive(three.body)
    assert world.watermark("b") == 3
    world.receive(two.body)
    assert [row[0] for row in world.rows()] == [1, 2, 11, 12, 13]


def test_a_rewound_node_is_parked(world: World) -> None:
    a, rewound = Origin("a"), Origin("a")
    world.receive(*(a.put(number, "x", number).body for number in range(1, 4)))
    rewound.made = 50
    forked = rewound.put(1, "other", 90)
    world.receive(forked.body)
    assert world.letters() == [(forked.tx_id, "forked", "forked")]
    assert world.rows()[0][1] == "x"
    assert world.watermark("a") == 3


def test_the_sender_must_be_the_source_where_that_is_proven(world: World) -> None:
    tx = Origin("a").put(1, "one", 10)
    world.receive(tx.body, source_node="b", verified=True)
    world.receive(tx.body, source_node="a", headers={"rowferry_identity_error": "no user_id"})
    assert world.rows() == []
    assert {reason for _, reason, _ in world.letters()} == {"source"}
    world.receive(tx.body, source_node="a", verified=True)
    assert [row[1] for row in world.rows()] == ["one"]


def test_ids_that_differ_in_case_alone_are_not_two_nodes(world: World) -> None:
    world.receive(Origin("a").put(1, "one", 10).body)
    world.receive(Origin("A").put(2, "two", 20).body, Origin("HERE").put(3, "three", 30).body)
    assert [row[1] for row in world.rows()] == ["one"]
    assert {reason for _, reason, _ in world.letters()} == {"source"}


@pytest.mark.parametrize("sender", ["nul \x00", "".join(map(chr, range(0x4E00, 0x4E00 + 3_000))), "a.b"])
def test_a_sender_that_no_node_can_be_stops_nothing(world: World, sender: str) -> None:
    fine = Origin("a").put(1, "fine", 10)
    world.source.put(b"garbage", fine.body, source_node=sender, redelivered=True, content_encoding=None)
    world.source.put(fine.body, source_node=sender, content_encoding="\x00")
    world.intake().step(0)
    assert [row[1] for row in world.rows()] == ["fine"]
    assert world.query("SELECT DISTINCT source_node FROM rf_dead_letter") == [("unknown",)]


@pytest.mark.parametrize("encoding", ["zstd", "gzip"])
def test_a_message_that_unwraps_to_more_than_memory_holds_is_set_aside(world: World, encoding: Encoding) -> None:
    """16 MB unwrap to 16 GB, also of valid batches: the node would be killed, and again after each start."""
    a = Origin("a")
    bomb = a.put(1, "x" * 2 * 1024 * 1024, 10).body * (DEFAULT_LIMITS.max_message_bytes // 2**21 + 1)
    wrapped = compress(bomb, encoding)
    world.receive(wrapped, content_encoding=encoding, source_node="a")
    world.receive(a.put(2, "y", 11).body)
    assert world.watermark("a") == 2
    assert [(reason, state) for _, reason, state in world.letters()][:1] == [("limit", "dead")]
    # After a kill it is cut into its batches before any of them is tried: neither is that done to what is too much.
    again = Delivery(wrapped, "test", 1, content_encoding=encoding)
    assert pieces(again) == [again]


def test_one_message_makes_a_bounded_number_of_dead_letters(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is no batch 128 MiB hold a million stretches: they filled the memory, and then the table."""
    monkeypatch.setattr(arrivals, "_MOST_BROKEN", 20)
    header = Origin("a").put(1, "one", 10).body.split(b"\n", 1)[0]
    world.receive(b"".join(header.replace(b'"a"', b'"a%d"' % number) + b"\n" for number in range(500)))
    world.receive(Origin("b").put(2, "two", 10).body)
    assert [row[1] for row in world.rows()] == ["two"]
    reasons = [reason for _, reason, _ in world.letters()]
    assert len(reasons) == 21
    assert reasons.count("limit") == 1


class Rests(threading.Event):
    """A stop that counts how often somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def wait(self, timeout: float | None = None) -> bool:
        self.count += 1
        return super().wait(0 if timeout else timeout)


@pytest.mark.parametrize("has_bad_one", [False, True])
def test_a_node_that_stops_does_not_go_on_to_the_end_of_a_message(
    world: World, monkeypatch: pytest.MonkeyPatch, *, has_bad_one: bool
) -> None:
    """Of many txs, in many commits or in halves of one that failed. What is left comes again."""
    stop, run = threading.Event(), GroupTransaction.run

    def stopped(one: GroupTransaction, group: Sequence[Prepared]) -> list[Result]:
        results = run(one, group)
        stop.set()
        return results

    only_the_long_way(monkeypatch)
    a = Origin("a")
    bad = [a.tx(Write("I", "code", {"id": 1, "code": None}, 1))] if has_bad_one else []
    message = b"".join(tx.body for tx in [*bad, *(a.put(number, "x", number) for number in range(1, 9))])
    world.source.put(message)
    with monkeypatch.context() as patched:
        patched.setattr(GroupTransaction, "run", stopped)
        intake = Intake(world.node, "test", lambda: world.source, None, stop)
        if not has_bad_one:
            intake._applier._pace = Pace(2, 2)
        with pytest.raises(OutageError):
            intake.step(0)
        intake.close()
    assert world.watermark("a") < 9 - len(bad)
    assert world.source.acked == []
    assert world.query("SELECT * FROM rf_attempt") == []
    world.receive()
    assert [row[0] for row in world.rows()] == list(range(1, 9))
    assert len(world.letters()) == len(bad)
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'applied'") == 8


def test_a_flood_of_what_is_refused_leaves_an_application_the_write_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one. Of one message with many made-up sources everything was written at one go, in a minute."""
    world = open_world(sqlite_url(tmp_path))
    commits: list[int] = []
    run = GroupTransaction.run

    def counting(one: GroupTransaction, group: Sequence[Prepared]) -> list[Result]:
        commits.append(len({tx.incoming.source_node for tx in group}))
        return run(one, group)

    monkeypatch.setattr(GroupTransaction, "run", counting)
    try:
        made_up = [Incoming(f"a{n}", f"tx-{n}", "q", None, b"x", error=FAULT) for n in range(100)]
        rests = Rests()
        assert len(Applier(world.node, stop=rests).apply(made_up)) == 100
        assert (max(commits), rests.count) == (20, 5)
        commits.clear()
        Applier(world.node).apply([Incoming("one", f"tx-{n}", "q", None, b"x", error=FAULT) for n in range(500)])
        assert len(commits) == 3
        assert len(world.letters()) == 600
    finally:
        close_world(world)


FAULT = PoisonError(Reason.FORMAT, "no batch at all")
