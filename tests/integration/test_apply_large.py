"""Txs far larger than a message: whole or not at all, and in bounded memory."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from common.errors import OutageError
from common.versions import Version
from common.wire.decode import read_body
from common.wire.records import Part
from consumer.attempts import MOST_ATTEMPTS
from consumer.gaps import find_gaps
from consumer.inbox import Inbox
from consumer.intake import Intake
from consumer.purge import purge_received
from consumer.statements import reading
from tests.support.applying import MemorySource, Origin, World, Write, item, resealed
from tests.support.applying_child import run_child, take_huge

LARGE = [item(number, "x" * 800, number) for number in range(1, 9_000)]
MOST_MEBIBYTES = 160
"""What a process may grow by. The 300,000 rows weigh about 100 MiB as lines, the value twice 20 MiB."""


@pytest.mark.heavy
def test_three_hundred_thousand_rows_in_bounded_memory(world: World, tmp_path: Path) -> None:
    report = tmp_path / "grown"
    assert run_child(take_huge, world.node.config.node.database, 300_000, 40, str(report)) == 0
    assert world.one("SELECT count(*) FROM item") == 300_000
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 1
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0
    assert int(report.read_text()) < MOST_MEBIBYTES


def test_a_value_of_twenty_megabytes_travels_in_chunks(world: World) -> None:
    text = "".join(chr(97 + number % 26) for number in range(1000)) * 20_000
    parts = Origin("a").put(1, text, 10).parts()
    assert len(parts) > 5
    world.receive(*parts)
    assert world.one("SELECT name FROM item WHERE id = 1") == text


def test_parts_in_any_order_twice_and_by_several_deliveries(world: World) -> None:
    tx = Origin("a").tx(*(item(number, "x" * 400, number) for number in range(1, 60)))
    parts = tx.parts(4096)
    for part in (*reversed(parts[1:]), *parts[1:]):
        world.receive(part)
    assert world.rows() == []
    assert world.watermark("a") == 0
    world.receive(parts[0])
    assert len(world.rows()) == 59
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0
    world.receive(*parts)
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0
    assert world.one("SELECT count(*) FROM rf_audit") == 1


def test_parts_whose_rest_does_not_come_are_given_up_and_lose_nothing(world: World) -> None:
    """Once their source has gone on: a hundred of them kept its large txs out. What is missing is known as before."""
    origin = Origin("a")
    large = origin.tx(*(item(number, "x" * 400, number) for number in range(1, 30)))
    parts = large.parts(4096)
    world.receive(*parts[:2])
    world.receive(origin.put(100, "right after", 100).body)
    world.clock.pass_seconds(8 * 86_400)
    given_up = partial(purge_received, world.node, actor="tester")
    assert {one.what: one.rows for one in given_up()}["parts"] == 0, "the source is silent: its rest may wait somewhere"
    world.receive(origin.put(101, "a week later", 101).body)
    assert {one.what: one.rows for one in given_up()}["parts"] == 0, "this may have come first, by another road"
    world.clock.pass_seconds(8 * 86_400)
    world.receive(parts[1])
    assert {one.what: one.rows for one in given_up()}["parts"] == 0, "they are being sent again"
    world.clock.pass_seconds(8 * 86_400)
    assert {one.what: one.rows for one in given_up()}["parts"] == 0, "nothing followed since"
    world.receive(origin.put(102, "another week later", 102).body)
    world.clock.pass_seconds(8 * 86_400)
    assert {one.what: one.rows for one in given_up(dry_run=True)}["parts"] == 2
    with reading(world.node.database) as connection:
        before = find_gaps(connection)
    assert {one.what: one.rows for one in given_up()}["parts"] == 2
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0
    with reading(world.node.database) as connection:
        assert find_gaps(connection) == before != []
    # It comes again, as it was asked for.
    world.receive(*parts)
    assert (len(world.rows()), world.watermark("a")) == (32, 32)


def test_parts_that_still_come_or_are_whole_stay(world: World) -> None:
    origin = Origin("a")
    slow, whole = (origin.tx(*(item(number, text * 400, number) for number in range(1, 30))) for text in "xy")
    world.receive(slow.parts(4096)[0])
    for part in whole.parts(4096):
        (read,) = read_body(part)
        assert isinstance(read, Part)
        # Its process died before it took the tx up.
        Inbox(world.node).take(read, "test")
    world.clock.pass_seconds(6 * 86_400)
    world.receive(slow.parts(4096)[1])
    world.clock.pass_seconds(6 * 86_400)
    world.receive(origin.put(101, "gone on", 101).body)
    world.clock.pass_seconds(86_400 // 2)
    stored = world.one("SELECT count(*) FROM rf_tx_part")
    assert {one.what: one.rows for one in purge_received(world.node, actor="tester")}["parts"] == 0
    assert world.one("SELECT count(*) FROM rf_tx_part") == stored


def test_parts_of_what_was_applied_long_ago_do_not_wait_for_more(world: World) -> None:
    """Its name is purged, its place tells. A hundred of them kept every large tx of their source out for good."""
    origin = Origin("a")
    old, later = (origin.tx(*(item(number, text * 400, number) for number in range(1, 30))) for text in "xy")
    world.receive(*old.parts(4096), *later.parts(4096))
    rows = world.rows()
    world.execute(f"DELETE FROM rf_applied_tx WHERE tx_id = '{old.tx_id}'")
    world.receive(old.parts(4096)[0])
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0
    world.receive(*old.parts(4096))
    assert (world.letters(), world.rows()) == ([], rows)
    # One of a fork is none of them.
    forked = Origin("a", made=900).tx(*(item(number, "z" * 400, number) for number in range(1, 30)))
    world.receive(*forked.parts(4096))
    assert [reason for _, reason, _ in world.letters()] == ["forked"]


def test_parts_of_two_contents_are_not_mixed(world: World) -> None:
    one = Origin("a").tx(*(item(number, "x" * 400, number) for number in range(1, 30)))
    other = Origin("a").tx(*(item(number, "y" * 400, number) for number in range(1, 30)))
    world.receive(*one.parts(4096)[:2], other.parts(4096)[2])
    assert [reason for _, reason, _ in world.letters()] == ["content"]
    world.receive(*one.parts(4096)[2:])
    assert len(world.rows()) == 29


def test_a_tx_that_was_cut_anew_takes_the_place_of_what_came_before(world: World) -> None:
    """Its source was given another `max_batch_bytes` before all parts were out, and begins again."""
    tx = Origin("a").tx(*(item(number, "x" * 400, number) for number in range(1, 60)))
    first, shorter = tx.parts(8756), tx.parts(4352)
    # As many parts, of other sizes: nothing in a header tells the two cuts apart.
    shifted = tx.parts(9556)
    assert len(first) == len(shifted) < len(shorter)
    assert first[1] != shifted[1]
    world.receive(*first[:3], *shorter[:2], *first[:2])
    assert world.rows() == []
    world.receive(*shifted)
    assert len(world.rows()) == 59
    assert world.letters() == []
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0


def test_parts_of_a_tx_that_came_in_one_piece_after_all_are_let_go(world: World) -> None:
    tx = Origin("a").tx(*(item(number, "x" * 400, number) for number in range(1, 30)))
    world.receive(tx.parts(4096)[0], tx.body)
    assert len(world.rows()) == 29
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0


def test_a_part_that_does_not_fit_the_whole_is_noticed_before_the_commit(world: World) -> None:
    """Each part's own checksum is right; only `tx_sha256` tells that one is not of this tx."""
    tx = Origin("a").tx(*(item(number, "x" * 400, number) for number in range(1, 30)))
    lie = Origin("a").tx(*(item(number, "y" * 400, number) for number in range(1, 30)))
    parts, lies = tx.parts(4096), lie.parts(4096)
    header = parts[1].split(b"\n")[0]
    sha = header[header.index(b'"tx_sha256":"') + 13 :][:64]
    forged_header = lies[1].split(b"\n")[0]
    old = forged_header[forged_header.index(b'"tx_sha256":"') + 13 :][:64]
    world.receive(parts[0], resealed(lies[1], old, sha), *parts[2:])
    assert [reason for _, reason, _ in world.letters()] == ["checksum"]
    assert world.rows() == []


def test_foreign_keys_across_slices(world: World) -> None:
    a = Origin("a")
    children = [Write("I", "child", {"id": number, "parent_id": 7}, number) for number in range(1, 6_000)]
    parent = Write("I", "parent", {"id": 7, "name": "p"}, 9_000)
    world.receive(*a.tx(*children, parent).parts(100_000))
    assert world.one("SELECT count(*) FROM child") == 5_999
    orphan = a.tx(*children[:50], Write("I", "child", {"id": 9_999, "parent_id": 8}, 9_001))
    world.receive(*orphan.parts(4096))
    assert [(reason, state) for _, reason, state in world.letters()] == [("foreign-key", "early")]
    world.receive(Origin("b").tx(Write("I", "parent", {"id": 8, "name": "q"}, 9_500)).body)
    assert world.one("SELECT count(*) FROM child") == 6_000
    assert world.one("SELECT count(*) FROM rf_tx_part") == 0


def test_what_a_large_tx_takes_from_under_children_is_put_right(world: World) -> None:
    """The parent's table names no other table: it is the children's that do."""
    a, b = Origin("a"), Origin("b")
    parents = [Write("I", "parent", {"id": number, "name": "p" * 200}, number) for number in range(1, 100)]
    world.receive(a.tx(*parents).body)
    world.receive(b.tx(Write("I", "child", {"id": 1, "parent_id": 50}, 500)).body)
    gone = [
        replace(one, op="D", hlc=1_000 + number, base=Version(0, number, "a")) for number, one in enumerate(parents, 1)
    ]
    world.receive(*a.tx(*gone).parts(8192))
    children = "SELECT count(*) FROM child c WHERE NOT EXISTS (SELECT 1 FROM parent p WHERE p.id = c.parent_id)"
    assert world.one(children) == 0
    assert world.one("SELECT count(*) FROM parent") <= 1


def test_own_writes_that_are_not_sealed_are_not_overwritten_by_a_large_tx(world: World) -> None:
    a = Origin("a")
    first = [item(number, "one", number) for number in range(1, 100)]
    world.receive(a.tx(*first).body)
    world.execute("UPDATE item SET name = 'mine' WHERE id = 50")
    again = [item(number, "x" * 400, 1_000 + number, Version(0, number, "a"), "U") for number in range(1, 100)]
    world.receive(*a.tx(*again).parts(8192))
    # The own write was made now, long after 1970: it beats theirs, and that is a conflict on record.
    assert world.query("SELECT id FROM item WHERE name = 'mine'") == [(50,)]
    assert world.one("SELECT count(*) FROM item WHERE name > 'xx'") == 98
    assert world.query("SELECT winner FROM rf_conflict") == [("ours",)]


def test_a_row_written_twice_in_a_large_tx_ends_as_its_last_write(world: World) -> None:
    a = Origin("a")
    first = [item(number, "x" * 50, number) for number in range(1, 6_000)]
    again = [item(number, "y", 10_000 + number, Version(0, number, "a"), "U") for number in range(1, 6_000, 100)]
    gone = [item(number, "x" * 50, 20_000 + number, Version(0, number, "a"), "D") for number in range(2, 6_000, 100)]
    world.receive(*a.tx(*first, *again, *gone).parts(100_000))
    assert world.one("SELECT count(*) FROM item WHERE name = 'y'") == 60
    assert world.one("SELECT count(*) FROM item") == 5_999 - 60


def test_who_is_main_is_not_asked_of_a_database_that_this_tx_keeps_locked(world: World) -> None:
    """SQLite lets nobody read any more once a transaction has written more than its cache holds."""
    tx = Origin("hq").tx(*LARGE, replace(item(9_000, "main's", 9_000), epoch=1))
    world.receive(*tx.parts(1_000_000))
    assert world.letters() == []
    assert world.one("SELECT count(*) FROM item") == 9_000
    assert world.query("SELECT node_id FROM rf_node WHERE role = 'main'") == [("hq",)]


def test_a_table_that_is_new_here_is_looked_for_before_a_large_tx_has_written_anything(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "looks at the tables", 1).body)
    world.execute("CREATE TABLE late (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))")
    tx = a.tx(*LARGE[1:], Write("I", "late", {"id": 1, "name": "x", "price": "1.50"}, 9_000))
    world.receive(*tx.parts(1_000_000))
    assert world.letters() == []
    assert [row[:2] for row in world.rows("late")] == [(1, "x")]


class StopAt(threading.Event):
    """Is set after it was asked so many times."""

    def __init__(self, asked: int) -> None:
        super().__init__()
        self.left = asked

    def is_set(self) -> bool:
        self.left -= 1
        return self.left < 0


def drain(intake: Intake, source: MemorySource) -> None:
    while source.waiting:
        intake.step(0)


def test_a_stop_ends_a_large_tx_between_two_slices_and_is_no_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.apply.large._SLICE_CHANGES", 10)
    tx = Origin("a").tx(*(item(number, "x" * 400, number) for number in range(1, 100)))
    for _ in range(MOST_ATTEMPTS + 2):
        # Its process was killed before, so it is begun with care, and counted.
        world.execute(
            "INSERT INTO rf_attempt (source_node, tx_id, attempts, began_us) VALUES ('', 'intake:test', 0, 1)"
        )
        stop = StopAt(3)
        source = MemorySource()
        source.put(*tx.parts(4352), redelivered=True)
        intake = Intake(world.node, "test", lambda source=source: source, None, stop)
        with pytest.raises(OutageError, match="when it runs again"):
            drain(intake, source)
        assert stop.left == -1, "the slice after that was read"
        intake.close()
        assert world.rows() == []
        assert world.one("SELECT count(*) FROM rf_attempt") == 0
    world.receive(*tx.parts(4352))
    assert len(world.rows()) == 99
    assert world.letters() == []
