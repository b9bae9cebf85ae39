"""The intake loop on real databases: what is applied, set aside, acknowledged and given back."""

from __future__ import annotations

import gzip
import io
import json
import threading
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import BinaryIO

import pytest

from common.errors import OutageError
from common.versions import NEVER, Version
from common.wire.decode import Broken, read_parts
from common.wire.limits import Limits
from common.wire.records import Part, TableMeta
from consumer import arrivals
from consumer.apply.prepare import Prepared, Preparer
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.incoming import Incoming
from consumer.intake import Intake
from tests.support.applying import (
    DATABASES,
    SCHEMA,
    MemorySource,
    Origin,
    World,
    Write,
    close_world,
    item,
    open_world,
    resealed,
    sqlite_url,
    world_on,
)


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with world_on(request, tmp_path) as made:
        yield made


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
        (b'"version":[0,10,"a"]', b'"version":[1,10,"a"]', {"version"}),
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


def test_a_gap_holds_the_watermark_and_not_the_rows(world: World) -> None:
    a = Origin("a")
    one, two, three = (a.put(number, "x", number) for number in range(1, 4))
    world.receive(one.body, three.body)
    assert world.watermark("a") == 1
    assert world.one("SELECT highest_lsn FROM rf_sync_state") == 3
    assert [row[0] for row in world.rows()] == [1, 3]
    world.receive(two.body)
    assert world.watermark("a") == 3


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


def test_a_conflict_is_recorded_with_both_images(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "one", 10).body)
    world.receive(b.put(1, "uno", 20).body)
    assert [row[1] for row in world.rows()] == ["uno"]
    (conflict,) = world.query(
        "SELECT table_name, pk, kind, state, winner, rule, our_image, their_image FROM rf_conflict"
    )
    assert conflict[:6] == ("item", '{"id":1}', "insert", "settled", "theirs", "lww")
    assert '"one"' in conflict[6]
    assert '"uno"' in conflict[7]
    world.receive(a.put(1, "late one", 15, Version(0, 10, "a"), "U").body)
    assert [row[1] for row in world.rows()] == ["uno"]
    assert world.query("SELECT winner FROM rf_conflict ORDER BY id") == [("theirs",), ("ours",)]


def test_what_comes_late_is_no_conflict(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    first = a.put(1, "one", 10)
    second = b.put(1, "uno", 20, Version(0, 10, "a"), "U")
    world.receive(second.body, first.body)
    assert [row[1] for row in world.rows()] == ["uno"]
    assert world.one("SELECT count(*) FROM rf_conflict") == 0


SPELLINGS = {"small": "1.5", "tall": "1.50", "very tall": "01.5"}
"""One amount, as three senders write it; this database stores it in one way."""


@pytest.mark.parametrize("together", [False, True])
def test_two_images_under_one_version_end_the_same_in_every_order(world: World, together: bool) -> None:
    """A node that was rewound sends one version several times; how it spells a value decides nothing."""
    world.execute("CREATE TABLE bill (amount NUMERIC(12, 2), id INTEGER PRIMARY KEY, name TEXT)")
    world.node.database.capture().install(list(world.node.captured_tables().values()))
    meta = TableMeta(pk=("id",), columns={"amount": "decimal", "id": "int", "name": "text"})
    for number, order in enumerate(permutations(SPELLINGS)):
        bodies = []
        for made, name in enumerate(order):
            origin = Origin(f"a{number}", incarnation=f"inc{made}", made=made, tables={"bill": meta})
            row = {"amount": SPELLINGS[name], "id": number, "name": name}
            bodies.append(origin.tx(Write("I", "bill", row, 10)).body)
        world.receive(*([b"".join(bodies)] if together else bodies))
    assert world.letters() == []
    assert {name for (name,) in world.query("SELECT name FROM bill")} == {"very tall"}
    assert {kind for (kind,) in world.query("SELECT kind FROM rf_conflict")} == {"identity"}


def test_one_image_in_two_spellings_is_no_conflict(world: World) -> None:
    for incarnation, price in enumerate(("1.5", "1.50", "01.5")):
        origin = Origin("a", incarnation=f"inc{incarnation}", made=incarnation)
        world.receive(origin.tx(Write("I", "item", {"id": 1, "name": "x", "price": price}, 10)).body)
    assert world.one("SELECT count(*) FROM rf_conflict") == 0
    assert world.one("SELECT count(*) FROM rf_applied_tx") == 3


def test_an_update_that_finds_no_row_is_an_event_and_writes_the_row(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 20, Version(0, 10, "a"), "U").body)
    assert [row[1] for row in world.rows()] == ["one"]
    (detail,) = world.query("SELECT detail FROM rf_audit")
    (missing,) = json.loads(detail[0])["missing_rows"]
    assert missing == {"table": "item", "pk": '{"id":1}', "op": "U", "cause": "never-arrived"}


def test_a_delete_leaves_a_tombstone_that_an_older_write_does_not_pass(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    world.receive(a.put(1, "one", 10).body, a.put(1, "one", 30, Version(0, 10, "a"), "D").body)
    assert world.rows() == []
    world.receive(b.put(1, "older", 20).body)
    assert world.rows() == []
    world.receive(b.put(1, "newer", 40, Version(0, 30, "a")).body)
    assert [row[1] for row in world.rows()] == ["newer"]


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


def test_an_error_that_nobody_foresaw_counts_like_a_kill(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a = Origin("a")
    fine, bad = a.put(1, "fine", 10), a.put(2, "bad", 20)
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
        data = body.read()
        if b"row 2" in data:
            raise ZeroDivisionError
        return read_parts(io.BytesIO(data), limits)

    monkeypatch.setattr(arrivals, "read_parts", fails)
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


@pytest.mark.parametrize("sender", ["nul \x00", "".join(map(chr, range(0x4E00, 0x4E00 + 3_000))), "a.b"])
def test_a_sender_that_no_node_can_be_stops_nothing(world: World, sender: str) -> None:
    fine = Origin("a").put(1, "fine", 10)
    world.source.put(b"garbage", fine.body, source_node=sender, redelivered=True, content_encoding=None)
    world.source.put(fine.body, source_node=sender, content_encoding="\x00")
    world.intake().step(0)
    assert [row[1] for row in world.rows()] == ["fine"]
    assert world.query("SELECT DISTINCT source_node FROM rf_dead_letter") == [("unknown",)]


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


def test_own_unsealed_writes_are_sealed_before_a_batch_claims_their_rows(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body)
    world.execute("UPDATE item SET name = 'mine' WHERE id = 1")
    world.receive(a.put(1, "theirs", 20, Version(0, 10, "a"), "U").body)
    # The own write was made now, long after 1970: it beats theirs, and that is a conflict on record.
    assert [row[1] for row in world.rows()] == ["mine"]
    assert world.query("SELECT winner FROM rf_conflict") == [("ours",)]


def test_what_is_applied_is_not_captured(world: World) -> None:
    a = Origin("a")
    world.receive(a.put(1, "one", 10).body)
    assert world.node.database.sealer(world.node.facts).seal().changes == 0


def test_rows_older_than_migrate_are_no_conflict(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path, "older.db")
    made = open_world(url, schema=(*SCHEMA, "INSERT INTO item VALUES (1, 'old', 1)"))
    made.receive(Origin("a").put(1, "one", 10, NEVER, "U").body)
    assert [row[1] for row in made.rows()] == ["one"]
    assert made.one("SELECT count(*) FROM rf_conflict") == 0
    assert "missing" not in str(made.query("SELECT detail FROM rf_audit"))
    close_world(made)


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
