"""A captured table that is made anew under its name, or whose triggers are taken off: no batch covers what was written
to it before a look installed capture again."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.ports.dialect import TableShape
from common.versions import Version
from consumer.apply.committing import Committing
from consumer.early import EarlyRetries
from consumer.reshaped import Reshaped
from tests.support.applying import Origin, World, Write, application, drop_triggers, only_the_long_way

ITEM = "(id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))"
REBUILDS = {
    "drop, create, copy": (
        "CREATE TABLE kept AS SELECT * FROM item",
        "DROP TABLE item",
        f"CREATE TABLE item {ITEM}",
        "INSERT INTO item SELECT * FROM kept",
        "DROP TABLE kept",
    ),
    "create, copy, drop, rename": (
        f"CREATE TABLE item_new {ITEM}",
        "INSERT INTO item_new SELECT * FROM item",
        "DROP TABLE item",
        "ALTER TABLE item_new RENAME TO item",
    ),
    "rename, create, copy, drop": (
        "ALTER TABLE item RENAME TO item_old",
        f"CREATE TABLE item {ITEM}",
        "INSERT INTO item SELECT * FROM item_old",
        "DROP TABLE item_old",
    ),
    "swap": (
        f"CREATE TABLE item_new {ITEM}",
        "INSERT INTO item_new SELECT * FROM item",
        "ALTER TABLE item RENAME TO item_old",
        "ALTER TABLE item_new RENAME TO item",
    ),
    "a column more": (
        "CREATE TABLE item_new (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2), note TEXT)",
        "INSERT INTO item_new SELECT item.*, NULL FROM item",
        "DROP TABLE item",
        "ALTER TABLE item_new RENAME TO item",
    ),
}


def filled(world: World) -> Origin:
    """Let another node write the rows 1 and 2, and this one row 3; all is sealed."""
    origin = Origin("a")
    world.receive(origin.put(1, "first", 10).body, origin.put(2, "first", 10).body)
    world.execute("INSERT INTO item VALUES (3, 'here', 1)")
    Committing(world.node).seal()
    return origin


def changed(world: World, origin: Origin, number: int = 1) -> None:
    """Receive the other node's next change of a row: of what it wrote itself, or a row that is new to it."""
    base, op = (None, "I") if number > 3 else (Version(0, 10, "a"), "U")
    world.receive(origin.put(number, "later", world.clock.us, base, op).body)


def conflicts(world: World) -> list[tuple[Any, Any]]:
    """Return the names that stood against each other."""
    Committing(world.node).seal()
    found = world.query("SELECT our_image, their_image FROM rf_conflict ORDER BY id")
    return [(_name(ours), _name(theirs)) for ours, theirs in found]


def _name(image: Any) -> Any:
    row = json.loads(image) if image else None
    return row and row["name"]


def is_captured(world: World) -> bool:
    return not world.node.capture().drifted(list(world.node.captured_tables().values()))


@pytest.mark.parametrize("rebuild", REBUILDS)
def test_a_write_after_a_rebuild_is_not_covered_in_silence(world: World, rebuild: str) -> None:
    origin = filled(world)
    for number in (1, 2):
        world.execute(*REBUILDS[rebuild] if number == 1 else drop_triggers(world))
        world.execute(f"UPDATE item SET name = 'own {number}' WHERE id = {number}")
        changed(world, origin, number)
        assert is_captured(world)
    assert conflicts(world) == [("own 1", "later"), ("own 2", "later")]
    assert world.letters() == []
    noted = world.query("SELECT detail FROM rf_audit WHERE action = 'capture' ORDER BY id")
    assert ["item" in json.loads(detail)["installed_anew_for"] for (detail,) in noted] == [True, True]


@pytest.mark.parametrize("way", ["short", "long"])
def test_deletes_and_inserts_neither(world: World, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    if way == "long":
        only_the_long_way(monkeypatch)
    origin = filled(world)
    world.execute(*REBUILDS["create, copy, drop, rename"], "DELETE FROM item WHERE id = 1")
    changed(world, origin, 1)
    world.execute(*drop_triggers(world), "INSERT INTO item VALUES (4, 'own', 1)")
    changed(world, origin, 4)
    assert conflicts(world) == [(None, "later"), ("own", "later")]


def test_one_trigger_that_is_gone_is_seen(world: World) -> None:
    origin = filled(world)
    for number, statement in enumerate(drop_triggers(world), start=10):
        world.execute(statement)
        changed(world, origin, number)
        assert is_captured(world)


def test_a_batch_waits_where_capture_is_installed_by_hand(by_hand: World) -> None:
    world = by_hand
    origin = filled(world)
    world.execute(*REBUILDS["create, copy, drop, rename"], "UPDATE item SET name = 'own' WHERE id = 1")
    changed(world, origin)
    world.receive(origin.tx(Write("I", "parent", {"id": 1, "name": "theirs"}, 10)).body)
    assert [letter[1:] for letter in world.letters()] == [("uncaptured", "early")]
    assert "rowferry migrate" in world.one("SELECT error FROM rf_dead_letter")
    assert world.one("SELECT name FROM item WHERE id = 1") == "own"
    assert world.rows("parent") == [(1, "theirs")]
    assert not is_captured(world)
    world.clock.pass_seconds(60)
    applier = world.intakes[-1]._applier
    EarlyRetries(world.node, applier.apply).due()
    assert [letter[1:] for letter in world.letters()] == [("uncaptured", "early")]
    world.node.capture().install(list(world.node.captured_tables().values()))
    assert [result.outcome.value for result in Reshaped(world.node).retry()] == ["applied"]
    assert conflicts(world) == [("own", "later")]


def test_a_table_that_was_renamed_keeps_what_is_known_of_its_rows(world: World) -> None:
    origin = filled(world)
    origin.tables["thing"] = origin.tables["item"]
    world.execute("ALTER TABLE item RENAME TO thing", "UPDATE thing SET name = 'own' WHERE id = 2")

    def change(number: int, hlc: int, base: int) -> None:
        row = {"id": number, "name": "later", "price": "1.50"}
        world.receive(origin.tx(Write("U", "thing", row, hlc, Version(0, base, "a"))).body)

    change(1, world.clock.us, 10)
    change(1, 5, 1)
    change(2, world.clock.us, 10)
    assert world.letters() == []
    assert world.query("SELECT id, name FROM thing WHERE id = 1") == [(1, "later")]
    assert conflicts(world) == [("own", "later")]


def test_nothing_of_a_renamed_table_is_covered_where_capture_is_installed_by_hand(by_hand: World) -> None:
    world = by_hand
    origin = filled(world)
    origin.tables["thing"] = origin.tables["item"]
    world.execute("ALTER TABLE item RENAME TO thing", "UPDATE thing SET name = 'own' WHERE id = 2")
    row = {"id": 2, "name": "later", "price": "1.50"}
    world.receive(origin.tx(Write("U", "thing", row, world.clock.us, Version(0, 10, "a"))).body)
    world.node.capture().install(list(world.node.captured_tables().values()))
    Reshaped(world.node).retry()
    assert conflicts(world) == [("own", "later")]
    assert [letter for letter in world.letters() if letter[2] != "replayed"] == []


@pytest.mark.parametrize("off", ["DISABLE TRIGGER ALL", "DISABLE TRIGGER USER", "ENABLE REPLICA TRIGGER {}"])
def test_triggers_that_are_switched_off_count_as_gone(pg_world: World, off: str) -> None:
    world = pg_world
    origin = filled(world)
    ((name,), *_) = world.query("SELECT tgname FROM pg_trigger WHERE tgrelid = 'item'::regclass ORDER BY tgname")
    world.execute(f"ALTER TABLE item {off}".replace("{}", f'"{name}"'), "UPDATE item SET name = 'own' WHERE id = 1")
    changed(world, origin)
    assert conflicts(world) == [("own", "later")]


@pytest.mark.parametrize("off", [False, True])
def test_truncate(pg_world: World, off: bool) -> None:
    world = pg_world
    origin = filled(world)
    world.execute(*(drop_triggers(world) if off else ()), "TRUNCATE item")
    changed(world, origin)
    assert conflicts(world) == [(None, "later")]


@pytest.mark.parametrize("owner", ["attaches a partition", "switches a partition's triggers off"])
def test_partitions(pg_world: World, owner: str) -> None:
    world = pg_world
    world.execute(
        "DROP TABLE item",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2)) PARTITION BY RANGE (id)",
        "CREATE TABLE item_low PARTITION OF item FOR VALUES FROM (0) TO (10)",
    )
    world.node.capture().install(list(world.node.captured_tables().values()))
    origin = filled(world)
    if owner == "attaches a partition":
        world.execute(
            "CREATE TABLE item_high (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))",
            "INSERT INTO item_high VALUES (12, 'own', 1)",
            "ALTER TABLE item ATTACH PARTITION item_high FOR VALUES FROM (10) TO (20)",
        )
        changed(world, origin, 12)
    else:
        world.execute("ALTER TABLE item_low DISABLE TRIGGER ALL", "UPDATE item SET name = 'own' WHERE id = 1")
        changed(world, origin)
    assert is_captured(world)
    assert conflicts(world) == [("own", "later")]


@pytest.mark.parametrize("with_triggers", [False, True])
def test_one_table_that_is_put_back_from_a_dump(pg_world: World, tmp_path: Path, with_triggers: bool) -> None:
    world, url = pg_world, pg_world.node.database.engine.url
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    origin = filled(world)
    world.execute("UPDATE item SET name = 'own' WHERE id = 1")
    Committing(world.node).seal()
    dump = str(tmp_path / "item.dump")
    subprocess.run(["pg_dump", "-Fc", "-t", "item", "-f", dump, plain], check=True, capture_output=True)
    # What the other nodes have heard of last is not what comes back.
    world.execute("UPDATE item SET name = 'after' WHERE id = 1", "DELETE FROM item WHERE id = 3")
    Committing(world.node).seal()
    options = ["--clean", "--if-exists"] if with_triggers else ["--clean", "--if-exists", "-t", "item"]
    subprocess.run(["pg_restore", *options, "-d", plain, dump], check=True, capture_output=True)
    if not with_triggers:
        # It has none of its own keys either, then.
        world.execute("ALTER TABLE item ADD PRIMARY KEY (id)")
    standing = world.query("SELECT 1 FROM pg_trigger WHERE tgrelid = 'item'::regclass AND NOT tgisinternal")
    assert bool(standing) == with_triggers
    changed(world, origin)
    log = "SELECT op, pk, after FROM rf_change_log ORDER BY seq DESC LIMIT 3"
    assert sorted((op, json.loads(pk)["id"], _name(after)) for op, pk, after in world.query(log)) == [
        ("I", 3, "here"),
        ("U", 1, "own"),
        ("U", 2, "first"),
    ]
    assert conflicts(world)[-1] == ("own", "later")


def test_a_whole_database_that_is_put_back_is_not_sent_again(pg_world: World, tmp_path: Path) -> None:
    world, url = pg_world, pg_world.node.database.engine.url
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    filled(world)
    dump = str(tmp_path / "all.dump")
    subprocess.run(["pg_dump", "-Fc", "-f", dump, plain], check=True, capture_output=True)
    subprocess.run(["pg_restore", "--clean", "--if-exists", "-d", plain, dump], check=True, capture_output=True)
    assert not is_captured(world)
    before = world.one("SELECT count(*) FROM rf_change_log")
    world.node.capture().install(list(world.node.captured_tables().values()))
    assert world.one("SELECT count(*) FROM rf_change_log") == before


def test_a_table_that_somebody_holds_waits_alone(pg_world: World) -> None:
    world = pg_world
    origin = filled(world)
    world.execute(*REBUILDS["create, copy, drop, rename"])
    with application(world.node.database.engine.url) as connection:
        connection.exec_driver_sql("UPDATE item SET name = 'own' WHERE id = 1")
        changed(world, origin, 2)
        world.receive(origin.tx(Write("I", "parent", {"id": 1, "name": "theirs"}, 10)).body)
        assert [letter[1:] for letter in world.letters()] == [("uncaptured", "early")]
        assert world.rows("parent") == [(1, "theirs")]
    world.node.capture().install(list(world.node.captured_tables().values()))
    assert [result.outcome.value for result in Reshaped(world.node).retry()] == ["applied"]
    assert world.query("SELECT name FROM item ORDER BY id") == [("own",), ("later",), ("here",)]


def test_two_that_install_at_once(pg_world: World) -> None:
    world = pg_world
    filled(world)
    tables = list(world.node.captured_tables().values())
    for _ in range(5):
        world.execute(*REBUILDS["create, copy, drop, rename"], "UPDATE item SET name = name || 'x'")
        before = world.one("SELECT count(*) FROM rf_change_log")
        together = threading.Barrier(2)
        with ThreadPoolExecutor(2) as threads:
            for one in [threads.submit(_install, world, tables, together) for _ in range(2)]:
                one.result()
        assert world.one("SELECT count(*) FROM rf_change_log") == before + 3
        assert is_captured(world)


def _install(world: World, tables: Sequence[TableShape], together: threading.Barrier) -> None:
    together.wait()
    world.node.capture().install(tables)
