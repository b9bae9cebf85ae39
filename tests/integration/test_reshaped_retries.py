"""`run` tries again what was set aside for the shape of a table, once it has installed capture for another one."""

from __future__ import annotations

import json
import threading

import pytest

from common.versions import Version
from common.wire.records import Change, TableMeta
from consumer.reshaped import ReshapedRetries
from producer.watch import CaptureWatch
from tests.support.applying import Origin, World, Write
from tests.support.sqlite_app import changes_of

WITH_NOTE = TableMeta(pk=("id",), columns={"id": "int", "name": "text", "price": "decimal", "note": "text"})
CODE_MAY_BE_EMPTY = {
    "sqlite": (
        "CREATE TABLE new__code (id INTEGER PRIMARY KEY, code TEXT)",
        "INSERT INTO new__code SELECT * FROM code",
        "DROP TABLE code",
        "ALTER TABLE new__code RENAME TO code",
    ),
    "postgresql": ("ALTER TABLE code ALTER code DROP NOT NULL, ADD more int",),
}


def attempts(world: World) -> list[tuple[str, int]]:
    return [(state, tried) for state, tried in world.query("SELECT state, attempts FROM rf_dead_letter ORDER BY tx_id")]


def test_run_tries_again_what_fits_now(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    a.tables |= {"item": WITH_NOTE, "branch": a.tables["child"]}
    b.tables["root"] = b.tables["parent"]
    world.receive(
        a.tx(Write("I", "item", {"id": 1, "name": "x", "price": "1.50", "note": "n"}, 10)).body,
        a.tx(Write("I", "code", {"id": 1, "code": None}, 11)).body,
        a.tx(Write("I", "branch", {"id": 1, "parent_id": 7}, 12)).body,
        b.tx(Write("I", "root", {"id": 7, "name": "p"}, 10)).body,
    )
    assert [reason for _, reason, _ in world.letters()] == [
        "unknown-column", "unknown-table", "constraint", "unknown-table",
    ]  # fmt: skip
    watch, retries = CaptureWatch(world.node), ReshapedRetries(world.node, None, threading.Event())
    assert watch.look() == []
    assert not retries.step(0)
    world.clock.pass_seconds(5)
    dialect = world.node.database.features.name
    world.execute(
        "ALTER TABLE item ADD COLUMN note TEXT",
        "CREATE TABLE root (id INTEGER PRIMARY KEY, name TEXT)",
        "CREATE TABLE branch (id INTEGER PRIMARY KEY, parent_id INTEGER REFERENCES root (id))",
        *CODE_MAY_BE_EMPTY[dialect],
    )
    assert sorted(watch.look()) == ["branch", "code", "item", "root"]
    retries = ReshapedRetries(world.node, None, threading.Event())
    assert retries.step(0)
    assert world.rows("item")[0][-1] == "n"
    assert world.rows("code")[0][:2] == (1, None)
    assert world.rows("branch") == [(1, 7)]
    assert {state for state, _ in attempts(world)} == {"replayed"}
    retries.close()


def test_what_has_nothing_to_do_with_the_new_shape_is_left_alone(world: World) -> None:
    a = Origin("a")
    world.receive(
        a.tx(Write("I", "code", {"id": 1, "code": None}, 11)).body,
        a.tx(Write("I", "never", {"id": 1, "name": "x", "price": "1.50"}, 12)).body,
    )
    world.clock.pass_seconds(5)
    world.execute("ALTER TABLE item ADD COLUMN note TEXT")
    assert CaptureWatch(world.node).look() == ["item"]
    assert not ReshapedRetries(world.node, None, threading.Event()).step(0)
    assert attempts(world) == [("dead", 1), ("dead", 1)]


def test_a_child_that_waited_too_long_comes_with_its_parent(world: World) -> None:
    a, b = Origin("a"), Origin("b")
    b.tables["parent"] = TableMeta(pk=("id",), columns={"id": "int", "name": "text", "note": "text"})
    world.receive(b.tx(Write("I", "parent", {"id": 7, "name": "p", "note": "n"}, 10)).body)
    child = a.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 12)).body
    world.receive(child)
    world.clock.pass_seconds(world.node.config.limits.early_seconds + 1)
    world.receive()
    assert {state for *_, state in world.letters()} == {"dead"}
    world.execute("ALTER TABLE parent ADD COLUMN note TEXT")
    world.clock.pass_seconds(5)
    CaptureWatch(world.node).look()
    assert ReshapedRetries(world.node, None, threading.Event()).step(0)
    assert world.rows("child") == [(1, 7)]
    assert {state for *_, state in world.letters()} == {"replayed"}


def test_a_column_that_its_sender_did_not_know_of_may_come_later(world: World) -> None:
    """The table has got a column that may not be empty and has no default; the sender's has not got it yet."""
    dialect = world.node.database.features.name
    if dialect == "sqlite":
        world.execute(
            "CREATE TABLE new__parent (id INTEGER PRIMARY KEY, name TEXT, stock INTEGER NOT NULL)",
            "INSERT INTO new__parent SELECT id, name, 7 FROM parent",
            "DROP TABLE parent",
            "ALTER TABLE new__parent RENAME TO parent",
        )
    else:
        world.execute(
            "ALTER TABLE parent ADD COLUMN stock INTEGER DEFAULT 7 NOT NULL",
            "ALTER TABLE parent ALTER COLUMN stock DROP DEFAULT",
        )
    world.execute("INSERT INTO parent VALUES (1, 'stands', 5)")
    a = Origin("a")
    world.receive(a.tx(Write("U", "parent", {"id": 1, "name": "changed"}, 1_900_000_000_000_000)).body)
    assert world.rows("parent") == [(1, "changed", 5)]
    world.receive(a.tx(Write("I", "parent", {"id": 2, "name": "new"}, 10)).body)
    assert [(reason, state) for _, reason, state in world.letters()] == [("constraint", "early")]
    a.tables["parent"] = TableMeta(pk=("id",), columns={"id": "int", "name": "text", "stock": "int"})
    world.receive(a.tx(Write("U", "parent", {"id": 2, "name": "new", "stock": 7}, 11)).body)
    world.clock.pass_seconds(60)
    world.receive()
    assert world.rows("parent") == [(1, "changed", 5), (2, "new", 7)]
    assert [(reason, state) for _, reason, state in world.letters()] == [("constraint", "replayed")]
    # What the batch does name is its own fault.
    world.receive(a.tx(Write("I", "parent", {"id": 3, "name": "odd", "stock": None}, 12)).body)
    assert [(reason, state) for _, reason, state in world.letters()][-1] == ("constraint", "dead")


def test_what_is_merged_of_two_shapes_is_sent_again(world: World) -> None:
    """A row that another node writes without knowing a column in which this one has something."""
    world.execute(
        "ALTER TABLE item ADD COLUMN note TEXT",
        "ALTER TABLE item ADD COLUMN more TEXT DEFAULT 'd'",
    )
    world.node.database.capture().install(list(world.node.captured_tables().values()))
    world.execute(
        "INSERT INTO item (id, name, price, note) VALUES (1, 'x', 1.5, 'mine'), (2, 'x', 1.5, NULL)",
        "INSERT INTO item (id, name, price, more) VALUES (3, 'x', 1.5, 'other')",
    )
    sealed = seal(world)
    assert len(sealed) == 3
    a, late = Origin("a"), 1_900_000_000_000_000
    writes = [Write("U", "item", {"id": n, "name": f"theirs {n}", "price": "2.50"}, late + n) for n in (1, 2, 3, 4)]
    world.receive(a.tx(*writes).body)
    assert [row[1] for row in world.rows()] == ["theirs 1", "theirs 2", "theirs 3", "theirs 4"]
    again = seal(world)
    assert [(json.loads(bytes(one.pk))["id"], one.version, one.base) for one in again] == [
        (1, Version(0, late + 2, "here"), Version(0, late + 1, "a")),
        (3, Version(0, late + 4, "here"), Version(0, late + 3, "a")),
    ]
    images = [json.loads(bytes(one.after)) for one in again]
    assert [(one["name"], one["note"], one["more"]) for one in images] == [
        ("theirs 1", "mine", "d"),
        ("theirs 3", None, "other"),
    ]
    # A write that loses merges nothing.
    world.receive(a.tx(Write("U", "item", {"id": 1, "name": "older", "price": "2.50"}, 10)).body)
    assert seal(world) == []


def seal(world: World) -> list[Change]:
    log, sealer = world.node.database.log(world.node.facts), world.node.database.sealer(world.node.facts)
    before = log.head().lsn
    while sealer.seal().more:
        pass
    return sorted(changes_of(list(log.read(before, 2**40))), key=lambda one: bytes(one.pk))


def test_a_row_that_is_sent_again_with_its_new_column_does_not_beat_what_waited_for_that(world: World) -> None:
    """Nobody has written the column here: what its new shape sends once more is as old as what stood."""
    world.execute("INSERT INTO item VALUES (1, 'stands', 1.50)")
    (own,) = seal(world)
    a = Origin("a")
    a.tables["item"] = WITH_NOTE
    theirs = own.version.hlc + 10
    values = {"id": 1, "name": "theirs", "price": "1.50", "note": "n"}
    world.receive(a.tx(Write("U", "item", values, theirs, own.version)).body)
    assert [reason for _, reason, _ in world.letters()] == ["unknown-column"]
    world.clock.pass_seconds(5)
    world.execute("ALTER TABLE item ADD COLUMN note TEXT")
    assert CaptureWatch(world.node).look() == ["item"]
    seal(world)
    assert ReshapedRetries(world.node, None, threading.Event()).step(0)
    assert [(name, note) for _, name, _, note in world.rows()] == [("theirs", "n")]


@pytest.mark.parametrize(
    "migration",
    [
        pytest.param(("ALTER TABLE item ADD COLUMN note TEXT", "UPDATE item SET note = 'filled'"), id="filled"),
        pytest.param(("ALTER TABLE item ADD COLUMN note TEXT DEFAULT concat('of ', random())",), id="rewritten"),
    ],
)
def test_what_a_migration_fills_does_not_beat_what_somebody_wrote_elsewhere(
    world: World, migration: tuple[str, ...]
) -> None:
    """Each node migrates when it does, and fills the new column of the same rows by itself."""
    if world.node.database.engine.dialect.name == "sqlite" and "random" in migration[0]:
        pytest.skip("SQLite takes no such default")
    a = Origin("a")
    stood = Write("I", "item", {"id": 1, "name": "stands", "price": "1.50"}, 1_000)
    world.receive(a.tx(stood).body)
    a.tables["item"] = WITH_NOTE
    values = {"id": 1, "name": "stands", "price": "1.50", "note": "theirs"}
    world.receive(a.tx(Write("U", "item", values, 2_000, Version(0, 1_000, "a"))).body)
    assert [reason for _, reason, _ in world.letters()] == ["unknown-column"]
    world.execute(*migration)
    assert CaptureWatch(world.node).look() == ["item"]
    seal(world)
    assert ReshapedRetries(world.node, None, threading.Event()).step(0)
    assert [note for *_, note in world.rows()] == ["theirs"]
