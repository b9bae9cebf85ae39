"""`backup` and `restore`: a copy of a database in use, put back as a node that begins anew."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.ops.backup import MANIFEST
from tests.support.cli import call, document, ok
from tests.support.meanwhile import meanwhile
from tests.support.nodes import ROWFERRY, CliNode, MakeNode
from tests.support.waiting import wait_for

TABLES = ("item", "part")
DDL = (
    "CREATE TABLE item (id integer PRIMARY KEY, name text, price numeric(9, 2))",
    "CREATE TABLE part (id integer PRIMARY KEY, item_id integer REFERENCES item (id), note text)",
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shop.db'}"
    return str(request.getfixturevalue("pg_database"))


@pytest.fixture
def shop(nodes: MakeNode, database: str) -> CliNode:
    node = nodes("shop", database, "--role", "branch", "--directory", "../shared")
    node.execute(*DDL)
    ok(node, "migrate")
    node.execute("INSERT INTO item VALUES (1, 'tea', 4.50)", "INSERT INTO part VALUES (1, 1, 'a''b \\ %s')")
    ok(node, "run", "--once")
    return node


def report(node: CliNode, *arguments: str) -> Any:
    return document(node.folder / "rowferry.toml", *arguments)


def incarnation(node: CliNode) -> str:
    return str(node.query("SELECT incarnation FROM rf_node WHERE is_self")[0][0])


def test_what_was_backed_up_is_put_back_under_a_new_incarnation(shop: CliNode, tmp_path: Path) -> None:
    before, rows, head = incarnation(shop), shop.rows(TABLES), shop.head()
    made = report(shop, "backup", str(tmp_path / "b"))
    assert (made["node"], made["incarnation"], made["last_lsn"]) == ("shop", before, head)
    shop.execute("UPDATE item SET price = 5", "INSERT INTO item VALUES (2, 'salt', 1)", "DELETE FROM part")
    later = shop.rows(TABLES)
    done = report(shop, "restore", str(tmp_path / "b"))
    assert shop.rows(TABLES) == rows
    assert incarnation(shop) == done["to_incarnation"] != before == done["from_incarnation"]
    assert "restored" in ok(shop, "status")
    lines = [json.loads(line) for line in ok(shop, "audit").splitlines()]
    assert lines[-1]["action"] == "restored"
    # What stood there is a backup too, and not lost in silence.
    ok(shop, "restore", done["kept"])
    assert shop.rows(TABLES) == later


def test_changes_not_sealed_yet_travel_after_a_restore(shop: CliNode, nodes: MakeNode, tmp_path: Path) -> None:
    head = nodes("head", f"sqlite:///{tmp_path / 'head.db'}", "--role", "main", "--directory", "../shared")
    head.execute(*DDL)
    ok(head, "migrate")
    shop.execute("INSERT INTO item VALUES (7, 'unsealed', 7)")
    ok(shop, "backup", str(tmp_path / "b"))
    # After the backup it sends more, which the restored database does not have.
    shop.execute("INSERT INTO item VALUES (8, 'sent, then forgotten', 8)")
    ok(shop, "run", "--once")
    ok(head, "run", "--once")
    ok(shop, "restore", str(tmp_path / "b"))
    shop.execute("INSERT INTO item VALUES (9, 'after', 9)")
    assert report(shop, "rejoin")["fetched_txs"] > 0
    for node in (shop, head, shop, head):
        ok(node, "run", "--once")
    assert [row[0] for row in shop.rows(TABLES)["item"]] == [1, 7, 8, 9]
    assert head.rows(TABLES) == shop.rows(TABLES)


def test_a_node_that_runs_meanwhile_begins_anew(shop: CliNode, tmp_path: Path) -> None:
    if shop.database.startswith("sqlite"):
        shop.query("PRAGMA journal_mode = WAL")
    ok(shop, "backup", str(tmp_path / "b"))
    running = shop.start()
    try:
        shop.execute("INSERT INTO item VALUES (2, 'salt', 1)")
        ok(shop, "restore", str(tmp_path / "b"))
        to = incarnation(shop)
        shop.execute("INSERT INTO item VALUES (3, 'after', 1)")
        sealed = "SELECT count(*) FROM rf_tx WHERE incarnation = "
        wait_for(lambda: shop.query(f"{sealed}'{to}'")[0][0] > 0, 60, "sealed under the new incarnation")
    finally:
        assert running.stop() == 0, running.tail()
    assert [row[0] for row in shop.rows(TABLES)["item"]] == [1, 3]


def test_a_copy_is_whole_while_others_write(shop: CliNode, tmp_path: Path) -> None:
    """Each write adds one row to both tables: any moment has as many of one as of the other."""
    written, copies = list[int](), list[Path]()

    def write(stop: threading.Event) -> None:
        number = 100
        while not stop.wait(0.01):
            shop.execute(
                f"INSERT INTO item VALUES ({number}, 'x', 1)", f"INSERT INTO part VALUES ({number}, {number}, 'x')"
            )
            written.append(number)
            number += 1

    with meanwhile(write):
        # On a machine that is busy with other tests few are written while one copy is made.
        while len(copies) < 3 or (len(written) < 10 and len(copies) < 20):
            copies.append(tmp_path / str(len(copies)))
            ok(shop, "backup", str(copies[-1]))
    assert len(written) > 3, "nothing was written meanwhile: this test shows nothing"
    for copy in copies[-3:]:
        ok(shop, "restore", str(copy), "--discard-present")
        rows = shop.rows(TABLES)
        assert [row[0] for row in rows["item"]] == [row[0] for row in rows["part"]]


def test_it_is_put_back_where_nothing_is(shop: CliNode, database: str, tmp_path: Path) -> None:
    rows = shop.rows(TABLES)
    ok(shop, "backup", str(tmp_path / "b"))
    if database.startswith("sqlite"):
        for file in tmp_path.glob("shop.db*"):
            file.unlink()
    else:
        shop.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    done = report(shop, "restore", str(tmp_path / "b"))
    assert done["kept"] is None
    assert shop.rows(TABLES) == rows
    ok(shop, "run", "--once")


def test_an_altered_backup_is_refused_before_anything_happens(shop: CliNode, tmp_path: Path) -> None:
    ok(shop, "backup", str(tmp_path / "b"))
    before, rows = incarnation(shop), shop.rows(TABLES)
    for damage in (_flip, _cut, _no_manifest, _torn_manifest):
        folder = shutil.copytree(tmp_path / "b", tmp_path / damage.__name__)
        damage(next(one for one in folder.iterdir() if one.name != MANIFEST), folder / MANIFEST)
        done = call(shop, "restore", str(folder))
        assert done.exit_code == 3, done.output
        assert str(folder) in done.output
    assert (incarnation(shop), shop.rows(TABLES)) == (before, rows)
    assert [one.name for one in tmp_path.iterdir() if "restore" in one.name] == []
    # What has no manifest was cut off: the next one takes its place.
    ok(shop, "backup", str(tmp_path / _no_manifest.__name__))
    ok(shop, "restore", str(tmp_path / _no_manifest.__name__))


def _flip(file: Path, _manifest: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _cut(file: Path, _manifest: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _no_manifest(_file: Path, manifest: Path) -> None:
    manifest.unlink()


def _torn_manifest(_file: Path, manifest: Path) -> None:
    manifest.write_bytes(manifest.read_bytes()[:-20])


def test_what_does_not_fit_is_refused(shop: CliNode, nodes: MakeNode, tmp_path: Path) -> None:
    ok(shop, "backup", str(tmp_path / "b"))
    again = call(shop, "backup", str(tmp_path / "b"))
    assert again.exit_code == 2
    assert "not empty" in again.output
    other = nodes("other", f"sqlite:///{tmp_path / 'other.db'}", "--directory", "../shared")
    other.execute(*DDL)
    ok(other, "migrate")
    foreign = call(other, "restore", str(tmp_path / "b"))
    assert foreign.exit_code == 2
    assert "of node 'shop'" in foreign.output or "postgresql" in foreign.output
    missing = call(shop, "restore", str(tmp_path / "nowhere"))
    assert missing.exit_code == 2


def test_tables_of_something_else_are_not_overwritten(shop: CliNode, nodes: MakeNode, tmp_path: Path) -> None:
    if not shop.database.startswith("sqlite"):
        pytest.skip("of a second database; SQLite shows it")
    ok(shop, "backup", str(tmp_path / "b"))
    for file in tmp_path.glob("shop.db*"):
        file.unlink()
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE precious (id)")
    done = call(shop, "restore", str(tmp_path / "b"))
    assert done.exit_code == 2
    assert "--discard-present" in done.output
    assert shop.query("SELECT count(*) FROM precious") == [(0,)]
    ok(shop, "restore", str(tmp_path / "b"), "--discard-present")
    assert shop.rows(TABLES)["item"]


def test_what_stands_in_the_way_is_named_and_nothing_happens(shop: CliNode, tmp_path: Path) -> None:
    """On PostgreSQL what was made since stays; on SQLite a restore is the whole file."""
    if shop.database.startswith("sqlite"):
        pytest.skip("nothing can stand in the way there")
    ok(shop, "backup", str(tmp_path / "b"))
    rows, before = shop.rows(TABLES), incarnation(shop)
    shop.execute("CREATE TABLE since (id int PRIMARY KEY, item_id int REFERENCES item (id))")
    done = call(shop, "restore", str(tmp_path / "b"), "--discard-present")
    assert done.exit_code == 1, done.output
    assert "since" in done.output
    assert (shop.rows(TABLES), incarnation(shop)) == (rows, before)
    shop.execute("ALTER TABLE since DROP CONSTRAINT since_item_id_fkey")
    ok(shop, "restore", str(tmp_path / "b"), "--discard-present")
    assert shop.query("SELECT count(*) FROM since") == [(0,)]


def test_a_link_stays_a_link(nodes: MakeNode, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "shop.db").symlink_to(tmp_path / "disk" / "real.db")
    node = nodes("shop", f"sqlite:///{tmp_path / 'shop.db'}", "--directory", "../shared")
    node.execute(*DDL)
    ok(node, "migrate")
    ok(node, "backup", str(tmp_path / "b"))
    (tmp_path / "disk" / "real.db").unlink()
    ok(node, "restore", str(tmp_path / "b"))
    assert (tmp_path / "shop.db").is_symlink()
    assert (tmp_path / "disk" / "real.db").exists()
    ok(node, "status")


def test_killed_at_any_moment_it_is_the_old_or_the_new(shop: CliNode, tmp_path: Path) -> None:
    """SIGKILL after ever more time: the database is as it was, or as the backup with a new incarnation."""
    old = shop.rows(TABLES), incarnation(shop)
    ok(shop, "backup", str(tmp_path / "b"))
    shop.execute("UPDATE item SET price = 5")
    new = shop.rows(TABLES)
    seen = set()
    command = [str(ROWFERRY), "--config", str(shop.folder / "rowferry.toml"), "restore", str(tmp_path / "b")]
    for tenths in (7, 11, 15, 20, None):
        process = subprocess.Popen([*command, "--discard-present"], stdout=subprocess.DEVNULL, cwd=shop.folder)
        try:
            process.wait(None if tenths is None else tenths / 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        rows, now = shop.rows(TABLES), incarnation(shop)
        assert rows in (old[0], new)
        assert (rows == new) == (now == old[1]), "data and incarnation are not of one moment"
        seen.add(rows == new)
        if rows == old[0]:
            break
    assert False in seen, "no restore came to its end"
    ok(shop, "status")


@pytest.fixture
def small_shop(nodes: MakeNode, tmp_path: Path) -> CliNode:
    node = nodes("shop", f"sqlite:///{tmp_path / 'shop.db'}")
    node.execute(*DDL)
    ok(node, "migrate")
    return node


def test_a_folder_that_can_not_be_written_is_no_outage_of_the_database(small_shop: CliNode, tmp_path: Path) -> None:
    refused = call(small_shop, "backup", "/proc/none/b")
    assert (refused.exit_code, "/proc/none/b" in refused.output) == (1, True)
    small_shop.execute("INSERT INTO item SELECT 1, hex(zeroblob(1000000)), 1")
    # Nothing else that it writes meets the limit.
    command = f"ulimit -f 512; exec {ROWFERRY} --config rowferry.toml backup {tmp_path / 'full'}"
    full = subprocess.run(["sh", "-c", command], cwd=small_shop.folder, capture_output=True, text=True, check=False)
    assert (full.returncode, str(tmp_path / "full") in full.stderr) == (1, True), full.stderr
    assert "database:" not in full.stderr
    assert not (tmp_path / "full").exists(), "what filled a disk would keep it full"
    ok(small_shop, "backup", str(tmp_path / "full"))


def test_a_backup_that_is_not_there_is_a_wrong_argument(small_shop: CliNode, tmp_path: Path) -> None:
    missing = call(small_shop, "restore", str(tmp_path / "none"))
    assert (missing.exit_code, "no such folder" in missing.output) == (2, True)
    (tmp_path / "none").mkdir()
    assert call(small_shop, "restore", str(tmp_path / "none")).exit_code == 3
