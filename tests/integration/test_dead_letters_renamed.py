"""Dead letters under names that are gone here: applied under the names of today, as if they had come under these."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from common.errors import UsageError
from common.wire.records import TableMeta
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.renaming import Renames
from consumer.dead_letters.table_store import Selection
from consumer.incoming import Result
from tests.support.applying import DATABASES, TABLES, Tx, World, Write, close_world, item, open_world, sqlite_url
from tests.support.applying import Origin as AnyOrigin
from tests.support.cli import document, rowferry
from tests.support.nodes import CliNode, sync
from tests.support.private import write_private

GOODS = TableMeta(pk=("nr",), columns={"nr": "int", "title": "text", "price": "decimal", "shelf": "text"})
DEPOT = TableMeta(pk=("id",), columns={"id": "int", "place": "text"})
NAMES = ("goods=item", "goods.nr=id", "goods.title=name")


def origin(node_id: str = "a") -> AnyOrigin:
    return AnyOrigin(node_id, tables=TABLES | {"goods": GOODS, "depot": DEPOT})


def goods(nr: int, title: str, hlc: int, op: str = "I") -> Write:
    row = {"nr": nr, "title": title, "price": "1234567890.50", "shelf": "A 7"}
    return Write(op, "goods", row, hlc, key=("nr",))


@pytest.fixture(params=DATABASES)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = sqlite_url(tmp_path) if request.param == "sqlite" else request.getfixturevalue("pg_database")
    made = open_world(url)
    yield made
    close_world(made)


def replay(world: World, renamed: tuple[str, ...], left_out: tuple[str, ...] = (), **how: bool) -> list[Result]:
    renames = Renames.read(renamed, left_out)
    return DeadLetters(world.node).replay_renamed(Selection(), renames, Replay("tester", **how), lambda _: None)


def versions(world: World) -> list[Any]:
    return world.query("SELECT key, hlc, node_id, deleted FROM rf_row_version ORDER BY key")


def set_aside(world: World, *txs: Tx) -> None:
    world.receive(b"".join(tx.body for tx in txs))
    assert len(world.letters()) == len(txs)


def test_it_comes_to_what_it_would_have_come_to_under_these_names(world: World, tmp_path: Path) -> None:
    sent = origin()
    tx = sent.tx(goods(1, "one", 10), Write("I", "parent", {"id": 2, "name": "two"}, 11))
    gone = sent.tx(goods(3, "three", 12), goods(3, "three", 13, "D"))
    set_aside(world, tx, gone)
    assert [one.outcome for one in replay(world, NAMES, ("goods.shelf",))] == ["applied", "applied"]

    there = open_world(sqlite_url(tmp_path, "there.db"))
    same = origin()
    row = {"id": 1, "name": "one", "price": "1234567890.50"}
    there.receive(same.tx(Write("I", "item", row, 10), Write("I", "parent", {"id": 2, "name": "two"}, 11)).body)
    same_gone = row | {"id": 3, "name": "three"}
    there.receive(same.tx(Write("I", "item", same_gone, 12), Write("D", "item", same_gone, 13)).body)
    assert [tuple(row[:2]) for row in world.rows()] == [tuple(row[:2]) for row in there.rows()]
    assert [row[1:] for row in versions(world)] == [row[1:] for row in versions(there)]
    close_world(there)

    assert [state for *_, state in world.letters()] == ["replayed", "replayed"]
    world.receive(tx.body)
    assert world.letters()[0][-1] == "replayed"
    lines = world.query("SELECT detail FROM rf_audit WHERE action = 'edited' ORDER BY id")
    names = dict(name.split("=") for name in NAMES) | {"goods.shelf": None}
    assert [json.loads(detail)["names"] for (detail,) in lines] == [names, names]
    # Nothing that this node wrote: nobody else has to be told.
    assert world.query("SELECT count(*) FROM rf_tx") == [(0,)]


def test_a_dry_run_leaves_all_as_it_is(world: World) -> None:
    set_aside(world, origin().tx(goods(1, "one", 10)))
    before = world.letters()
    assert [one.outcome for one in replay(world, NAMES, ("goods.shelf",), dry_run=True)] == ["applied"]
    assert (world.letters(), world.rows(), versions(world)) == (before, [], [])


def test_only_what_has_such_a_name_is_tried(world: World) -> None:
    sent = origin()
    set_aside(world, sent.tx(goods(1, "one", 10)), sent.tx(Write("I", "depot", {"id": 1, "place": "x"}, 11)))
    (one,) = replay(world, NAMES, ("goods.shelf",))
    assert (one.outcome, one.incoming.tx_id) == ("applied", world.letters()[0][0])
    assert [state for *_, state in world.letters()] == ["replayed", "dead"]


@pytest.mark.parametrize(
    ("renamed", "left_out", "error"),
    [
        (("goods=item", "good.nr=id"), (), "good.nr: none of these dead letters"),
        (("goods=",), (), "--rename goods=: say OLD=NEW"),
        (("goods",), (), "--rename goods: say OLD=NEW"),
        (("goods=item", "goods=thing"), (), "goods is named twice"),
        (("goods=item",), ("goods",), "goods is named twice"),
    ],
)
def test_a_name_that_makes_no_sense_is_refused_before_anything_is_done(
    world: World, renamed: tuple[str, ...], left_out: tuple[str, ...], error: str
) -> None:
    set_aside(world, origin().tx(goods(1, "one", 10)))
    before = world.letters()
    with pytest.raises(UsageError, match=error):
        replay(world, renamed, left_out)
    assert (world.letters(), world.rows()) == (before, [])


@pytest.mark.parametrize(
    ("renamed", "left_out", "error"),
    [
        (NAMES, (), "shelf"),
        (("goods=item", "goods.title=name"), ("goods.nr", "goods.shelf"), "goods.nr is part of the key"),
        (("goods=item", "goods.nr=id", "goods.title=name", "goods.shelf=name"), (), "would be named 'name'"),
        (("goods=depot",), (), "two tables of it would be named 'depot'"),
    ],
)
def test_what_does_not_fit_under_these_names_stays_a_dead_letter(
    world: World, renamed: tuple[str, ...], left_out: tuple[str, ...], error: str
) -> None:
    set_aside(world, origin().tx(goods(1, "one", 10), Write("I", "depot", {"id": 1, "place": "x"}, 11)))
    before = world.letters()
    (one,) = replay(world, renamed, left_out)
    assert one.outcome == "dead"
    assert error in str(one.error)
    assert (world.letters(), world.rows()) == (before, [])
    assert world.query("SELECT count(*) FROM rf_audit WHERE action = 'replay-failed'") == [(1,)]


def test_a_table_that_is_gone_here_is_left_out(world: World) -> None:
    set_aside(world, origin().tx(item(1, "one", 10), Write("I", "depot", {"id": 1, "place": "x"}, 11)))
    assert [one.outcome for one in replay(world, (), ("depot",))] == ["applied"]
    assert [row[:2] for row in world.rows()] == [(1, "one")]


def test_one_that_came_in_parts_stays_and_the_others_go_on(world: World) -> None:
    sent = origin()
    large = sent.tx(*(goods(number, "x" * 500, 10) for number in range(1, 10)))
    world.receive(*large.parts(max_batch_bytes=2_000))
    world.receive(sent.tx(goods(20, "small", 11)).body)
    first, second = replay(world, NAMES, ("goods.shelf",))
    assert (first.outcome, second.outcome) == ("dead", "applied")
    assert "too large to be applied in any other form than it came in" in str(first.error)
    assert [row[:2] for row in world.rows()] == [(20, "small")]


def test_what_waited_for_its_rows_follows(world: World) -> None:
    sent = origin()
    world.receive(sent.tx(Write("I", "child", {"id": 7, "parent_id": 5}, 10)).body)
    world.receive(sent.tx(Write("I", "depot", {"id": 5, "place": "x"}, 11)).body)
    assert [reason for _, reason, _ in world.letters()] == ["foreign-key", "unknown-table"]
    found = replay(world, ("depot=parent", "depot.place=name"))
    assert [one.outcome for one in found] == ["applied", "applied"]
    assert world.query("SELECT id, parent_id FROM child") == [(7, 5)]


def test_what_was_applied_in_pieces_is_not_applied_again(world: World) -> None:
    tx = origin().tx(item(1, "one", 10), Write("I", "depot", {"id": 2, "place": "x"}, 11))
    set_aside(world, dataclasses.replace(tx, header=msgspec.structs.replace(tx.header, grouped=True)))
    (left,) = DeadLetters(world.node).replay(Selection(), Replay("tester", in_pieces=True), lambda _: None)
    assert left.open_changes == 1
    (one,) = replay(world, ("depot=parent", "depot.place=name"))
    assert (one.outcome, one.counts.changes) == ("applied", 1)
    assert world.rows("parent") == [(2, "x")]


def test_a_later_write_stands(world: World) -> None:
    sent = origin()
    set_aside(world, sent.tx(goods(1, "old", 10)))
    world.receive(origin("b").put(1, "later", 20).body)
    assert [one.outcome for one in replay(world, NAMES, ("goods.shelf",))] == ["applied"]
    assert [row[:2] for row in world.rows()] == [(1, "later")]


def test_by_the_command_line(world: World, tmp_path: Path) -> None:
    set_aside(world, origin().tx(goods(1, "one", 10)))
    text = f'[node]\nid = "here"\ndatabase = "{world.node.config.node.database}"\n'
    config = write_private(tmp_path / "rowferry.toml", text)
    options = [word for name in NAMES for word in ("--rename", name)]
    failed = rowferry(config, "dlq", "replay", "--all", *options)
    assert failed.exit_code == 4
    assert "shelf" in failed.stdout
    assert rowferry(config, "dlq", "replay", "--all", *options, "--in-pieces").exit_code == 2
    tried = document(config, "dlq", "replay", "--all", *options, "--leave-out", "goods.shelf", "--dry-run")
    (row,) = tried["results"][0]["rows"]
    assert (row["table"], row["pk"], row["effect"], row["now"]) == ("item", {"id": 1}, "writes", None)
    assert row["then"] == {"id": 1, "name": "one", "price": "1234567890.50"}
    done = document(config, "dlq", "replay", "--all", *options, "--leave-out", "goods.shelf")
    assert [one["outcome"] for one in done["results"]] == ["applied"]
    assert [row[:2] for row in world.rows()] == [(1, "one")]


def test_nodes_that_were_renamed_one_after_the_other_end_equal(pg_database: str, tmp_path: Path) -> None:
    folder = ("--directory", str(tmp_path / "exchange"))
    first = CliNode.init("first", tmp_path / "first", pg_database, *folder)
    late = CliNode.init("late", tmp_path / "late", f"sqlite:///{tmp_path / 'late.db'}", *folder)
    for one in (first, late):
        one.execute("CREATE TABLE author (id integer PRIMARY KEY, name text, note text)")
        one.ok("migrate")
    late.execute("INSERT INTO author VALUES (1, 'Ada', 'x'), (2, 'Bo', 'y')")
    sync(late, first)
    for migration in (
        "ALTER TABLE author RENAME TO writer",
        "ALTER TABLE writer RENAME COLUMN name TO full_name",
        "ALTER TABLE writer DROP COLUMN note",
    ):
        first.execute(migration)
    first.ok("run", "--once")
    late.execute("UPDATE author SET name = 'Ada L' WHERE id = 1", "INSERT INTO author VALUES (3, 'Cy', 'z')")
    sync(late, first, code=4)
    late.execute("DELETE FROM author WHERE id = 2")
    sync(late, first, code=4)
    first.execute("UPDATE writer SET full_name = 'Bo the second' WHERE id = 2")
    names = ("--rename", "author=writer", "--rename", "author.name=full_name", "--leave-out", "author.note")
    first.ok("dlq", "replay", "--reason", "unknown-table", *names)
    assert first.report("dlq", "list") == []
    rows = "SELECT id, full_name FROM writer ORDER BY id"
    assert [tuple(row) for row in first.query(rows)] == [(1, "Ada L"), (2, "Bo the second"), (3, "Cy")]
