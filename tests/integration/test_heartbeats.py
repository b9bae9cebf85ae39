"""Heartbeats: sent at their pace, kept with the peer, and what they show: tail gaps, silence, clocks, disagreement."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.clock import from_us
from common.ids import tx_id_us
from common.ops.agreement import agreement
from common.ops.known_nodes import is_full
from common.ops.nodes import Nodes
from common.ops.peers import PeerStanding
from common.ops.status import Standing
from common.ops.status_reading import read_standing
from common.runtime.supervisor import Supervisor
from common.seldom import Seldom
from common.wire.control import Heartbeat, control_lines, encode_control
from consumer import heard, heartbeats
from consumer.asking import GapAsking
from consumer.gaps import find_gaps
from consumer.statements import reading
from producer.announcing import Announcing
from producer.cursors import Cursors
from producer.heartbeat import NOBODY_KNOWS_SECONDS, own_heartbeat
from producer.log import NodeLogs
from tests.support.applying import (
    Origin,
    World,
    close_world,
    only_the_long_way,
    open_world,
    resealed,
    sqlite_url,
)
from tests.support.producing import HandSink

MINUTE = 60_000_000


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path))
    yield made
    close_world(made)


def heartbeat(world: World, head_lsn: int, head_tx_id: str | None = None, **changes: object) -> Heartbeat:
    """Return what node a would say now; it agrees with this node unless it is told otherwise."""
    agreed = agreement(world.node.config, world.node.captured_tables().values())
    fields = {
        "source_node": "a",
        "incarnation": "inc1",
        "head_lsn": head_lsn,
        "head_tx_id": head_tx_id,
        "sent_lsn": head_lsn,
        "every_seconds": 60.0,
        "at": from_us(world.clock.us),
        "number": None,
        "release": "1.0",
        "features": (),
        "schema_sha256": agreed.schema_sha256,
        "policies_sha256": agreed.policies_sha256,
    }
    return Heartbeat(**(fields | changes))  # type: ignore[arg-type]


def beat(world: World, head_lsn: int, head_tx_id: str | None = None, **changes: object) -> None:
    """Let a minute pass, and a heartbeat come."""
    world.clock.us += MINUTE
    one = heartbeat(world, head_lsn, head_tx_id, **changes)
    world.receive(encode_control(one), source_node=one.source_node)


def standing(world: World) -> Standing:
    return read_standing(world.node.database, world.node.config, world.node.facts, world.clock.us, {})


def peer(world: World) -> PeerStanding:
    (found,) = standing(world).peers
    return found


def listen(world: World) -> None:
    """Note that this node listens, as its consumer does now and then."""
    now = 0.0
    service = GapAsking(world.node, lambda _: HandSink(), threading.Event(), lambda: now)
    service.step(0)
    now = 60.0
    service.step(0)


def test_it_is_kept_with_the_peer(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "x", 1).body)
    two = a.put(2, "x", 2)
    assert standing(world).peers == ()
    beat(world, 2, two.tx_id)
    found = peer(world)
    assert (found.node, found.incarnation, found.head_lsn, found.head_tx_id) == ("a", "inc1", 2, two.tx_id)
    assert (found.heard_us, found.release, found.missing, found.clock_us) == (world.clock.us, "1.0", 1, 0)
    assert list(found.attention) == []
    world.receive(two.body)
    assert peer(world).missing == 0
    assert (world.letters(), world.query("SELECT role FROM rf_node WHERE node_id = 'a'")) == ([], [("branch",)])


def test_a_node_that_was_never_heard_of_is_known_by_it(world: World) -> None:
    beat(world, 0)
    assert (peer(world).head_lsn, peer(world).missing) == (0, 0)
    with reading(world.node.database) as connection:
        assert find_gaps(connection) == []


def test_the_last_batch_before_a_silence_is_missed(world: World) -> None:
    a = Origin("a")
    one, two, three = (a.put(number, "x", number) for number in range(1, 4))
    world.receive(one.body)

    def gaps() -> list[tuple[int, int]]:
        with reading(world.node.database) as connection:
            return [(gap.after_lsn, gap.until_lsn) for gap in find_gaps(connection)]

    # What it has and has not sent yet nobody misses.
    beat(world, 3, three.tx_id, sent_lsn=1)
    assert gaps() == []
    beat(world, 3, three.tx_id)
    assert gaps() == [(1, 3)]
    world.receive(three.body)
    assert gaps() == [(1, 2)]
    world.receive(two.body)
    assert gaps() == []


def test_all_of_the_log_is_missed_by_a_node_that_came_later(world: World) -> None:
    a = Origin("a")
    one, two = (a.put(number, "x", number) for number in range(1, 3))
    beat(world, 2, two.tx_id)
    with reading(world.node.database) as connection:
        (gap,) = find_gaps(connection)
    assert (gap.peer, gap.incarnation, gap.after_lsn, gap.until_lsn) == ("a", "inc1", 0, 2)
    world.receive(one.body, two.body)
    with reading(world.node.database) as connection:
        assert find_gaps(connection) == []


def test_one_that_comes_late_changes_nothing(world: World) -> None:
    late = heartbeat(world, 1)
    beat(world, 5)
    world.receive(encode_control(late), source_node="a")
    assert peer(world).head_lsn == 5
    world.clock.us -= 3 * 3_600_000_000
    beat(world, 6)
    assert peer(world).head_lsn == 6


def everything(world: World) -> list[tuple[object, ...]]:
    return [*world.query("SELECT * FROM rf_node ORDER BY node_id"), *world.query("SELECT * FROM rf_passed")]


@pytest.mark.parametrize("numbered", [True, False])
def test_an_old_one_that_is_said_again_changes_nothing(world: World, numbered: bool) -> None:
    """A day old, true and signed: whoever kept it must not make a silent node speak, nor hide what was sent since."""
    told: dict[str, object] = {"passed": (("b", "inc-b", 7),)}
    old = heartbeat(world, 1, number=world.clock.us if numbered else None, **told)
    gone = heartbeat(world, 9, number=world.clock.us + 1 if numbered else None, incarnation="inc0", **told)
    world.clock.us += 24 * 60 * MINUTE
    beat(world, 5, number=world.clock.us + MINUTE if numbered else None, passed=(("b", "inc-b", 9),))
    before = everything(world)
    world.clock.us += 10 * MINUTE
    for one in (old, gone):
        world.receive(encode_control(one), source_node="a")
    assert everything(world) == before


@pytest.mark.parametrize("head_lsn", [5, 6])
def test_a_clock_that_was_set_back_silences_nobody(world: World, head_lsn: int) -> None:
    beat(world, 5, number=world.clock.us + MINUTE)
    # By the number where nothing was written meanwhile; a release without one is believed once its log has grown.
    number = world.clock.us + 1 if head_lsn == 5 else None
    beat(world, head_lsn, number=number, at=from_us(world.clock.us - 5 * 60 * MINUTE), sent_lsn=4)
    assert (peer(world).heard_us, peer(world).head_lsn) == (world.clock.us, head_lsn)
    # What it had said before that, from the hours in between, is still older.
    world.clock.us += MINUTE
    before = everything(world)
    again = heartbeat(world, 4, number=None if number is None else number - 2, at=from_us(world.clock.us - 60 * MINUTE))
    world.receive(encode_control(again), source_node="a")
    assert everything(world) == before


YEAR = 365 * 24 * 60 * MINUTE


def test_a_new_incarnation_is_heard_though_the_clock_was_far_ahead_before(world: World) -> None:
    """It was put back, its clock was set right, and it began anew: its numbers are below what it said before."""
    passed: dict[str, object] = {"passed": ()}
    beat(world, 3, number=world.clock.us, incarnation="inc0", **passed)
    right = heartbeat(world, 3, number=world.clock.us + 1, incarnation="inc0", **passed)
    ahead = [world.clock.us + YEAR + number * MINUTE for number in range(3)]
    for us in ahead:
        beat(world, 5, number=us, at=from_us(us), **passed)
    beat(world, 1, number=world.clock.us, incarnation="inc2", **passed)
    assert (peer(world).heard_us, peer(world).incarnation, peer(world).head_lsn) == (world.clock.us, "inc2", 1)
    # It goes on from there.
    last = world.clock.us
    beat(world, 2, number=last + 1, incarnation="inc2", **passed)
    assert (peer(world).heard_us, peer(world).head_lsn) == (world.clock.us, 2)
    before = everything(world)
    stale = {"at": from_us(world.clock.us - 61 * MINUTE)}
    for one in (
        right,
        heartbeat(world, 5, number=ahead[1], at=from_us(ahead[1]), **passed),
        heartbeat(world, 5, number=ahead[2], **passed),
        heartbeat(world, 1, number=last, incarnation="inc2", **passed),
        heartbeat(world, 9, number=last + 2, incarnation="never heard of", **(passed | stale)),
    ):
        world.receive(encode_control(one), source_node="a")
    assert everything(world) == before


@pytest.mark.parametrize("is_far", [True, False])
@pytest.mark.parametrize("incarnation", ["inc1", "made-up"])
def test_a_number_that_no_clock_says_silences_nobody_for_long(
    world: World, incarnation: str, is_far: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody said it once, with a token that was stolen; or the node was put back after its clock was far ahead."""
    monkeypatch.setattr(heartbeats, "_seldom", Seldom(heartbeats.log))
    passed: dict[str, object] = {"passed": ()}
    beat(world, 3, number=world.clock.us + MINUTE, **passed)
    kept = [heartbeat(world, 3, number=world.clock.us + number, **passed) for number in range(1, 4)]
    at = {"at": from_us(world.clock.us + YEAR)} if is_far else {}
    forged = heartbeat(world, 3, number=2**63 - 1, incarnation=incarnation, release="forged", **passed, **at)
    world.receive(encode_control(forged), source_node="a")
    for _ in range(7):
        beat(world, 3, number=world.clock.us + MINUTE, **passed)
    assert (peer(world).heard_us, peer(world).incarnation, peer(world).release) == (world.clock.us, "inc1", "1.0")
    assert "heartbeat_left" in [record.message for record in caplog.records]
    # It goes on from there; and nothing that was said before counts again.
    beat(world, 3, number=world.clock.us + MINUTE, **passed)
    assert peer(world).heard_us == world.clock.us
    before = everything(world)
    for minutes in range(90):
        world.clock.us += MINUTE
        if minutes in (0, 10, 89):
            for one in (*kept, forged):
                world.receive(encode_control(one), source_node="a")
    assert everything(world) == before


def test_what_a_clock_said_that_was_ahead_counts_for_nothing_when_its_time_has_come(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "x", 1).body)
    first_us = world.clock.us
    ahead = [heartbeat(world, 1, at=from_us(us), number=us) for us in range(first_us + YEAR, first_us + 2 * YEAR, YEAR)]
    ahead += [heartbeat(world, 1, at=from_us(first_us + 90 * MINUTE), number=first_us + 90 * MINUTE)]
    for one in ahead:
        world.receive(encode_control(one), source_node="a")
    # It was set right, wrote, and fell silent.
    two = a.put(2, "x", 2)
    world.receive(two.body)
    beat(world, 2, two.tx_id, number=first_us + YEAR + 1)
    before = everything(world)
    world.clock.us = first_us + 90 * MINUTE
    for one in ahead:
        world.receive(encode_control(one), source_node="a")
    assert everything(world) == before


def test_a_retired_node_whose_number_was_forged_is_heard_when_it_comes_back(world: World) -> None:
    beat(world, 3, number=2**63 - 1)
    Nodes(world.node.database, world.node.config, world.node.facts, world.clock).retire("a", "somebody")
    for _ in range(7):
        beat(world, 3, number=world.clock.us + MINUTE)
    assert world.query("SELECT heard_us, retired_us FROM rf_node WHERE node_id = 'a'") == [(world.clock.us, None)]


def test_an_incarnation_that_is_not_known_is_not_heard_for_that_alone(world: World) -> None:
    beat(world, 5, number=world.clock.us + 5 * MINUTE)
    world.clock.us += 10 * MINUTE
    before = everything(world)
    other = heartbeat(world, 9, number=world.clock.us - 6 * MINUTE, incarnation="another")
    world.receive(encode_control(other), source_node="a")
    assert everything(world) == before


def test_the_numbers_rise_whatever_the_clock_does(world: World) -> None:
    node = world.node

    def said() -> Heartbeat:
        return own_heartbeat(node, lambda _: 0, 60.0)

    first = said()
    assert first.number == world.clock.us
    world.clock.us -= 5 * 60 * MINUTE
    second, third = said(), said()
    assert (second.number, third.number) == (first.number + 1, first.number + 2)
    assert second.at_us == world.clock.us
    world.clock.us += 6 * 60 * MINUTE
    assert said().number == world.clock.us


def test_a_silent_node(world: World) -> None:
    beat(world, 0)
    world.clock.us += 3 * MINUTE
    # Nothing was heard since, and nobody listened: that says nothing of the other one.
    assert not peer(world).is_silent
    listen(world)
    assert not peer(world).is_silent
    world.clock.us += MINUTE
    listen(world)
    assert [reason for reason in standing(world).attention if "a has been silent since" in reason]
    beat(world, 0)
    assert not peer(world).is_silent


@pytest.mark.parametrize(("seconds", "told_at_once"), [(3_600, True), (-3_600, False)])
def test_a_clock_that_is_off(world: World, seconds: int, told_at_once: bool) -> None:
    beat(world, 0, at=from_us(world.clock.us + MINUTE + seconds * 1_000_000))
    assert peer(world).clock_is_off == told_at_once
    beat(world, 0, at=from_us(world.clock.us + MINUTE + seconds * 1_000_000))
    assert peer(world).clock_is_off
    assert any("clock of a is 3,600 s" in reason for reason in standing(world).attention)
    ahead_us = world.clock.us + MINUTE + max(seconds, 0) * 1_000_000 + 7_200_000_000
    beat(world, 0, at=from_us(ahead_us), number=ahead_us)
    beat(world, 0, at=from_us(world.clock.us + MINUTE), number=ahead_us + 1)
    # Set right by hours: the next heartbeat seems older than the last, and counts all the same.
    assert not peer(world).clock_is_off


def test_a_backlog_of_heartbeats_is_no_clock(lite: World) -> None:
    now = lite.clock.us
    lite.clock.us += 100 * MINUTE
    for minutes in range(90):
        one = heartbeat(lite, 0, at=from_us(now + minutes * MINUTE))
        lite.receive(encode_control(one), source_node="a")
    assert not peer(lite).clock_is_off


def test_a_silent_node_may_be_one_whose_word_is_refused(lite: World) -> None:
    """Of signatures that are not taken the log alone tells."""
    beat(lite, 0)
    lite.clock.us += 10 * MINUTE
    listen(lite)
    node, refused = lite.node, "refused here (control_refused in the log)"
    assert refused not in peer(lite).silence
    for config in (
        node.config.model_copy(update={"signers": {"A": ("key",)}}),
        node.config.model_copy(update={"node": node.config.node.model_copy(update={"require_signed": True})}),
    ):
        (one,) = read_standing(node.database, config, node.facts, lite.clock.us, {}).peers
        assert refused in one.silence


def test_what_lay_somewhere_for_long_is_no_sign_of_life(lite: World) -> None:
    """A hub, or a queue, gives a node that was away what a dead one said last."""
    beat(lite, 0, number=lite.clock.us + MINUTE)
    heard_us = lite.clock.us
    lite.clock.us += 60 * MINUTE
    beat(lite, 0, number=heard_us + 5 * MINUTE, at=from_us(heard_us + 5 * MINUTE))
    listen(lite)
    assert peer(lite).heard_us == heard_us + 5 * MINUTE
    assert [reason for reason in standing(lite).attention if reason.startswith("a has been silent since")]
    # Another one with the same distance shows that it lives, and that its clock is behind.
    beat(lite, 0, number=heard_us + 6 * MINUTE, at=from_us(heard_us + 6 * MINUTE))
    assert peer(lite).heard_us == lite.clock.us
    assert not peer(lite).is_silent
    assert peer(lite).clock_is_off


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"schema_sha256": "0" * 64}, "different tables"), ({"policies_sha256": "0" * 64}, "different policies")],
)
def test_a_node_that_disagrees(lite: World, changes: dict[str, object], words: str) -> None:
    beat(lite, 0, **changes)
    assert [words in reason for reason in standing(lite).attention] == [True]
    beat(lite, 0)
    assert standing(lite).attention == []


def test_a_rewound_node(world: World, caplog: pytest.LogCaptureFixture) -> None:
    a = Origin("a")
    txs = [a.put(number, "x", number) for number in range(1, 6)]
    world.receive(*(tx.body for tx in txs))
    beat(world, 5, txs[4].tx_id)
    # The same log, given just before its last tx: overtaken, not rewound.
    before = from_us(tx_id_us(txs[4].tx_id))
    world.execute("UPDATE rf_node SET heartbeat_us = 0 WHERE node_id = 'a'")
    beat(world, 4, txs[3].tx_id, at=before)
    assert peer(world).rewound_us is None
    assert not [record for record in caplog.records if record.message == "node_rewound"]

    beat(world, 4, txs[3].tx_id)
    first_us = world.clock.us
    beat(world, 4, txs[3].tx_id)
    assert peer(world).rewound_us == first_us
    assert any("a was restored" in reason and "rejoin" in reason for reason in standing(world).attention)
    with reading(world.node.database) as connection:
        assert find_gaps(connection) == []
    # It went on: other changes under the same LSNs.
    other = Origin("b").put(9, "y", 9).tx_id
    beat(world, 5, other)
    assert peer(world).rewound_us == first_us
    beat(world, 5, txs[4].tx_id)
    assert peer(world).rewound_us is None
    beat(world, 0, None, incarnation="inc2")
    assert peer(world).rewound_us is None
    assert [record.message for record in caplog.records].count("node_rewound") == 1
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'rewound'") == 1


def test_who_speaks_for_another_is_not_believed(lite: World, caplog: pytest.LogCaptureFixture) -> None:
    lite.receive(encode_control(heartbeat(lite, 5)), source_node="b")
    assert standing(lite).peers == ()
    assert [record.message for record in caplog.records] == ["control_refused"]


def test_a_node_says_what_it_has(lite: World, caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    sinks: list[HandSink] = []

    def open_sink(_on_confirmed: object) -> HandSink:
        sinks.append(HandSink())
        sinks[-1].confirms_at_once = len(sinks) < 3
        return sinks[-1]

    node = lite.node
    cursors = Cursors(node.database, node.clock)
    logs = NodeLogs(node.database, node.facts)
    service = Announcing(node, open_sink, cursors, monotonic=lambda: now)

    def said() -> list[Heartbeat]:
        lines = [line for sink in sinks for one in sink.sent for line in control_lines(one.body) or ()]
        return [line for line in lines if isinstance(line, Heartbeat)]

    assert not service.step(0)
    assert said() == []
    lite.execute("INSERT INTO item VALUES (1, 'x', 1)")
    node.database.sealer(node.facts).seal()
    head = logs.of(node.facts.incarnation).head()
    now = 10.0
    assert not service.step(0)
    (first,) = said()
    assert (first.source_node, first.incarnation) == (node.facts.node_id, node.facts.incarnation)
    assert (first.head_lsn, first.head_tx_id, first.sent_lsn, first.at_us) == (1, head.tx_id, 0, lite.clock.us)
    agreed = agreement(node.config, node.captured_tables().values())
    assert (first.schema_sha256, first.policies_sha256) == (agreed.schema_sha256, agreed.policies_sha256)
    cursors.save("broker", node.facts.incarnation, 1)
    now = 69.0
    service.step(0)
    assert len(said()) == 1
    now = 71.0
    service.step(0)
    assert [one.sent_lsn for one in said()] == [0, 1]
    # A broker that is away costs nothing but this one heartbeat.
    now = 200.0
    with caplog.at_level(logging.INFO):
        service.step(0)
    assert "heartbeat.not_sent" in [record.message for record in caplog.records]
    assert all(sink.closed for sink in sinks)


def test_a_node_that_only_a_schedule_runs_says_so_each_hour(lite: World) -> None:
    """Else the others keep their log for it to the last day, and then tell that they did not wait for it."""
    sinks: list[HandSink] = []

    def open_sink(_on_confirmed: object) -> HandSink:
        sinks.append(HandSink())
        sinks[-1].confirms_at_once = True
        return sinks[-1]

    def run_once() -> list[float]:
        """How often it says that it says something, of all that was said."""
        service = Announcing(lite.node, open_sink, Cursors(lite.node.database, lite.node.clock))
        assert Supervisor([service], threading.Event()).run_once().drained
        lines = [line for sink in sinks for one in sink.sent for line in control_lines(one.body) or ()]
        return [line.every_seconds for line in lines if isinstance(line, Heartbeat)]

    lite.execute(f"UPDATE rf_node SET first_seen_us = {lite.clock.us} WHERE is_self")
    lite.clock.pass_seconds(3_599)
    assert run_once() == []
    lite.clock.pass_seconds(1)
    assert run_once() == [NOBODY_KNOWS_SECONDS]
    lite.clock.pass_seconds(3_500)
    assert len(run_once()) == 1
    lite.clock.pass_seconds(100)
    assert len(run_once()) == 2
    # A clock that was a year ahead is set right.
    lite.execute(f"UPDATE rf_node SET heartbeat_us = {lite.clock.us + 365 * 86_400_000_000} WHERE is_self")
    assert len(run_once()) == 3


def heard_of(world: World) -> tuple[str, int]:
    (row,) = world.query("SELECT incarnation, last_seen_us FROM rf_node WHERE node_id = 'a'")
    return row[0], row[1]


def test_a_batch_that_was_here_before_is_no_sign_of_life(world: World) -> None:
    """Whoever kept it may bring it again, signed as it is."""
    a = Origin("a")
    old, unknown = a.put(1, "one", 10).body, resealed(a.put(3, "x", 30).body, b'"item"', b'"nowhere"')
    world.receive(old, unknown)
    world.receive(Origin("a", "inc2", made=a.made).put(2, "two", 20).body)
    before = heard_of(world)
    assert before == ("inc2", world.clock.us)
    world.clock.pass_seconds(3_600)
    for body in (old, unknown):
        world.receive(body)
        assert heard_of(world) == before


def test_a_batch_of_a_log_that_has_ended_does_not_bring_its_incarnation_back(world: World) -> None:
    a = Origin("a")
    first, late = a.put(1, "one", 10).body, a.put(2, "two", 20).body
    world.receive(first)
    world.receive(Origin("a", "inc2", made=a.made).put(3, "three", 30).body)
    world.receive(late)
    assert [row[1] for row in world.rows()] == ["one", "two", "three"]
    assert heard_of(world)[0] == "inc2"


def test_what_is_only_said_keeps_nobody_from_being_drained(lite: World) -> None:
    """`run --once` ends with a quiet round; the heartbeats of a fleet never end."""
    intake = lite.intake()
    intake.step(0)
    lite.source.put(encode_control(heartbeat(lite, 3)), source_node="a")
    assert intake.step(0) is False
    assert peer(lite).node == "a"
    lite.source.put(Origin("a").put(1, "one", 10).body, encode_control(heartbeat(lite, 3)))
    assert intake.step(0) is True


def test_made_up_names_fill_nothing_and_keep_no_peer_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = open_world(sqlite_url(tmp_path), peers={"named": {"url": "http://127.0.0.1:9"}})
    try:
        beat(world, 1)
        world.execute(
            "INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us)"
            " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9998)"
            " SELECT 'made-up-' || i, 'branch', 'x', 0, 1, 1 FROM n"
        )
        with caplog.at_level(logging.INFO):
            for name in ("one-more", "another", "named"):
                beat(world, 1, source_node=name)
            beat(world, 2)
        (told,) = (record for record in caplog.records if record.message == "heartbeat_refused")
        assert "verify_user" in str(told.__dict__["remedy"])
        names = {row[0] for row in world.query("SELECT node_id FROM rf_node")}
        assert ("one-more" in names, "another" in names, "named" in names) == (False, False, True)
        assert world.query("SELECT head_lsn FROM rf_node WHERE node_id = 'a'") == [(2,)]
    finally:
        close_world(world)


@pytest.mark.parametrize("way", ["plain", "long"])
def test_batches_of_made_up_nodes_fill_nothing_either(
    world: World, way: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are applied, for they were believed: by a token of scope `forward` somebody speaks for any node."""
    if way == "long":
        only_the_long_way(monkeypatch)
    # What another test was told a moment ago is told here again.
    monkeypatch.setattr(heard, "_seldom", Seldom(heard.log))
    fields = "INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us)"
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9998)"
    world.execute(f"{numbers} {fields} SELECT 'made-up-' || i, 'branch', 'x', FALSE, 1, 1 FROM n")
    bodies = [Origin(f"new-{number}").put(number, "one", 10).body for number in range(1, 4)]
    with caplog.at_level(logging.INFO):
        for body in bodies:
            world.receive(body)
    assert world.query("SELECT node_id FROM rf_node WHERE node_id >= 'new-' AND node_id < 'new0'") == [("new-1",)]
    assert [row[0] for row in world.rows()] == [1, 2, 3]
    told = [record for record in caplog.records if record.message == "node_not_noted"]
    assert len(told) == 1, "once a minute"
    with reading(world.node.database) as connection:
        assert is_full(connection)
