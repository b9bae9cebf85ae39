"""What a snapshot must never do to those who take it: found by a review from outside, held here."""

# ruff: noqa: F811 -- fixtures are called what they give

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.config.load import load_config
from common.dialects.postgresql.frozen import PostgresFrozenLook
from common.errors import UsageError
from common.ops.table_making import make
from common.ports.dialect import TableShape
from common.ports.snapshot import FrozenRow
from common.runtime.node import open_node
from consumer.snapshots import exporting
from consumer.snapshots.importing import SnapshotImport
from tests.integration.test_snapshot import (  # noqa: F401 fixtures
    DDL,
    TABLES,
    carry,
    main,
    same,
    shop,
    source,
    target,
)
from tests.support.applying import Origin, World, close_world, open_world, sqlite_url
from tests.support.cli import call, ok
from tests.support.nodes import CliNode


@pytest.mark.containers
def test_a_table_that_is_written_anew_meanwhile_is_exported_whole(
    tmp_path: Path, pg_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ALTER TABLE that writes a table anew is not seen as of a moment: a look from before finds it empty."""
    here = open_world(pg_database)
    here.execute("INSERT INTO code VALUES (1, 'a')", "INSERT INTO parent VALUES (1, 'p')")
    altering: list[threading.Thread] = []
    inner = PostgresFrozenLook.rows

    def rows(look: PostgresFrozenLook, table: TableShape) -> Iterator[FrozenRow]:
        if not altering:
            alter = "ALTER TABLE parent ALTER COLUMN id TYPE bigint"
            altering.append(threading.Thread(target=here.execute, args=(alter,)))
            altering[0].start()
            altering[0].join(0.5)
        return inner(look, table)

    monkeypatch.setattr(PostgresFrozenLook, "rows", rows)
    done = exporting.export_snapshot(here.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    altering[0].join()
    assert done.rows == 2
    assert b'{"type":"row","table":"parent","pk":{"id":1}' in (tmp_path / "s.jsonl").read_bytes()
    close_world(here)


@pytest.mark.parametrize("how", ["paused", "rebuilt"])
def test_what_was_written_unseen_is_never_replaced(main: CliNode, shop: CliNode, tmp_path: Path, how: str) -> None:
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    ok(shop, "snapshot", "import", file)
    if how == "paused":
        ok(shop, "pause", "part")
    else:
        shop.execute(
            "CREATE TABLE part2 (id integer PRIMARY KEY, item_id integer REFERENCES item (id), note text)",
            "INSERT INTO part2 SELECT * FROM part",
            "DROP TABLE part",
            "ALTER TABLE part2 RENAME TO part",
        )
    shop.execute("INSERT INTO part VALUES (77, 1, 'unseen')")
    done = call(shop, "snapshot", "import", file, "--replace")
    assert done.exit_code == 2
    assert "part is" in done.output
    assert shop.query("SELECT note FROM part WHERE id = 77") == [("unseen",)]


def test_an_id_that_was_used_before_is_not_taken_again(main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    """Else what its first life had sent last would reach everybody but itself."""
    shop.execute("INSERT INTO item VALUES (30, 'first life', 1)")
    for node in (shop, main):
        ok(node, "run", "--once")
    shop.execute("INSERT INTO item VALUES (31, 'sent, and lost here', 1)")
    ok(shop, "run", "--once")
    shop.execute("DROP TABLE part", "DROP TABLE item")
    ok(shop, "unmigrate", "--yes", "--force")
    shop.execute(*DDL)
    ok(shop, "migrate")
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    done = call(shop, "snapshot", "import", file)
    assert done.exit_code == 2
    assert "main knows a node shop from before" in done.output
    assert "another node.id" in done.output
    assert shop.rows(TABLES) == {"item": [], "part": []}


def test_tables_that_the_snapshot_lacks_are_not_emptied(main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    file = str(tmp_path / "main.jsonl")
    ok(main, "snapshot", "export", "--out", file)
    ok(shop, "snapshot", "import", file)
    shop.execute("CREATE TABLE local (id integer PRIMARY KEY)", "INSERT INTO local VALUES (1)")
    ok(shop, "migrate")
    done = call(shop, "snapshot", "import", file, "--replace")
    assert done.exit_code == 2
    assert "local is captured here and not where the snapshot comes from" in done.output
    assert shop.query("SELECT count(*) FROM local") == [(1,)]


def test_rows_without_a_name_stay(tmp_path: Path) -> None:
    urls = {name: sqlite_url(tmp_path, f"{name}.db") for name in ("here", "there")}
    ddl = ("CREATE TABLE thing (a TEXT, b TEXT, PRIMARY KEY (a, b))",)
    here, there = (open_world(url, ddl, node={"id": name, "database": url}) for name, url in urls.items())
    here.execute("INSERT INTO thing VALUES ('x', 'y')")
    there.execute("INSERT INTO thing VALUES ('x', NULL)")
    carry(here, there, tmp_path / "s.jsonl", replace=True)
    assert sorted(there.rows("thing"), key=str) == [("x", "y"), ("x", None)]
    for world in (here, there):
        close_world(world)


def test_no_step_back_behind_what_was_applied(source: World, target: World, tmp_path: Path) -> None:
    one, other = Origin("x"), Origin("y")
    first, second = one.put(1, "a", 10).body, one.put(2, "b", 20).body
    source.receive(first)
    exporting.export_snapshot(source.node, tmp_path / "s.jsonl", "tester", lambda _: None)
    target.receive(first, second)
    work = SnapshotImport(target.node, tmp_path / "s.jsonl", "tester", replace=True)
    with pytest.raises(UsageError, match=r"lacks \(1 of x\): export there again once it has them"):
        work.look(lambda _: None)
    other.put(8, "z", 8)
    above = other.put(9, "above a gap", 9).body
    target.receive(above)
    source.receive(second)
    with pytest.raises(UsageError, match=r"lacks \(2 of y\)"):
        carry(source, target, tmp_path / "s.jsonl", replace=True)
    assert len(target.rows()) == 3
    source.receive(above)
    carry(source, target, tmp_path / "s.jsonl", replace=True)
    assert target.rows() == source.rows()


def test_tables_made_by_a_command_that_died_are_not_filled_uncaptured(
    main: CliNode, shop_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "main.jsonl"
    ok(main, "snapshot", "export", "--out", str(file))
    late = CliNode("late", tmp_path / "late", shop_url)
    late.folder.mkdir()
    ok(late, "init", "--node", "late", "--database", shop_url)
    ok(late, "migrate")
    with open_node(load_config(late.folder / "rowferry.toml")) as node:
        work = SnapshotImport(node, file, "tester", replace=False)
        found = work.look(lambda _: None, may_make_tables=True)
        make(node.database, {name: plan for name, plan in found.missing_tables.items() if plan is not None})
    done = call(late, "snapshot", "import", str(file), "--create-tables")
    assert done.exit_code == 2
    assert "run `rowferry migrate`" in done.output
    ok(late, "migrate")
    ok(late, "snapshot", "import", str(file), "--create-tables")
    assert same(main, late)
