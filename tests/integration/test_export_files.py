"""`export-change-log` and `push --file`: whole txs, the same bytes each time, durable files, honest documents."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from backports import zstd

from common.wire.decode import read_body
from common.wire.records import Part
from tests.support.nodes import ROWFERRY, CliNode


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[CliNode]:
    database = tmp_path / "shop.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE sale (id INTEGER PRIMARY KEY, note TEXT)")
    node = CliNode.init("shop", tmp_path, f"sqlite:///{database}")
    node.ok("migrate")
    yield node
    node.close()


def sell(shop: CliNode, *numbers: int) -> None:
    """Write sales, each sealed as a tx of its own."""
    for number in numbers:
        shop.execute(f"INSERT INTO sale VALUES ({number}, 'sale {number}')", "INSERT INTO rf_mark DEFAULT VALUES")


def lsns(body: bytes) -> list[tuple[int, int]]:
    parts = [part for part in read_body(body) if isinstance(part, Part)]
    assert b"".join(part.raw for part in parts) == body
    return [(part.header.from_lsn, part.header.to_lsn) for part in parts]


def test_a_file_holds_whole_txs_in_order_and_moves_nothing(shop: CliNode, tmp_path: Path) -> None:
    sell(shop, 1, 2, 3)
    document = shop.report("export-change-log", "--out", "all.jsonl")
    body = (tmp_path / "all.jsonl").read_bytes()
    assert lsns(body) == [(1, 1), (2, 2), (3, 3)]
    assert document == {
        "file": str(tmp_path / "all.jsonl"),
        "txs": 3,
        "changes": 3,
        "from_lsn": 1,
        "to_lsn": 3,
        "incarnation": shop.query("SELECT incarnation FROM rf_node WHERE is_self")[0][0],
        "gone_until_lsn": None,
    }
    assert shop.report("export-change-log", "--out", "again.jsonl")["txs"] == 3
    assert (tmp_path / "again.jsonl").read_bytes() == body
    assert shop.query("SELECT count(*) FROM rf_cursor") == [(0,)]
    assert shop.query("SELECT count(*) FROM rf_sync_state") == [(0,)]


def test_since_gives_txs_that_end_after_it(shop: CliNode, tmp_path: Path) -> None:
    shop.execute("INSERT INTO sale VALUES (1, 'a'), (2, 'b'), (3, 'c')", "INSERT INTO rf_mark DEFAULT VALUES")
    sell(shop, 4)
    for since, expected in ((0, [(1, 3), (4, 4)]), (2, [(1, 3), (4, 4)]), (3, [(4, 4)]), (4, []), (99, [])):
        document = shop.report("export-change-log", "--out", "part.jsonl", "--since", str(since))
        assert lsns((tmp_path / "part.jsonl").read_bytes()) == expected
        assert document["txs"] == len(expected)
        assert (document["from_lsn"], document["to_lsn"]) == ((expected[0][0], 4) if expected else (None, None))


def test_an_empty_export_is_an_empty_file(shop: CliNode, tmp_path: Path) -> None:
    shop.ok("export-change-log", "--out", "empty.jsonl")
    assert (tmp_path / "empty.jsonl").read_bytes() == b""
    shop.ok("export-change-log", "--out", "empty.jsonl.gz")
    assert gzip.decompress((tmp_path / "empty.jsonl.gz").read_bytes()) == b""


def test_endings_compress_and_equal_exports_are_equal_files(shop: CliNode, tmp_path: Path) -> None:
    sell(shop, *range(20))
    for name in ("a.jsonl", "a.jsonl.gz", "b.jsonl.gz", "a.jsonl.zst"):
        shop.ok("export-change-log", "--out", name)
    plain = (tmp_path / "a.jsonl").read_bytes()
    assert gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()) == plain
    assert zstd.decompress((tmp_path / "a.jsonl.zst").read_bytes()) == plain
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_folder_gets_a_file_named_by_its_lsns(shop: CliNode, tmp_path: Path) -> None:
    assert shop.report("export-change-log", "--out", "stick/")["file"] is None
    assert list((tmp_path / "stick").iterdir()) == []
    sell(shop, 1, 2)
    for _ in range(2):
        document = shop.report("export-change-log", "--out", "stick")
    incarnation = document["incarnation"]
    name = f"shop.{incarnation}.{1:020d}-{2:020d}.jsonl"
    assert document["file"] == str(tmp_path / "stick" / name)
    assert [path.name for path in (tmp_path / "stick").iterdir()] == [name]
    assert lsns((tmp_path / "stick" / name).read_bytes()) == [(1, 1), (2, 2)]


def test_stdout_carries_the_batches_alone(shop: CliNode) -> None:
    sell(shop, 1, 2)
    done = shop.call("export-change-log", "--out", "-")
    assert lsns(done.stdout.encode()) == [(1, 1), (2, 2)]
    assert shop.call("export-change-log", "--out", "-", "--json").returncode == 2


def test_what_is_no_file_is_refused(shop: CliNode, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert shop.call("export-change-log", "--out", "pipe").returncode == 2
    failed = shop.call("export-change-log", "--out", "missing/all.jsonl")
    assert failed.returncode == 1
    assert "missing" in failed.stderr
    assert shop.call("export-change-log", "--out", "x", "--since", "1", "--client", "c").returncode == 2


@pytest.mark.parametrize("command", [["export-change-log", "--out"], ["push", "--file"]])
def test_the_nodes_own_files_are_never_replaced(shop: CliNode, tmp_path: Path, command: list[str]) -> None:
    sell(shop, 1)
    (tmp_path / "link.db").hardlink_to(tmp_path / "shop.db")
    for name in ("shop.db", "link.db", "shop.db-wal", "rowferry.toml"):
        refused = shop.call(*command, name)
        assert (refused.returncode, "belongs to this node" in refused.stderr) == (2, True), name
    assert shop.query("SELECT note FROM sale") == [("sale 1",)]


def test_a_failed_export_leaves_the_older_file(shop: CliNode, tmp_path: Path) -> None:
    sell(shop, *range(50))
    shop.ok("export-change-log", "--out", "all.jsonl")
    before = (tmp_path / "all.jsonl").read_bytes()
    shop.execute("INSERT INTO sale SELECT id + 100, hex(randomblob(200000)) FROM sale")
    shop.ok("export-change-log", "--out", "new.jsonl")
    # Everything is sealed now, so that the export's own file alone meets the limit.
    command = f"ulimit -f 64; exec {ROWFERRY} --config rowferry.toml export-change-log --out all.jsonl"
    failed = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "all.jsonl" in failed.stderr
    assert (tmp_path / "all.jsonl").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if ".tmp" in path.name] == []


def test_push_starts_where_the_client_stands(shop: CliNode, tmp_path: Path) -> None:
    sell(shop, 1, 2)
    first = shop.report("push", "--file", "one.jsonl", "--client", "till")
    assert (first["txs"], first["client"], first["pull_due"]) == (2, "till", True)
    sell(shop, 3)
    assert shop.report("export-change-log", "--out", "till.jsonl", "--client", "till")["txs"] == 1
    second = shop.report("push", "--file", "two.jsonl", "--client", "till")
    assert lsns((tmp_path / "two.jsonl").read_bytes()) == [(3, 3)]
    assert (second["from_lsn"], second["to_lsn"]) == (3, 3)
    assert shop.report("push", "--file", "three.jsonl", "--client", "till")["txs"] == 0
    assert (tmp_path / "three.jsonl").read_bytes() == b""
    assert shop.query("SELECT peer, direction, last_lsn FROM rf_sync_state") == [("till", "out", 3)]
    assert shop.report("push", "--file", "other.jsonl")["txs"] == 3


@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.jsonl.zst"])
def test_push_never_replaces_what_nobody_has_collected(shop: CliNode, tmp_path: Path, name: str) -> None:
    assert shop.report("push", "--file", name)["txs"] == 0
    sell(shop, 1)
    shop.ok("push", "--file", name)
    first = (tmp_path / name).read_bytes()
    assert shop.report("push", "--file", name)["txs"] == 0
    assert (tmp_path / name).read_bytes() == first
    sell(shop, 2)
    refused = shop.call("push", "--file", name)
    assert (refused.returncode, "--force" in refused.stderr) == (1, True)
    assert (tmp_path / name).read_bytes() == first
    assert shop.query("SELECT last_lsn FROM rf_sync_state") == [(1,)]
    (tmp_path / name).rename(tmp_path / f"collected-{name}")
    assert shop.report("push", "--file", name)["from_lsn"] == 2
    sell(shop, 3)
    assert shop.report("push", "--file", name, "--force")["from_lsn"] == 3
    assert shop.query("SELECT last_lsn FROM rf_sync_state") == [(3,)]


def test_push_warns_when_a_pull_is_due(shop: CliNode) -> None:
    sell(shop, 1)
    warned = shop.call("push", "--file", "one.jsonl")
    assert warned.returncode == 0
    assert "pull is due" in warned.stderr
    shop.execute(
        "INSERT INTO rf_sync_state (peer, direction, incarnation, last_lsn, highest_lsn, updated_us) "
        "VALUES ('main', 'in', 'inc', 5, 5, 9000000000000000)"
    )
    quiet = shop.call("push", "--file", "two.jsonl")
    assert "pull is due" not in quiet.stderr
