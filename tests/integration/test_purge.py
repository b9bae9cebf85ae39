"""Purging: what is old goes, what somebody needs stays, and nothing that went comes back as another thing."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from common.clock import from_us
from common.errors import UsageError
from common.ops.ages import DAY_US
from common.ops.agreement import agreement
from common.ops.incarnation import renew_incarnation
from common.ops.nodes import Nodes
from common.ops.passed import note_passed
from common.ports.retention import Purged
from common.versions import NEVER, Version
from common.wire.control import Heartbeat, encode_control
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.purge import purge_received
from consumer.statements import writing
from consumer.tombstones import purge_tombstones
from producer.cursors import Cursors
from producer.purge import purge_log
from tests.support.applying import Origin, World, Write, item, seal_all, tx_id_of, world_on

OLD = Version(0, 20, "a")


def beat(world: World, origin: Origin, passed: tuple[tuple[str, str, int], ...] | None = ()) -> None:
    """Let a minute pass, and a heartbeat of `origin` come."""
    world.clock.us += 60_000_000
    agreed = agreement(world.node.config, world.node.captured_tables().values())
    one = Heartbeat(
        source_node=origin.node_id,
        incarnation=origin.incarnation,
        head_lsn=origin.lsn,
        head_tx_id=tx_id_of(origin.node_id, origin.made) if origin.made else None,
        sent_lsn=origin.lsn,
        every_seconds=60.0,
        at=from_us(world.clock.us),
        release="1.0",
        features=(),
        schema_sha256=agreed.schema_sha256,
        policies_sha256=agreed.policies_sha256,
        passed=passed,
    )
    world.receive(encode_control(one), source_node=origin.node_id)


def purge(world: World, **options: Any) -> dict[str, Purged]:
    found = [*purge_received(world.node, actor="test", **options), purge_log(world.node, actor="test", **options)]
    return {one.what: one for one in found}


def deleted_and_forgotten(world: World) -> Origin:
    """Row 1 of `item` was deleted by node a at 20, and nobody here knows of it any more."""
    a = Origin("a")
    world.receive(a.put(1, "x", 10).body, a.put(1, "x", 20, Version(0, 10, "a"), "D").body)
    beat(world, a)
    assert purge(world)["tombstones"].rows == 1
    assert world.query("SELECT hlc, node_id FROM rf_horizon") == [(20, "a")]
    assert world.one("SELECT count(*) FROM rf_row_version") == 0
    return a


def test_an_older_change_never_brings_a_row_back(world: World) -> None:
    deleted_and_forgotten(world)
    b, c, d = Origin("b"), Origin("c"), Origin("d")
    base = Version(0, 10, "a")
    txs = [b.put(1, "y", 15), c.put(1, "z", 19, base, "U"), d.put(1, "z", 18, base, "D")]
    for tx in txs:
        world.receive(tx.body)
    assert world.rows() == []
    letters = sorted((tx.tx_id, "older-than-tombstones", "dead") for tx in txs)
    assert world.letters() == letters
    DeadLetters(world.node).replay(Selection(), Replay("test"), lambda _: None)
    assert (world.rows(), world.letters()) == ([], letters)
    # Once something later is known of the row they are late as they would have been, and end.
    world.receive(Origin("e").put(1, "z", 21, Version(0, 20, "a"), "D").body)
    DeadLetters(world.node).replay(Selection(), Replay("test"), lambda _: None)
    assert (world.rows(), world.letters_open()) == ([], [])


def test_the_rest_of_a_group_is_applied(world: World) -> None:
    deleted_and_forgotten(world)
    b = Origin("b")
    txs = [b.put(2, "two", 30), b.put(1, "y", 15), b.put(3, "three", 31)]
    world.receive(b"".join(tx.body for tx in txs))
    assert [row[0] for row in world.rows()] == [2, 3]
    assert [letter[0] for letter in world.letters()] == [txs[1].tx_id]
    assert world.watermark("b") == 3


def test_newer_changes_make_the_row_anew(world: World) -> None:
    deleted_and_forgotten(world)
    b = Origin("b")
    world.receive(b.put(1, "new", 21).body, b.put(1, "older", 12).body)
    assert [row[:2] for row in world.rows()] == [(1, "new")]
    assert world.letters() == []


def test_a_row_from_before_migrate_is_no_deleted_one(world: World) -> None:
    deleted_and_forgotten(world)
    # Capture is off while it is written, so nothing is known of it but that it is there.
    world.node.capture().uninstall()
    world.execute("INSERT INTO item VALUES (7, 'old', 1)")
    world.receive(Origin("b").put(7, "y", 15, NEVER, "U").body)
    assert [row[:2] for row in world.rows()] == [(7, "y")]
    assert world.letters() == []


def test_a_tx_in_parts_is_held_to_it_too(world: World) -> None:
    deleted_and_forgotten(world)
    b = Origin("b")
    tx = b.tx(*(item(number, "n" * 400, 15) for number in range(1, 30)))
    parts = tx.parts(4096)
    assert len(parts) > 1
    world.receive(*parts)
    assert world.rows() == []
    assert world.letters() == [(tx.tx_id, "older-than-tombstones", "dead")]


def test_a_choice_is_held_to_it_too(world: World) -> None:
    deleted_and_forgotten(world)
    b = Origin("b")
    choice = item(1, "chosen", 16, Version(0, 15, "c"), "U")
    world.receive(b.tx(replace(choice, resolves=(Version(0, 10, "a"), Version(0, 15, "c")))).body)
    assert world.rows() == []
    assert [reason for _, reason, _ in world.letters()] == ["older-than-tombstones"]


def test_a_tombstone_waits_for_its_age_and_for_everybody(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    young = world.clock.us
    world.receive(a.put(1, "x", 10).body, a.put(1, "x", 20, Version(0, 10, "a"), "D").body)
    world.receive(a.put(2, "x", young).body, a.put(2, "x", young + 1, Version(0, young, "a"), "D").body)
    world.receive(b.put(3, "x", 30).body)
    beat(world, a, (("b", "inc1", 1),))
    beat(world, b, None)
    assert purge(world)["tombstones"].waits == ("b has never said how far it is",)
    beat(world, b, (("a", "inc1", 3),))
    assert purge(world)["tombstones"].waits == ("b has not passed LSN 4 of a",)
    # It has passed them, and had written one more before it had.
    late = b.put(4, "x", 31)
    beat(world, b, (("a", "inc1", 4),))
    assert "has not come yet" in purge(world)["tombstones"].waits[0]
    assert world.one("SELECT count(*) FROM rf_row_version WHERE deleted") == 2
    world.receive(late.body)
    assert purge(world, dry_run=True)["tombstones"].rows == 1
    assert purge(world)["tombstones"].rows == 1
    assert world.one("SELECT count(*) FROM rf_row_version WHERE deleted") == 1
    assert world.query("SELECT hlc FROM rf_horizon") == [(20,)]
    assert purge(world)["tombstones"].rows == 0
    assert world.one("SELECT count(*) FROM rf_purge_round") == 0


def test_a_tombstone_waits_for_who_lacks_the_end_of_an_earlier_own_log(sender: World) -> None:
    """The node began anew (put back, moved to another server) while b was away: b may still send something older."""
    before = sender.node.facts
    sender.execute("DELETE FROM item WHERE id = 3")
    seal_all(sender)
    b = Origin("b")
    sender.receive(b.put(9, "x", 1).body)
    beat(sender, b, ((before.node_id, before.incarnation, 3),))
    facts = renew_incarnation(sender.node.database, before, sender.clock, "put back")
    anew = replace(sender.node, facts=facts)
    sender.clock.us += 91 * DAY_US
    assert purge_tombstones(anew).waits == (f"b has not passed LSN 4 of {before.node_id}",)
    late = b.put(3, "older", 2)
    sender.receive(late.body)
    assert (sender.letters(), [row[0] for row in sender.rows()]) == ([], [1, 2, 9])
    beat(sender, b, ((before.node_id, before.incarnation, 4),))
    assert purge_tombstones(anew).rows == 1


def test_one_that_is_written_again_meanwhile_stays(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "x", 10).body, a.put(1, "x", 20, Version(0, 10, "a"), "D").body)
    world.receive(b.put(3, "x", 30).body)
    purge(world)
    young = world.clock.us
    world.receive(b.put(1, "again", young, OLD).body)
    beat(world, a, (("b", "inc1", 2),))
    beat(world, b, (("a", "inc1", 2),))
    assert purge(world)["tombstones"].rows == 0
    assert world.query("SELECT * FROM rf_horizon") == []
    assert [row[:2] for row in world.rows()] == [(1, "again"), (3, "x")]


def test_a_retired_peer_does_not_count_until_it_speaks_again(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "x", 10).body, a.put(1, "x", 20, Version(0, 10, "a"), "D").body, b.put(3, "x", 30).body)
    late = b.put(4, "x", 31)
    beat(world, a, (("b", "inc1", 1),))
    assert purge(world)["tombstones"].rows == 0
    nodes = Nodes(world.node.database, world.node.config, world.node.facts, world.clock)
    with pytest.raises(UsageError, match="this node itself"):
        nodes.retire("here", "test")
    with pytest.raises(UsageError, match="no such node"):
        nodes.retire("nobody", "test")
    assert nodes.retire("b", "test").already is False
    assert nodes.retire("b", "test").already is True
    assert {one.node: one.state.value for one in nodes.known()} == {"here": "this node", "a": "heard", "b": "retired"}
    assert purge(world)["tombstones"].rows == 1
    # What it had written before is applied, and changes nothing.
    world.receive(late.body)
    assert {one.node: one.state.value for one in nodes.known()}["b"] == "retired"
    beat(world, b)
    assert {one.node: one.state.value for one in nodes.known()}["b"] == "returned"
    assert world.query("SELECT source_node FROM rf_audit WHERE action = 'node-returned'") == [("b",)]
    assert [row[0] for row in world.rows()] == [3, 4]


def test_a_peer_that_only_the_configuration_names_counts(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    request.param = "sqlite"
    with world_on(request, tmp_path, peers={"main": {"url": "http://127.0.0.1:1"}}) as world:
        a = Origin("a")
        world.receive(a.put(1, "x", 10).body, a.put(1, "x", 20, Version(0, 10, "a"), "D").body)
        beat(world, a)
        assert purge(world)["tombstones"].waits == ("main has never said how far it is",)
        nodes = Nodes(world.node.database, world.node.config, world.node.facts, world.clock)
        assert {one.node: one.state.value for one in nodes.known()}["main"] == "never heard"
        nodes.retire("main", "test")
        assert purge(world)["tombstones"].rows == 1


@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)])
def test_what_main_has_deleted_in_its_tables_is_remembered(
    request: pytest.FixtureRequest, tmp_path: Path, database: str
) -> None:
    request.param = database
    policy = {"item": "main-wins", "code": "manual"}
    with world_on(request, tmp_path, tables={"policy": policy}) as world:
        main = Origin("m")
        world.execute("UPDATE rf_node SET role = 'branch'")

        gone = replace(item(1, "x", 20, Version(1, 10, "m"), "D"), epoch=2)
        world.receive(main.tx(replace(item(1, "x", 10), epoch=1)).body, main.tx(gone).body)
        code = Write("I", "code", {"id": 1, "code": "c"}, 10), Write("D", "code", {"id": 1, "code": "c"}, 11)
        world.receive(main.tx(code[0]).body, main.tx(replace(code[1], base=Version(0, 10, "m"))).body)
        assert world.letters() == []
        beat(world, main)
        purged = purge(world)["tombstones"]
        assert (purged.rows, purged.waits) == (0, ("2 of main-wins and manual tables are kept for good",))


def test_what_was_applied_is_known_by_its_place_once_its_name_is_gone(world: World) -> None:
    a = Origin("a")
    txs = [a.put(number, "x", number) for number in range(1, 6)]
    world.receive(*(tx.body for tx in txs[:3]), txs[4].body)
    world.clock.us += 100 * DAY_US
    beat(world, a)
    purged = purge(world)
    # Below the watermark all but the last; above it, beyond the gap, none.
    assert purged["dedup"].rows == 2
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 2
    before = world.rows()
    world.receive(*(tx.body for tx in txs))
    assert (world.letters(), world.watermark("a"), len(world.rows())) == ([], 5, 5)
    assert [row for row in world.rows() if row[0] != 4] == before
    rewound = Origin("a", lsn=1, made=900)
    world.receive(rewound.put(9, "forked", 50).body)
    assert [(reason, state) for _, reason, state in world.letters()] == [("forked", "forked")]


def test_a_conflict_that_waits_stays_and_the_rest_is_on_record(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "x", 10).body, b.put(1, "y", 11).body, a.put(2, "x", 12).body, b.put(2, "y", 13).body)
    world.receive(a.put(3, "x", 14).body, b.put(3, "y", 15).body)
    world.execute("UPDATE rf_conflict SET state = 'waiting' WHERE id = 1")
    assert purge(world)["conflicts"].rows == 0
    world.clock.us += 400 * DAY_US
    assert purge(world, dry_run=True)["conflicts"].rows == 1
    assert world.one("SELECT count(*) FROM rf_conflict") == 3
    purged = purge(world)
    assert (purged["conflicts"].rows, purged["audit"].rows > 0) == (1, True)
    # The last one stays, so that its number is not given again: audit and links mean one conflict for good.
    assert world.query("SELECT id FROM rf_conflict ORDER BY id") == [(1,), (3,)]
    assert {what for (what,) in world.query("SELECT what FROM rf_purged")} >= {"conflicts", "audit"}
    ((detail,),) = world.query("SELECT detail FROM rf_audit WHERE action = 'purged'")
    assert json.loads(detail)["conflicts"] == 1
    world.execute("UPDATE rf_conflict SET state = 'settled'")
    world.clock.us += DAY_US
    purge(world)
    world.receive(a.put(4, "x", 16).body, b.put(4, "y", 17).body)
    assert world.query("SELECT id FROM rf_conflict ORDER BY id") == [(3,), (4,)]


def test_a_settled_letter_goes_and_an_open_one_stays(world: World) -> None:
    a = Origin("a")
    txs = [a.tx(Write("I", "nowhere", {"id": key}, 10 + key)) for key in range(1, 4)]
    world.receive(*(tx.body for tx in txs), b"torn")
    letters = DeadLetters(world.node)
    torn = next(tx_id for tx_id, reason, _ in world.letters() if reason != "unknown-table")
    letters.discard(Selection(tx_ids=(txs[0].tx_id, torn)), "no such table", "test")
    assert purge(world)["dead-letters"].rows == 0
    world.clock.us += 400 * DAY_US
    assert purge(world, dry_run=True)["dead-letters"].rows == 2
    assert purge(world)["dead-letters"].rows == 2
    assert sorted(world.letters()) == sorted((tx.tx_id, "unknown-table", "dead") for tx in txs[1:])
    # Who sends it again is not heard again: by its place it is a duplicate.
    world.receive(txs[0].body)
    assert len(world.letters()) == 2


def test_a_settled_letter_above_the_watermark_is_still_known(world: World) -> None:
    a = Origin("a")
    a.put(1, "x", 10)
    late = a.tx(Write("I", "nowhere", {"id": 2}, 20))
    world.receive(late.body)
    DeadLetters(world.node).discard(Selection(), "no such table", "test")
    world.clock.us += 400 * DAY_US
    assert purge(world)["dead-letters"].rows == 0
    world.receive(late.body)
    assert world.letters() == [(late.tx_id, "unknown-table", "discarded")]


def logged(world: World, after: int = 0) -> list[int]:
    return [tx.header.to_lsn for tx in world.node.database.log(world.node.facts).read(after, 2**30)]


def lines_left(world: World) -> int:
    return int(world.one("SELECT count(*) FROM rf_change_log"))


def test_the_log_waits_for_its_sinks_and_its_peers(sender: World) -> None:
    facts = sender.node.facts
    assert purge(sender)["log"].rows == 0
    sender.clock.us += 40 * DAY_US
    assert purge(sender)["log"].waits == ("the directory has it up to LSN 0",)
    Cursors(sender.node.database, sender.clock).save("directory", facts.incarnation, 2)
    assert purge(sender, dry_run=True)["log"].rows == 2
    assert logged(sender) == [1, 2, 3]
    a = Origin("a")
    sender.receive(a.put(9, "x", 1).body)
    assert purge(sender)["log"].rows == 0
    writing(
        sender.node.database,
        lambda one: note_passed(one, "a", {(facts.node_id, facts.incarnation): 2}, sender.clock.us),
    )
    purged = purge(sender)["log"]
    assert (purged.rows, purged.overridden) == (2, ())
    assert (logged(sender), lines_left(sender)) == ([3], 1)
    # Sealing goes on where it was.
    sender.execute("INSERT INTO item VALUES (4, 'x', 1)")
    seal_all(sender)
    assert logged(sender) == [3, 4]


def test_past_its_greatest_age_the_log_goes_and_that_is_said(sender: World) -> None:
    sender.clock.us += 91 * DAY_US
    sender.execute("INSERT INTO item VALUES (4, 'unsealed', 1)")
    purged = purge(sender)["log"]
    assert purged.rows == 3
    assert "the directory had it up to LSN 0" in purged.overridden[0]
    assert sender.query("SELECT name, until_lsn FROM rf_purged WHERE what = 'log-not-taken'") == [("the directory", 3)]
    seal_all(sender)
    assert logged(sender) == [4]
    assert sender.node.database.log(sender.node.facts).head().lsn == 4


def test_lines_that_a_killed_purge_left_go_with_the_next(sender: World) -> None:
    sender.clock.us += 91 * DAY_US
    sender.execute("DELETE FROM rf_tx WHERE to_lsn <= 2")
    sender.execute(
        "INSERT INTO rf_purged (what, name, until_lsn, purged_us, rows)"
        f" VALUES ('log', '{sender.node.facts.incarnation}', 2, 1, 2)"
    )
    assert logged(sender) == [3]
    purge(sender)
    assert lines_left(sender) == 0
    if sender.node.database.features.name == "postgresql":
        assert sender.query("SELECT count(*) FROM rf_sealed") == [(0,)]


def test_in_whatever_order_no_row_rises(world: World) -> None:
    """Late changes of three nodes in random order around a purge: a row is there only if nothing later deleted it."""
    dice = random.Random(7)
    for round_ in range(12):
        key = 100 + round_
        origins = {name: Origin(f"{name}{round_}") for name in "abc"}
        writes: list[tuple[int, str, Any]] = []
        hlc = 1_000 * (round_ + 1)
        for _ in range(6):
            name = dice.choice("abc")
            hlc += dice.randint(1, 5)
            op = dice.choice("IID")
            base = Version(0, writes[-1][0], origins[writes[-1][1]].node_id) if writes and dice.random() < 0.5 else None
            writes.append((hlc, name, origins[name].put(key, f"{name}{hlc}", hlc, base, op)))
        cut = dice.randint(1, len(writes))
        first, late = dice.sample(writes, cut), writes
        for *_, tx in first:
            world.receive(tx.body)
        for origin in origins.values():
            passed = {(other.node_id, "inc1"): 99 for other in origins.values()} | {(origin.node_id, "inc1"): 0}
            writing(
                world.node.database,
                partial(note_passed, peer=origin.node_id, passed=passed, now_us=world.clock.us),
            )
        purge_tombstones(world.node)
        for *_, tx in dice.sample(late, len(late)):
            world.receive(tx.body)
        stands = [row[1] for row in world.rows() if row[0] == key]
        last = max(writes, key=lambda one: one[0])
        expected = [] if last[2].writes[0].op == "D" else [f"{last[1]}{last[0]}"]
        # A later delete may have been set aside with the rest of what is old; a row that it deleted never stands.
        assert stands in (expected, []), f"round {round_}"
        if expected and not stands:
            assert world.letters_open(), f"round {round_}"
    assert world.one("SELECT count(*) FROM rf_horizon") == 1
