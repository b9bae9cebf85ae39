"""`rowferry snapshot`: a new node from another one's rows; what it refuses, and what comes along."""

from __future__ import annotations

import hashlib
import json
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from common.config.model import Config
from common.crash_points import CrashPoint
from common.errors import PoisonError, PreflightError, UsageError
from common.ops.migration import migrate
from common.versions import Version
from common.wire.compress import compress
from common.wire.signing import Signer, new_private_key
from common.wire.snapshot import LetterLine, Reading
from consumer.snapshots import exporting
from consumer.snapshots.importing import SnapshotImport
from consumer.snapshots.line_checks import LineChecks
from tests.support.applying import (
    SCHEMA,
    Origin,
    World,
    Write,
    close_world,
    drop_triggers,
    item,
    open_world,
    sqlite_url,
)
from tests.support.cli import call, document, ok
from tests.support.either import KINDS, either_url
from tests.support.meanwhile import meanwhile
from tests.support.nodes import CliNode

TABLES = ("item", "part")
DDL = (
    "CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric(9, 2))",
    "CREATE TABLE part (id integer PRIMARY KEY, item_id integer REFERENCES item (id), note text)",
)


@pytest.fixture
def main(tmp_path: Path, main_url: str) -> CliNode:
    """A node with rows from before `migrate`, changed and deleted ones since."""
    node = _node(tmp_path, "main", main_url, before=["INSERT INTO item VALUES (1, 'old', 1.50), (2, 'older', 2)"])
    node.execute(
        "INSERT INTO item VALUES (3, 'tea', 4.50), (4, 'gone', 1)",
        "INSERT INTO part VALUES (1, 3, 'a''b \\ ü'), (2, NULL, NULL)",
        "UPDATE item SET price = 2.25 WHERE id = 2",
    )
    # Else it never was: on SQLite one transaction is what was committed between two looks.
    ok(node, "run", "--once")
    node.execute("DELETE FROM item WHERE id = 4")
    return node


@pytest.fixture
def shop(tmp_path: Path, shop_url: str) -> CliNode:
    return _node(tmp_path, "shop", shop_url)


def _node(folder: Path, name: str, url: str, before: list[str] | None = None, *options: str) -> CliNode:
    node = CliNode(name, folder / name, url)
    node.folder.mkdir()
    ok(node, "init", "--node", name, "--database", url, "--directory", str(folder / "exchange"), *options)
    node.execute(*DDL, *(before or []))
    ok(node, "migrate")
    return node


def report(node: CliNode, *arguments: str, code: int = 0) -> Any:
    return document(node.folder / "rowferry.toml", *arguments, code=code)


def same(one: CliNode, other: CliNode) -> bool:
    return plain(one) == plain(other)


def plain(node: CliNode) -> dict[str, list[list[str | None]]]:
    """The rows, values as text: SQLite's numbers are others than PostgreSQL's."""
    return {
        name: sorted(
            [
                [None if value is None else f"{value:g}" if isinstance(value, float) else str(value) for value in row]
                for row in node.query(f"SELECT id, {', '.join(columns)} FROM {name}")
            ],
            key=str,
        )
        for name, columns in (("item", ("name",)), ("part", ("item_id", "note")))
    }


def test_a_new_node_begins_with_it_and_goes_on(main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    file = str(tmp_path / "main.jsonl.zst")
    made = report(main, "snapshot", "export", "--out", file)
    assert (made["rows"], made["tombstones"], made["tables"]) == (5, 1, 2)
    assert made["last_lsn"] == main.head() > 0
    main.execute("INSERT INTO item VALUES (5, 'since', 1)", "UPDATE item SET name = 'older since' WHERE id = 2")
    dry = report(shop, "snapshot", "import", file, "--dry-run")
    assert (dry["rows"], dry["dry_run"], shop.query("SELECT count(*) FROM item")) == (5, True, [(0,)])
    done = report(shop, "snapshot", "import", file)
    assert (done["sha256"], done["rows"]) == (made["sha256"], 5)
    assert shop.watermark("main") == made["last_lsn"]
    shop.execute("UPDATE item SET name = 'written here' WHERE id = 1")
    for node in (main, shop, main, shop):
        ok(node, "run", "--once")
    assert same(main, shop)
    assert [row[1] for row in plain(shop)["item"]] == ["written here", "older since", "tea", "since"]
    assert report(shop, "conflicts", "list") == report(main, "conflicts", "list") == []
    lines = [json.loads(line) for line in ok(shop, "audit").splitlines()]
    assert "snapshot-imported" in [line["action"] for line in lines]
    # What lies in the folder from before is known: nothing of it was applied a second time.
    assert len([line for line in lines if line["action"] == "applied"]) == 1


@pytest.mark.parametrize(("cut", "more"), [(-5, b""), (None, b"more")], ids=["torn", "behind its end"])
def test_a_snapshot_whose_wrapping_ends_wrong_is_refused(
    main: CliNode, shop: CliNode, tmp_path: Path, cut: int | None, more: bytes
) -> None:
    file = tmp_path / "main.jsonl.gz"
    ok(main, "snapshot", "export", "--out", str(file))
    file.write_bytes(file.read_bytes()[:cut] + more)
    done = call(shop, "snapshot", "import", str(file))
    assert (done.exit_code, f"{file}: line " in done.output) == (3, True)
    assert shop.rows(TABLES) == {"item": [], "part": []}


def test_what_is_torn_or_altered_is_refused_whole(main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    file = tmp_path / "main.jsonl"
    ok(main, "snapshot", "export", "--out", str(file))
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    broken = {
        "it is torn": whole[:-40],
        "in the middle": b"".join(lines[:-1]),
        "checksum": whole.replace(b'"tea"', b'"TEA"'),
        "count or checksum": b"".join([*lines[:5], *lines[6:]]),
        "behind its end": whole + b"\n",
        "a second snapshot": b"".join([*lines[:-1], lines[0], lines[-1]]),
        "does not begin": b"".join(lines[1:]),
        "no line of a snapshot": whole.replace(b'"type":"row"', b'"type":"raw"', 1),
        "format 'rowferry/2'": whole.replace(b"rowferry/1", b"rowferry/2"),
        "which this release does not know": whole.replace(b'"requires":[]', b'"requires":["x"]'),
        "'utf-8' codec": whole.replace("ü".encode(), b"\xff"),
    }
    for what, data in broken.items():
        file.write_bytes(data)
        done = call(shop, "snapshot", "import", str(file))
        assert done.exit_code == 3, (what, done.output)
        assert what in done.output
        assert f"{file}: line " in done.output
    assert shop.rows(TABLES) == {"item": [], "part": []}
    file.write_bytes(whole)
    ok(shop, "snapshot", "import", str(file))


def test_whoever_has_rows_is_no_new_node(main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    file = str(tmp_path / "main.jsonl.gz")
    ok(main, "snapshot", "export", "--out", file)
    shop.execute("INSERT INTO item VALUES (9, 'mine', 1)")
    done = call(shop, "snapshot", "import", file)
    assert done.exit_code == 2
    assert "1 changes of its own that the snapshot of main does not have" in done.output
    # Not in the place of rows that nobody else has.
    assert call(shop, "snapshot", "import", file, "--replace").exit_code == 2
    for node in (shop, main):
        ok(node, "run", "--once")
    ok(main, "snapshot", "export", "--out", file)
    done = call(shop, "snapshot", "import", file)
    assert done.exit_code == 2
    assert "there are rows in item, part" in done.output
    assert "--replace" in done.output
    assert report(shop, "snapshot", "import", file, "--replace")["replaced_rows"]
    assert same(main, shop)
    shop.execute("UPDATE item SET name = 'still mine' WHERE id = 9")
    for node in (shop, main, shop):
        ok(node, "run", "--once")
    assert same(main, shop)
    assert "still mine" in str(plain(main))
    assert report(main, "conflicts", "list") == []


def test_rows_that_are_not_captured_never_point_nowhere_afterwards(
    main: CliNode, shop: CliNode, tmp_path: Path
) -> None:
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    ok(shop, "snapshot", "import", file)
    config = shop.folder / "rowferry.toml"
    config.write_text(config.read_text().replace("exclude = []", 'exclude = ["Label"]'))
    shop.execute('CREATE TABLE "Label" (id integer PRIMARY KEY, "of" integer REFERENCES item (id))')
    shop.execute('INSERT INTO "Label" VALUES (1, 3), (2, NULL)')
    ok(shop, "migrate")
    assert report(shop, "snapshot", "import", file, "--replace")["rows"] == 5
    main.execute("DELETE FROM part WHERE item_id = 3", "DELETE FROM item WHERE id = 3")
    ok(main, "snapshot", "export", "--out", file)
    before = shop.rows(TABLES)
    done = call(shop, "snapshot", "import", file, "--replace")
    assert done.exit_code == 3
    assert "would point nowhere (1 of Label)" in done.output
    assert shop.rows(TABLES) == before
    shop.execute('DELETE FROM "Label" WHERE id = 1')
    ok(shop, "snapshot", "import", file, "--replace")
    assert same(main, shop)


def test_its_own_snapshot_is_no_backup(main: CliNode, tmp_path: Path) -> None:
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    done = call(main, "snapshot", "import", file, "--replace")
    assert (done.exit_code, "rowferry restore" in done.output) == (2, True)


def test_a_paused_table_is_not_exported(main: CliNode, tmp_path: Path) -> None:
    ok(main, "pause", "part")
    done = call(main, "snapshot", "export", "--out", str(tmp_path / "x.jsonl"))
    assert (done.exit_code, "rowferry resume" in done.output) == (2, True)


def test_a_table_without_its_triggers_is_not_exported(source: World, tmp_path: Path) -> None:
    source.execute(*drop_triggers(source, "code"))
    source.execute("INSERT INTO code VALUES (1, 'unseen')")
    with pytest.raises(UsageError, match="code is not captured as it is now"):
        exporting.export_snapshot(source.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    assert not list(tmp_path.glob("*.jsonl"))


def test_the_nodes_own_files_are_never_written_over(main: CliNode) -> None:
    done = call(main, "snapshot", "export", "--out", str(main.folder / "rowferry.toml"))
    assert (done.exit_code, "belongs to this node" in done.output) == (2, True)


def test_tables_that_do_not_fit_are_named_before_a_row_is_written(main: CliNode, tmp_path: Path) -> None:
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    url = f"sqlite:///{tmp_path / 'other.db'}"
    other = CliNode("other", tmp_path / "other", url)
    other.folder.mkdir()
    ok(other, "init", "--node", "other", "--database", url)
    other.execute("CREATE TABLE item (id integer PRIMARY KEY, name text)")
    ok(other, "migrate")
    done = call(other, "snapshot", "import", file)
    assert done.exit_code == 3
    assert "has no column 'price'" in done.output
    assert "lacks 1 tables of it (part)" in done.output


def test_missing_tables_are_made(main: CliNode, shop_url: str, tmp_path: Path) -> None:
    main.execute("CREATE INDEX by_name ON item (name)")
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    shop = CliNode("shop", tmp_path / "shop", shop_url)
    shop.folder.mkdir()
    ok(shop, "init", "--node", "shop", "--database", shop_url, "--directory", str(tmp_path / "exchange"))
    ok(shop, "migrate")
    assert call(shop, "snapshot", "import", file).exit_code == 3
    dry = report(shop, "snapshot", "import", file, "--create-tables", "--dry-run")
    assert sorted(dry["made_tables"]) == ["item", "part"]
    assert report(shop, "migrate")["tables"] == []
    done = report(shop, "snapshot", "import", file, "--create-tables")
    assert (sorted(done["made_tables"]), done["rows"]) == (["item", "part"], 5)
    assert done["left_out"] == dry["left_out"]
    assert "item" in done["left_out"][0]
    assert "by_name" in done["left_out"][0]
    assert same(main, shop)
    shop.execute("INSERT INTO item VALUES (6, 'from the shop', 1.25)", "INSERT INTO part VALUES (6, 6, NULL)")
    main.execute("UPDATE item SET name = 'from main' WHERE id = 1")
    for node in (shop, main, shop):
        ok(node, "run", "--once")
    assert same(main, shop)
    assert report(main, "dlq", "list") == report(shop, "dlq", "list") == []


def test_what_can_not_be_made_is_told_before_anything_is(main: CliNode, tmp_path: Path) -> None:
    if main.database.startswith("sqlite"):
        pytest.skip("SQLite knows no such type")
    main.execute("CREATE TYPE mood AS ENUM ('sad')", "CREATE TABLE feeling (id int PRIMARY KEY, m mood)")
    ok(main, "migrate")
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    main.execute("DROP TABLE feeling", "DROP TABLE part", "DROP TABLE item", "DROP TYPE mood")
    main.node_id = "other"
    config = main.folder / "rowferry.toml"
    ok(main, "unmigrate", "--yes", "--force")
    config.write_text(config.read_text().replace('id = "main"', 'id = "other"'))
    ok(main, "migrate")
    done = call(main, "snapshot", "import", file, "--create-tables")
    assert done.exit_code == 3
    assert "feeling" in done.output
    assert "mood" in done.output
    assert main.query("SELECT count(*) FROM pg_class WHERE relname IN ('item', 'part', 'feeling')") == [(0,)]


@pytest.mark.parametrize("wal", [True, False], ids=["WAL", "without WAL"])
def test_it_is_of_one_moment_while_others_write(main: CliNode, shop: CliNode, tmp_path: Path, wal: bool) -> None:
    """Each transaction adds one row to both tables: any moment has as many of one as of the other."""
    if main.database.startswith("sqlite"):
        main.query(f"PRAGMA journal_mode = {'WAL' if wal else 'DELETE'}")
    elif not wal:
        pytest.skip("PostgreSQL has its log always")
    main.execute("DELETE FROM part")
    main.execute("DELETE FROM item")
    written = list[int]()

    def write(stop: threading.Event) -> None:
        number = 100
        while not stop.is_set():
            number += 1
            main.execute(
                f"INSERT INTO item VALUES ({number}, 'n{number}', 1)",
                f"INSERT INTO part VALUES ({number}, {number}, 'n')",
                f"UPDATE item SET name = 'twice' WHERE id = {number}",
            )
            written.append(number)

    with meanwhile(write):
        for turn in range(8):
            made = report(main, "snapshot", "export", "--out", str(tmp_path / f"{turn}.jsonl"))
            assert made["rows"] % 2 == 0
            ids: dict[str, list[int]] = {"item": [], "part": []}
            for line in map(json.loads, (tmp_path / f"{turn}.jsonl").read_text().splitlines()):
                if line["type"] == "row" and line["after"] is not None:
                    ids[line["table"]].append(line["after"]["id"])
                    assert line["after"].get("name", "twice") == "twice"
            assert sorted(ids["item"]) == sorted(ids["part"])
    assert len(written) > 8
    ok(shop, "snapshot", "import", str(tmp_path / "7.jsonl"))
    for node in (main, shop):
        ok(node, "run", "--once")
    assert same(main, shop)


def test_killed_before_its_commit_nothing_of_it_is_there(main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    done = shop.call("snapshot", "import", file, ROWFERRY_TEST_DIE_AT=CrashPoint.BEFORE_COMMIT.value)
    assert done.returncode == -signal.SIGKILL
    assert shop.rows(TABLES) == {"item": [], "part": []}
    assert shop.query("SELECT count(*) FROM rf_row_version WHERE node_id <> ''") == [(0,)]
    assert shop.watermark("main") == 0
    ok(shop, "snapshot", "import", file)
    assert same(main, shop)


@pytest.mark.containers
@pytest.mark.parametrize("keys", ["serial", "GENERATED BY DEFAULT AS IDENTITY"])
def test_new_rows_are_numbered_above_those_that_came(
    tmp_path: Path, pg_database_factory: Callable[[], str], keys: str
) -> None:
    ddl = f"CREATE TABLE sale (id {'serial' if keys == 'serial' else f'int {keys}'} PRIMARY KEY, note text)"
    nodes = []
    for name in ("main", "shop"):
        node = CliNode(name, tmp_path / name, pg_database_factory())
        node.folder.mkdir()
        ok(node, "init", "--node", name, "--database", node.database)
        node.execute(ddl)
        ok(node, "migrate")
        nodes.append(node)
    main, shop = nodes
    main.execute(*["INSERT INTO sale (note) VALUES ('m')"] * 7)
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    assert report(shop, "snapshot", "import", file)["key_notes"] == []
    shop.execute("INSERT INTO sale (note) VALUES ('s')")
    assert shop.query("SELECT id FROM sale WHERE note = 's'") == [(8,)]


# What is known beside rows: with made-up sources, node by node.


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made = open_world(either_url(request, tmp_path, "s.db"), SCHEMA, tables={"policy": {"code": "manual"}})
    yield made
    close_world(made)


@pytest.fixture(params=KINDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    url = either_url(request, tmp_path, "t.db")
    made = open_world(url, SCHEMA, node={"id": "there", "database": url}, tables={"policy": {"code": "manual"}})
    yield made
    close_world(made)


def carry(source: World, target: World, file: Path, *, replace: bool = False) -> Any:
    exporting.export_snapshot(source.node, file, "tester", lambda _: None)
    work = SnapshotImport(target.node, file, "tester", replace=replace)
    return work.apply(work.look(lambda _: None), lambda _: None)


def code(row_id: int, text: str, hlc: int, op: str = "I", **more: Any) -> Write:
    return Write(op, "code", {"id": row_id, "code": text}, hlc, **more)


def test_dead_letters_come_along_and_can_be_replayed(source: World, target: World, tmp_path: Path) -> None:
    origin = Origin("x")
    bad = origin.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    source.receive(bad.body, origin.put(1, "after", 11).body)
    unknown = Origin("y")
    unknown.tables["strange"] = unknown.tables["item"]
    source.receive(unknown.tx(Write("I", "strange", {"id": 1, "name": "n", "price": "1"}, 12)).body)
    before = set(source.letters_open())
    assert len(before) == 2
    done = carry(source, target, tmp_path / "s.jsonl")
    assert done.dead_letters == 2
    assert set(target.letters_open()) == before
    assert target.watermark("x") == 2
    parent = Origin("z").tx(Write("I", "parent", {"id": 7, "name": "p"}, 13))
    for world in (source, target):
        world.receive(parent.body)
        world.clock.pass_seconds(3600)
        world.intake().step(0)
        assert world.rows("child") == [(1, 7)]
        assert [letter[1] for letter in world.letters_open()] == ["unknown-table"]


def test_a_conflict_that_waits_comes_along_and_one_choice_closes_both(
    source: World, target: World, tmp_path: Path
) -> None:
    one, other = Origin("x"), Origin("y")
    source.receive(one.tx(code(1, "of x", 10)).body, other.tx(code(1, "of y", 20)).body)
    assert source.one("SELECT count(*) FROM rf_conflict WHERE state = 'waiting'") == 1
    assert carry(source, target, tmp_path / "s.jsonl").waiting_conflicts == 1
    assert target.rows("code") == source.rows("code") == [(1, "of x")]
    waits = "SELECT table_name, pk, kind, state, their_version, our_version FROM rf_conflict WHERE state = 'waiting'"
    assert target.query(waits) == source.query(waits)
    versions = (Version(0, 10, "x"), Version(0, 20, "y"))
    chosen = other.tx(code(1, "of y", 30, "U", base=versions[1], resolves=versions)).body
    for world in (source, target):
        world.receive(chosen)
        assert world.rows("code") == [(1, "of y")]
        assert world.one("SELECT count(*) FROM rf_conflict WHERE state = 'waiting'") == 0
    # A late copy of what it settled is late on both, and no new conflict.
    third = carry(source, target, tmp_path / "t.jsonl", replace=True)
    assert third.waiting_conflicts == 0
    late = Origin("w").tx(code(1, "late", 25, base=None)).body
    for world in (source, target):
        world.receive(late)
    assert target.rows("code") == source.rows("code")
    assert target.query(waits) == source.query(waits)


def test_the_horizon_of_forgotten_tombstones_comes_along(source: World, target: World, tmp_path: Path) -> None:
    number = source.one("SELECT table_id FROM rf_table WHERE name = 'item'")
    source.execute(f"INSERT INTO rf_horizon VALUES ({number}, 0, 500, 'x')")
    carry(source, target, tmp_path / "s.jsonl")
    old = Origin("x").tx(item(1, "older", 400)).body
    for world in (source, target):
        world.receive(old)
        assert [letter[1] for letter in world.letters_open()] == ["older-than-tombstones"]


def test_rows_that_point_nowhere_are_refused(source: World, target: World, tmp_path: Path) -> None:
    if source.node.database.engine.dialect.name == "postgresql":
        source.execute("ALTER TABLE child DROP CONSTRAINT child_parent_id_fkey")
    source.execute("INSERT INTO child VALUES (1, 99)")
    with pytest.raises(PreflightError, match="points to a row of parent that is not in it"):
        carry(source, target, tmp_path / "s.jsonl")
    assert target.rows("child") == []


def test_a_value_that_cannot_be_written_refuses_all(source: World, target: World, tmp_path: Path) -> None:
    source.execute("INSERT INTO item VALUES (1, 'a', 1), (2, 'b', 2)")
    exporting.export_snapshot(source.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    target.execute(f"CREATE UNIQUE INDEX one ON item ({'(1)' if _is_pg(target) else '0 + 1'})")
    migrate(target.node.database, target.node.config, target.node.clock)
    work = SnapshotImport(target.node, tmp_path / "s.jsonl", "tester", replace=False)
    with pytest.raises(PreflightError, match="the rows of item up to line"):
        work.apply(work.look(lambda _: None), lambda _: None)
    assert target.rows() == []


def _is_pg(world: World) -> bool:
    return world.node.database.engine.dialect.name == "postgresql"


def test_the_main_node_is_known_from_it(source: World, target: World, tmp_path: Path) -> None:
    source.receive(Origin("x").tx(item(1, "a", 5)).body)
    source.execute("UPDATE rf_node SET role = 'main' WHERE node_id = 'x'")
    carry(source, target, tmp_path / "s.jsonl")
    assert target.node.main() == "x"


@pytest.mark.parametrize("who", ["signed", "unsigned", "another key"])
def test_who_must_sign_has_signed_it(source: World, target: World, tmp_path: Path, who: str) -> None:
    known, other = new_private_key(), new_private_key()
    key = {"signed": known, "another key": other}.get(who)
    if key is not None:
        tree = source.node.config.model_dump(exclude_unset=True)
        tree["node"] = {**tree["node"], "signing_key": key}
        source.node = replace(source.node, config=Config.model_validate(tree))
    tree = target.node.config.model_dump(exclude_unset=True) | {"signers": {"here": [Signer(known).public]}}
    target.node = replace(target.node, config=Config.model_validate(tree))
    source.execute("INSERT INTO item VALUES (1, 'a', 1)")
    if who == "signed":
        carry(source, target, tmp_path / "s.jsonl")
        assert len(target.rows()) == 1
        return
    with pytest.raises(PreflightError, match="sign"):
        carry(source, target, tmp_path / "s.jsonl")
    assert target.rows() == []


def test_names_and_values_of_any_kind(tmp_path: Path) -> None:
    """SQLite to SQLite, bit for bit: what a column holds that its type does not say, names in need of quotes."""
    ddl = (
        'CREATE TABLE "odd % name" ("key ""a""" TEXT, "b.c" BLOB, v, PRIMARY KEY ("key ""a""", "b.c")) WITHOUT ROWID',
        "CREATE TABLE loose (id INTEGER PRIMARY KEY, v REAL, w TEXT, n NUMERIC)",
    )
    worlds = [
        open_world(
            sqlite_url(tmp_path, f"{name}.db"), ddl, node={"id": name, "database": sqlite_url(tmp_path, f"{name}.db")}
        )
        for name in ("a", "b")
    ]
    first, second = worlds
    with closing(sqlite3.connect(tmp_path / "a.db")) as raw, raw:
        for key, blob, value in [("x", b"\x00\xff", 1), ("y'%", b"", 1.5), ("ü", b"z", "text"), ("", b"q", None)]:
            raw.execute('INSERT INTO "odd % name" VALUES (?, ?, ?)', (key, blob, value))
        raw.execute("INSERT INTO loose VALUES (1, 'no number', x'00ff', '1e3')")
        raw.execute("INSERT INTO loose VALUES (2, 9e999, CAST(x'ff' AS TEXT), 9223372036854775807)")
        raw.execute("INSERT INTO loose VALUES (3, -0.0, 5, NULL)")
        raw.execute("INSERT INTO loose VALUES (4, 1, 'd', 1)")
        raw.execute("DELETE FROM loose WHERE id = 4")
    carry(first, second, tmp_path / "s.jsonl.zst")
    look = "SELECT quote(v), typeof(v), quote(w), typeof(w), quote(n), typeof(n) FROM loose ORDER BY id"
    keyed = 'SELECT quote("key ""a"""), quote("b.c"), quote(v) FROM "odd % name" ORDER BY 1, 2'
    found = []
    for name in ("a", "b"):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as raw:
            raw.text_factory = bytes
            found.append((raw.execute(look).fetchall(), raw.execute(keyed).fetchall()))
    assert found[0] == found[1]
    assert [len(rows) for rows in found[0]] == [3, 4]
    for world in worlds:
        close_world(world)


@pytest.mark.containers
def test_settings_of_the_database_bend_no_value(tmp_path: Path, pg_database_factory: Callable[[], str]) -> None:
    """What a database or a role sets for its applications, the session of a look does not take over."""
    ddl = (
        "CREATE TABLE moment (at timestamptz PRIMARY KEY, f float8, i interval, b bytea, d date, t time)",
        "CREATE TABLE part (n float8 PRIMARY KEY)",
    )
    worlds = []
    for name in ("a", "b"):
        url = pg_database_factory()
        database = sa.make_url(url).database
        world = open_world(url, ddl, node={"id": name, "database": url})
        for setting in (
            "timezone = 'Asia/Tokyo'",
            "datestyle = 'German, DMY'",
            "intervalstyle = 'sql_standard'",
            "extra_float_digits = -3",
            "bytea_output = 'escape'",
        ):
            world.execute(f'ALTER DATABASE "{database}" SET {setting}')
        world.node.database.close()
        worlds.append(world)
    first, second = worlds
    first.execute(
        "INSERT INTO moment VALUES ('2026-03-04T05:06:07.123456Z', 0.1::float8 + 0.2::float8, '1 year -2 days 3:04',"
        " '\\x00ff5c', '2026-12-11', '23:59:59.999999')",
        "INSERT INTO part VALUES (0.30000000000000004)",
        "INSERT INTO moment VALUES ('2025-01-01T00:00:00Z', 1, NULL, NULL, NULL, NULL)",
    )
    exporting.export_snapshot(first.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    first.execute("DELETE FROM moment WHERE f = 1")
    carry(first, second, tmp_path / "s.jsonl")
    look = (
        "SELECT timestamptz_send(at), float8send(f), interval_send(i), byteasend(b), date_send(d), time_send(t)"
        " FROM moment"
    )
    assert second.query(look) == first.query(look)
    assert second.query("SELECT float8send(n) FROM part") == first.query("SELECT float8send(n) FROM part")
    keys = "SELECT key, deleted FROM rf_row_version ORDER BY table_id, key"
    assert second.query(keys) == first.query(keys)
    for world in worlds:
        look_at = world.node.database.row_history(world.node.facts)
        shape = world.node.captured_tables()["moment"]
        found = look_at.look(shape, b'{"at":"2026-03-04T05:06:07.123456Z"}')
        assert found.known
        assert b"2026-03-04T05:06:07.123456" in (found.image or b"")
        close_world(world)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"last_lsn":2', b'"last_lsn":-2'),
        (b'"last_lsn":2', b'"last_lsn":9223372036854775808'),
        (b'"source_node":"x"', b'"source_node":"x/../y"'),
        (b'"version":[0,20,"x"]', b'"version":[0,20,""]'),
        (b'"version":[0,20,"x"]', b'"version":[0,99999999999999999,"x"]'),
        (b'"version":[0,20,"x"]', b'"version":[-1,20,"x"]'),
        (b'"table":"item","pk"', b'"table":"rf_node","pk"'),
        (b'"pk":{"id":1}', b'"pk":[1]'),
        (b'"pk":["id"]', b'"pk":[]'),
        (b'"pk":["id"]', b'"pk":["nowhere"]'),
        (b'"state":"dead"', b'"state":"alive"'),
        (b'"attempts":1', b'"attempts":99999999999'),
        (b'"error":"', b'"error":"\\u0000'),
        (b'"after":{"id":1', b'"after":{"id":{"deep":' + b"[" * 5000),
        (b'"after":{"id":1', b'"after":{"id":2'),
        (b'"after":{"id":1,', b'"after":{"id":1,"more":1,'),
        (b'"after":{"id":1,"name":"a",', b'"after":{"id":1,'),
        (b'"pk":{"id":1}', b'"pk":{"id":null}'),
        (b'"pk":{"id":1}', b'"pk":{"id":1,"name":"a"}'),
        (b'"aside":null', b'"aside":"because"'),
        (b'"highest_lsn":2', b'"highest_lsn":1'),
        (b'"applied_lsns":null', b'"applied_lsns":"no json"'),
        (b'"body":"', b'"body":"AAAA'),
    ],
)
def test_a_hostile_line_is_refused_by_its_number(tmp_path: Path, old: bytes, new: bytes) -> None:
    urls = {name: sqlite_url(tmp_path, f"{name}.db") for name in ("here", "there")}
    source, target = (open_world(url, node={"id": name, "database": url}) for name, url in urls.items())
    origin = Origin("x")
    bad = origin.tx(Write("I", "item", {"id": 7, "name": "b", "price": "no price"}, 10))
    source.receive(bad.body, origin.put(1, "a", 20).body)
    exporting.export_snapshot(source.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    *lines, end = (tmp_path / "s.jsonl").read_bytes().splitlines(keepends=True)
    body = b"".join(lines)
    assert old in body
    body = body.replace(old, new)
    sums = {"type": "end", "lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    assert json.loads(end).keys() == sums.keys()
    (tmp_path / "s.jsonl").write_bytes(body + json.dumps(sums).encode() + b"\n")
    work = SnapshotImport(target.node, tmp_path / "s.jsonl", "tester", replace=False)
    with pytest.raises(PreflightError, match=r"line \d+"):
        work.apply(work.look(lambda _: None), lambda _: None)
    assert target.rows() == []
    for world in (source, target):
        close_world(world)


def test_a_value_of_another_type_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """PostgreSQL would take a number for a text, SQLite would not."""
    urls = {name: sqlite_url(tmp_path, f"{name}.db") for name in ("here", "there")}
    source, target = (open_world(url, node={"id": name, "database": url}) for name, url in urls.items())
    source.receive(Origin("x").put(1, "a", 20).body)
    exporting.export_snapshot(source.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    *lines, _ = (tmp_path / "s.jsonl").read_bytes().splitlines(keepends=True)
    body = b"".join(lines).replace(b'"name":"a"', b'"name":5')
    sums = {"type": "end", "lines": len(lines), "sha256": hashlib.sha256(body).hexdigest()}
    (tmp_path / "s.jsonl").write_bytes(body + json.dumps(sums).encode() + b"\n")
    work = SnapshotImport(target.node, tmp_path / "s.jsonl", "tester", replace=False)
    with pytest.raises(PreflightError, match=r"line \d+: .*'name' is no text"):
        work.look(lambda _: None)
    for world in (source, target):
        close_world(world)


def test_an_early_letter_that_is_torn_is_refused(source: World, tmp_path: Path) -> None:
    early = Origin("x").tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    source.receive(early.body)
    assert [letter[2] for letter in source.letters_open()] == ["early"]
    exporting.export_snapshot(source.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    with (tmp_path / "s.jsonl").open("rb") as raw:
        reading = Reading(raw, tmp_path / "s.jsonl", source.node.config.trust())
        (letter,) = (line for _, line in reading if isinstance(line, LetterLine))
    checks = LineChecks({})
    checks.check(letter)
    torn = msgspec.structs.replace(letter, body=compress(early.body[:-30], "zstd"))
    with pytest.raises(PoisonError, match="an early letter that is torn"):
        checks.check(torn)
