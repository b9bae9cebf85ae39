"""A dead letter that was exported, edited and applied: whole, once, and so that every node ends with the same rows."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.crash_points import CrashPoint
from common.errors import PreflightError, UsageError
from common.versions import Version
from common.wire.encode import encode_tx
from common.wire.records import TableMeta
from consumer.dead_letters.editing import read_edited
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.table_store import Selection
from consumer.incoming import Outcome
from tests.support.applying import (
    DATABASES,
    SCHEMA,
    TABLES,
    Tx,
    World,
    Write,
    close_world,
    item,
    open_world,
    sqlite_url,
)
from tests.support.applying import Origin as AnyOrigin
from tests.support.applying_child import replay_edited, run_child
from tests.support.cli import document, rowferry
from tests.support.private import write_private

Line = dict[str, Any]
GATE = "CREATE TABLE gate (id INTEGER PRIMARY KEY, code TEXT)"
STRICT = "CREATE TABLE gate (id INTEGER PRIMARY KEY, code TEXT CHECK (code <> 'taken'))"
META = TableMeta(pk=("id",), columns={"id": "int", "code": "text"})


def Origin(node_id: str, **fields: int) -> AnyOrigin:
    return AnyOrigin(node_id, tables=TABLES | {"gate": META}, **fields)


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A node with a rule that no other node has."""
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    made = open_world(url, (*SCHEMA, STRICT))
    yield made
    close_world(made)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[World]:
    made = open_world(sqlite_url(tmp_path, "other.db"), (*SCHEMA, GATE), node_id="other")
    yield made
    close_world(made)


def letter(origin: Origin) -> Tx:
    """A tx of which one row can't be written here."""
    return origin.tx(item(1, "one", 10), item(2, "two", 11), Write("I", "gate", {"id": 9, "code": "taken"}, 12))


def exported(world: World) -> list[Line]:
    """Return the lines of the one open dead letter, as its export has them."""
    desk = DeadLetters(world.node)
    (one,) = desk.find(Selection())
    return [json.loads(line) for line in b"".join(desk.batches(one)).splitlines()]


def edited(lines: list[Line]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def code_is(text: str) -> Callable[[Line], Line]:
    def change(line: Line) -> Line:
        if line.get("table") == "gate":
            line["after"]["code"] = text
        return line

    return change


def replay(world: World, data: bytes, **how: bool) -> list[Any]:
    desk = DeadLetters(world.node)
    return desk.replay_edited(read_edited(data, "file"), Replay("tester", **how), lambda _: None)


def own_batches(world: World) -> list[bytes]:
    """What this node has to send."""
    world.node.database.sealer(world.node.facts).seal()
    txs = list(world.node.database.log(world.node.facts).read(0, 1 << 20))
    return [part.body for tx in txs for part in encode_tx(tx)]


@pytest.fixture
def config_file(world: World, tmp_path: Path) -> Path:
    return write_private(
        tmp_path / "rowferry.toml", f'[node]\nid = "here"\ndatabase = "{world.node.config.node.database}"\n'
    )


def test_an_edited_row_is_a_new_write_that_reaches_who_applied_it_as_it_came(world: World, other: World) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    before = own_batches(world)
    (one,) = replay(world, edited([code_is("free")(one) for one in exported(world)]))
    assert (one.result.outcome.value, one.result.error) == ("applied", None)
    assert [row[1] for row in world.rows()] == ["one", "two"]
    assert world.rows("gate") == [(9, "free")]
    assert world.letters() == [(tx.tx_id, "constraint", "replayed")]

    other.receive(tx.body)
    assert other.rows("gate") == [(9, "taken")]
    other.receive(*own_batches(world)[len(before) :])
    assert (other.rows("gate"), other.letters()) == ([(9, "free")], [])
    assert other.query("SELECT count(*) FROM rf_conflict WHERE state = 'waiting'") == [(0,)]
    # The batch as it came is known by what it was: no other content, and nothing that is applied again.
    world.receive(tx.body)
    assert (world.letters_open(), world.rows("gate")) == ([], [(9, "free")])
    other.receive(tx.body)
    assert other.rows("gate") == [(9, "free")]


def test_the_other_node_may_get_the_edit_before_the_batch(world: World, other: World) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    before = len(own_batches(world))
    replay(world, edited([code_is("free")(one) for one in exported(world)]))
    other.receive(*own_batches(world)[before:], tx.body)
    assert other.rows("gate") == [(9, "free")]
    assert [row[1] for row in other.rows()] == ["one", "two"]


def test_a_row_that_was_taken_out_stays_as_it_is_here_on_every_node(world: World, other: World) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    before = len(own_batches(world))
    (one,) = replay(world, edited([line for line in exported(world) if line.get("table") != "gate"]))
    assert (one.result.outcome.value, one.result.error) == ("applied", None)
    assert [(row.table, row.kept) for row in one.rows] == [("gate", True)]
    assert world.rows("gate") == []
    other.receive(tx.body)
    other.receive(*own_batches(world)[before:])
    assert other.rows("gate") == []
    assert [row[1] for row in other.rows()] == ["one", "two"]


def test_what_was_left_as_it_came_has_the_version_that_it_came_with(world: World) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    replay(world, edited([code_is("free")(one) for one in exported(world)]))
    # A later write of its source on top of it is no conflict.
    world.receive(Origin("a", lsn=3, made=1).put(1, "later", 20, Version(0, 10, "a"), op="U").body)
    assert world.one("SELECT name FROM item WHERE id = 1") == "later"
    assert world.query("SELECT count(*) FROM rf_conflict") == [(0,)]


def two_letters(world: World) -> tuple[bytes, bytes]:
    """Let two rows come that can't be written here; return each as it may be."""
    origin = Origin("a")
    for number in (8, 9):
        world.receive(origin.tx(Write("I", "gate", {"id": number, "code": "taken"}, number)).body)
    desk = DeadLetters(world.node)
    lines = [b"".join(desk.batches(one)).splitlines() for one in desk.find(Selection())]
    first, second = (edited([code_is("free")(json.loads(line)) for line in one]) for one in lines)
    return first, second


def test_a_file_of_which_some_was_applied_before_a_kill_is_applied_to_the_rest(world: World) -> None:
    first, second = two_letters(world)
    replay(world, first)
    done, applied = replay(world, first + second)
    assert (done.result.outcome, "applied before" in done.result.error) == (Outcome.DUPLICATE, True)
    assert applied.result.outcome is Outcome.APPLIED
    assert world.query("SELECT id, code FROM gate ORDER BY id") == [(8, "free"), (9, "free")]
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'edited'") == 2
    with pytest.raises(UsageError, match="is already replayed"):
        replay(world, first + second)


def test_a_file_with_a_letter_that_was_settled_otherwise_is_refused_whole(world: World) -> None:
    first, second = two_letters(world)
    replay(world, first.replace(b"free", b"else"))
    with pytest.raises(UsageError, match="is already replayed"):
        replay(world, first + second)
    assert world.query("SELECT id, code FROM gate ORDER BY id") == [(8, "else")]


def test_it_is_audited_by_who_did_it_and_can_not_be_done_twice(world: World) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    data = edited([code_is("free")(one) for one in exported(world)])
    replay(world, data)
    ((actor, detail),) = world.query("SELECT actor, detail FROM rf_audit WHERE action = 'edited'")
    told = json.loads(detail)
    assert (actor, told["rows"]) == ("tester", [{"table": "gate", "pk": {"id": 9}, "kept": False}])
    assert told["sha256"] != told["edited_sha256"]
    with pytest.raises(Exception, match="is already replayed"):
        replay(world, data)


@pytest.mark.parametrize(
    ("point", "is_done"),
    [
        (CrashPoint.ROWS_WRITTEN, False),
        (CrashPoint.CHOICE_WRITTEN, False),
        (CrashPoint.AFTER_COMMIT, True),
        (CrashPoint.REPLAYED, True),
    ],
)
def test_killed_anywhere_it_is_applied_whole_or_not_at_all(world: World, point: CrashPoint, is_done: bool) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    data = edited([code_is("free")(one) for one in exported(world)])
    url = world.node.config.node.database
    assert run_child(replay_edited, url, data, point.value) == -signal.SIGKILL
    assert [row[1] for row in world.rows("gate")] == (["free"] if is_done else [])
    assert len(world.rows()) == (2 if is_done else 0)
    if not is_done:
        assert run_child(replay_edited, url, data) == 0
    assert (world.letters_open(), world.rows("gate")) == ([], [(9, "free")])
    assert world.one("SELECT count(*) FROM rf_audit WHERE action = 'edited'") == 1


def test_an_edit_that_can_not_stand_changes_nothing(world: World) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    (one,) = replay(world, edited(exported(world)))
    assert (one.result.outcome.value, one.result.reason) == ("dead", "constraint")
    assert (world.rows(), world.rows("gate")) == ([], [])
    assert world.letters_open() == [(tx.tx_id, "constraint", "dead")]
    assert world.query("SELECT count(*) FROM rf_audit WHERE action = 'edited'") == [(0,)]


def test_a_replay_with_an_edit_that_fails_is_audited_and_what_is_tried_out_is_not(world: World) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body)
    data = edited(exported(world))
    before = world.query("SELECT reason, error, attempts FROM rf_dead_letter")
    find = "SELECT source_node, tx_id, actor, detail FROM rf_audit WHERE action = 'replay-failed'"
    replay(world, data, dry_run=True)
    assert world.query(find) == []

    (one,) = replay(world, data)
    ((source, tx_id, actor, detail),) = world.query(find)
    assert (source, tx_id, actor) == ("a", tx.tx_id, "tester")
    told = json.loads(detail)
    assert (told["state"], told["reason"], told["error"]) == ("dead", "constraint", one.result.error)
    (batch,) = read_edited(data, "file")
    assert told["edited_sha256"] == batch.sha256
    # The letter tells why what came can't be applied; of the file that is not said.
    assert world.query("SELECT reason, error, attempts FROM rf_dead_letter") == before


def test_an_edit_of_a_letter_in_parts_is_refused_and_audited(world: World) -> None:
    one = Origin("a")
    rows = [Write("I", "gate", {"id": number, "code": "x" * 200}, 12) for number in range(60)]
    tx = one.tx(*rows, Write("I", "gate", {"id": 99, "code": "taken"}, 12))
    world.receive(*tx.parts(4096))
    assert world.letters_open() == [(tx.tx_id, "constraint", "dead")]
    data = edited([json.loads(line) for line in tx.body.splitlines()])
    for dry_run in (True, False):
        with pytest.raises(UsageError, match="too large to be applied in any other form"):
            replay(world, data, dry_run=dry_run)
    ((actor, detail),) = world.query("SELECT actor, detail FROM rf_audit WHERE action = 'replay-failed'")
    told = json.loads(detail)
    (batch,) = read_edited(data, "file")
    assert (actor, told["state"], told["edited_sha256"]) == ("tester", "dead", batch.sha256)
    assert "too large to be applied in any other form" in told["error"]
    assert "reason" not in told


def test_a_table_that_has_another_name_here(world: World) -> None:
    tx = Origin("a").tx(Write("I", "item_old", {"id": 1, "name": "one", "price": "1.50"}, 10))
    world.receive(tx.body)
    assert world.letters() == [(tx.tx_id, "unknown-table", "dead")]
    text = edited(exported(world)).replace(b'"item_old"', b'"item"')
    (one,) = replay(world, text)
    assert (one.result.outcome.value, one.result.error) == ("applied", None)
    assert [row[1] for row in world.rows()] == ["one"]


def test_by_the_command_line(world: World, config_file: Path, tmp_path: Path) -> None:
    tx = letter(Origin("a"))
    world.receive(tx.body, Origin("b").put(1, "later", 50).body)
    out = tmp_path / "letter.jsonl"
    document(config_file, "dlq", "export", tx.tx_id, "--out", str(out))
    assert world.query("SELECT count(*) FROM rf_audit WHERE action = 'exported'") == [(1,)]
    (tried,) = document(config_file, "dlq", "replay", tx.tx_id, "--dry-run")["results"]
    assert [(row["table"], row["effect"]) for row in tried["rows"]] == [
        ("item", "overtaken"),
        ("item", "writes"),
        ("gate", "writes"),
    ]
    assert [row["pk"] for row in tried["overtaken"]] == [{"id": 1}]
    out.write_bytes(out.read_bytes().replace(b'"taken"', b'"free"'))
    (tried,) = document(config_file, "dlq", "replay", "--edited", str(out), "--dry-run")["results"]
    assert (tried["outcome"], len(tried["edited"]), world.rows()[1:]) == ("applied", 1, [])
    (done,) = document(config_file, "dlq", "replay", "--edited", str(out))["results"]
    assert done["edited"] == [
        {"table": "gate", "pk": {"id": 9}, "was": {"id": 9, "code": "taken"}, "now": {"id": 9, "code": "free"}}
        | {"kept": False}
    ]
    assert [row[1] for row in world.rows()] == ["later", "two"]
    assert rowferry(config_file, "dlq", "replay", "--edited", str(out), "--all").exit_code == 2
    out.write_bytes(b'{"type":"batch"\n')
    broken = rowferry(config_file, "dlq", "replay", "--edited", str(out))
    assert (broken.exit_code, "line 1" in broken.output) == (3, True)


def test_reasons_are_counted_with_what_helps(world: World, config_file: Path) -> None:
    a = Origin("a")
    dead, unknown = letter(a), a.tx(Write("I", "nowhere", {"id": 1, "name": "x", "price": "1"}, 20))
    again = a.tx(Write("I", "gate", {"id": 10, "code": "taken"}, 30))
    world.receive(dead.body, unknown.body)
    world.clock.pass_seconds(60)
    world.receive(again.body)
    groups = document(config_file, "dlq", "list", "--by", "reason")
    assert [(one["reason"], one["count"]) for one in groups] == [("constraint", 2), ("unknown-table", 1)]
    assert (groups[0]["example"]["tx_id"], groups[0]["sources"]) == (again.tx_id, ["a"])
    assert groups[0]["oldest_at"] < groups[0]["newest_at"]
    assert "migrate" in groups[1]["helps"]
    assert "constraint" in rowferry(config_file, "dlq", "list", "--by", "reason").output
    chosen = document(config_file, "dlq", "list", "--table", "nowhere")
    assert [one["tx_id"] for one in chosen] == [unknown.tx_id]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"type":"change"}\n', "line 1: a batch begins"),
        (b'{"type":"batch"}\n{"type":"chunk"}\n', "line 2: a change in chunks"),
        (b'{"type":"batch","parts":2}\n{"type":"end"}\n', "several parts"),
        (b'{"type":"batch"}\n', "has no end line"),
        (b'{"type":"batch"}\n{"type":"batch"}\n', "line 2: the batch before it"),
        (b"[1]\n", "line 1: a line is a JSON object"),
        (b'{"type":"batch"}\n{"type":"end"}\n', "batch from line 1"),
    ],
)
def test_a_file_that_is_none(data: bytes, words: str) -> None:
    with pytest.raises(PreflightError, match=words):
        read_edited(data, "letter.jsonl")
