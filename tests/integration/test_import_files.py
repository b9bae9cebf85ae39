"""`import-change-log` and `pull --file`: refused whole or applied, and told in numbers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.versions import NEVER, Version
from common.wire.compress import compress
from common.wire.encode import encode_tx
from common.wire.records import TxHeader
from tests.support.applying import WHEN, Origin, World, Write, item, resealed, tx_id_of
from tests.support.cli import document, rowferry
from tests.support.private import write_private


@pytest.fixture
def config_file(world: World, tmp_path: Path) -> Path:
    return write_private(
        tmp_path / "rowferry.toml", f'[node]\nid = "here"\ndatabase = "{world.node.config.node.database}"\n'
    )


def saved(folder: Path, *bodies: bytes, name: str = "in.jsonl") -> str:
    path = folder / name
    path.write_bytes(b"".join(bodies))
    return str(path)


def imported(config_file: Path, *arguments: str, code: int = 0) -> Any:
    return document(config_file, "import-change-log", *arguments, code=code)


def nothing_was_written(world: World) -> bool:
    tables = ("item", "rf_applied_tx", "rf_sync_state", "rf_dead_letter", "rf_audit", "rf_tx_part")
    return all(world.one(f"SELECT count(*) FROM {table}") == 0 for table in tables)


def test_a_file_is_applied_once(world: World, config_file: Path, tmp_path: Path) -> None:
    a = Origin("a")
    file = saved(tmp_path, *(a.put(number, f"n{number}", number).body for number in range(1, 30)))
    looked = imported(config_file, file, "--dry-run")
    assert (looked["txs"], looked["changes"], looked["refused"], looked["findings"]) == (29, 29, False, [])
    assert nothing_was_written(world)

    assert imported(config_file, str(file))["applied"] == 29
    assert len(world.rows()) == 29
    assert world.watermark("a") == 29
    again = imported(config_file, str(file))
    assert (again["applied"], again["duplicates"], again["preflight"]["already_applied"]) == (0, 29, 29)
    assert world.one("SELECT count(*) FROM rf_audit") == 29


def test_pull_moves_the_watermark(world: World, config_file: Path, tmp_path: Path) -> None:
    file = saved(tmp_path, Origin("a").put(1, "one", 10).body)
    assert document(config_file, "pull", "--file", file)["applied"] == 1
    assert world.watermark("a") == 1


def test_compressed_files_and_folders(world: World, config_file: Path, tmp_path: Path) -> None:
    a = Origin("a")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "1.jsonl.gz").write_bytes(gzip.compress(a.put(1, "one", 10).body))
    (folder / "2.jsonl.zst").write_bytes(compress(a.put(2, "two", 20).body, "zstd"))
    (folder / "notes.txt").write_text("not ours")
    assert imported(config_file, str(folder))["applied"] == 2


def test_an_empty_file_is_fine(config_file: Path, tmp_path: Path) -> None:
    for name in ("in.jsonl", "in.jsonl.gz", "in.jsonl.zst"):
        assert imported(config_file, saved(tmp_path, name=name))["applied"] == 0


@pytest.mark.parametrize("command", [["import-change-log"], ["pull", "--file"]])
def test_what_is_no_file_is_a_wrong_argument(config_file: Path, tmp_path: Path, command: list[str]) -> None:
    missing = rowferry(config_file, *command, str(tmp_path / "none.jsonl"))
    assert (missing.exit_code, "no such file" in missing.output) == (2, True)
    device = rowferry(config_file, *command, "/dev/null")
    assert (device.exit_code, "not a regular file" in device.output) == (2, True)


@pytest.mark.parametrize("fault", ["torn", "altered", "garbage", "other format", "cut gzip"])
def test_a_damaged_file_is_refused_whole_and_the_line_named(
    world: World, config_file: Path, tmp_path: Path, fault: str
) -> None:
    a = Origin("a")
    bodies = [a.put(number, f"n{number}", number).body for number in range(1, 4)]
    name = "in.jsonl"
    match fault:
        case "torn":
            bodies[2] = bodies[2][:-30]
        case "altered":
            bodies[1] = bodies[1].replace(b"n2", b"x2")
        case "garbage":
            bodies.insert(1, b"what is this?\n")
        case "other format":
            bodies[1] = bodies[1].replace(b"rowferry/1", b"rowferry/2")
        case _:
            name = "in.jsonl.gz"
            bodies = [gzip.compress(b"".join(bodies))[:-20]]
    report = imported(config_file, saved(tmp_path, *bodies, name=name), code=3)
    assert report["refused"]
    assert all(isinstance(one["line"], int) for one in report["findings"] if one["refuses"])
    assert nothing_was_written(world)
    plain = rowferry(config_file, "import-change-log", str(tmp_path / name))
    assert plain.exit_code == 3
    assert "line" in plain.output


def test_two_contents_under_one_tx_id_are_refused(world: World, config_file: Path, tmp_path: Path) -> None:
    one, other = Origin("a").put(1, "one", 10).body, Origin("a").put(1, "two", 10).body
    assert imported(config_file, saved(tmp_path, one, other), code=3)["findings"][0]["check"] == "duplicate"
    assert nothing_was_written(world)
    assert imported(config_file, saved(tmp_path, one, one))["applied"] == 1
    assert imported(config_file, saved(tmp_path, other), code=3)["refused"]
    assert [row[1] for row in world.rows()] == ["one"]


def test_a_gap_is_told_and_refused_where_that_is_wanted(world: World, config_file: Path, tmp_path: Path) -> None:
    a = Origin("a")
    one, two, three = (a.put(number, "x", number).body for number in range(1, 4))
    gap = saved(tmp_path, one, three)
    assert imported(config_file, gap, "--strict", code=3)["refused"]
    assert nothing_was_written(world)
    report = imported(config_file, gap)
    assert [one["check"] for one in report["preflight"]["findings"]] == ["gap"]
    assert world.watermark("a") == 1
    assert imported(config_file, saved(tmp_path, two), "--strict")["applied"] == 1
    assert world.watermark("a") == 3


def test_an_unknown_table_is_a_dead_letter_and_the_rest_goes_on(
    world: World, config_file: Path, tmp_path: Path
) -> None:
    a = Origin("a")
    unknown = a.tx(Write("I", "nowhere", {"id": 1, "name": "x", "price": "1"}, 10))
    file = saved(tmp_path, unknown.body, a.put(1, "one", 20).body)
    report = imported(config_file, file, code=4)
    assert report["applied"] == 1
    assert [(one["tx_id"], one["reason"]) for one in report["set_aside"]] == [(unknown.tx_id, "unknown-table")]
    assert [one["check"] for one in report["preflight"]["findings"]] == ["table"]


def test_what_needs_more_than_this_release_knows_is_told_before(
    world: World, config_file: Path, tmp_path: Path
) -> None:
    put = Origin("a").put(1, "one", 10)
    file = saved(tmp_path, resealed(put.body, b'"parts":1', b'"parts":1,"requires":["later"]'))
    (finding,) = imported(config_file, file, "--dry-run")["findings"]
    assert (finding["check"], finding["refuses"], finding["line"]) == ("requires", False, 1)
    assert "needs later" in finding["message"]
    assert [one["reason"] for one in imported(config_file, file, code=4)["set_aside"]] == ["requires"]


def test_children_before_their_parents_within_one_import(world: World, config_file: Path, tmp_path: Path) -> None:
    a, b = Origin("a"), Origin("b")
    # The poison between them keeps the three from going through in one commit.
    child = a.tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    poison = a.tx(Write("I", "code", {"id": 1, "code": None}, 11))
    parent = b.tx(Write("I", "parent", {"id": 7, "name": "p"}, 20))
    report = imported(config_file, saved(tmp_path, child.body, poison.body, parent.body), code=4)
    assert report["applied"] == 2
    assert [one["reason"] for one in report["set_aside"]] == ["constraint"]
    assert world.rows("child") == [(1, 7)]


def test_a_later_import_tries_what_waited(world: World, config_file: Path, tmp_path: Path) -> None:
    child = Origin("a").tx(Write("I", "child", {"id": 1, "parent_id": 7}, 10))
    assert imported(config_file, saved(tmp_path, child.body), code=4)["set_aside"][0]["outcome"] == "early"
    parent = Origin("b").tx(Write("I", "parent", {"id": 7, "name": "p"}, 20))
    imported(config_file, saved(tmp_path, parent.body))
    assert world.rows("child") == [(1, 7)]


def test_own_batches_are_counted_and_left_out(world: World, config_file: Path, tmp_path: Path) -> None:
    world.execute("INSERT INTO item VALUES (7, 'mine', 1)")
    file = tmp_path / "own.jsonl"
    assert rowferry(config_file, "export-change-log", "--out", str(file)).exit_code == 0
    report = imported(config_file, str(file))
    assert (report["preflight"]["own_txs"], report["preflight"]["findings"]) == (1, [])
    assert world.rows() == [(7, "mine", 1)]


def test_an_own_log_that_nobody_knows_here_is_told(world: World, config_file: Path, tmp_path: Path) -> None:
    """What carries the node's own name is left, so it would never have those rows: `rejoin` fetches them."""
    report = imported(config_file, saved(tmp_path, Origin("here").put(1, "own", 10).body), code=4)
    assert report["preflight"]["own_txs"] == 1
    assert [one["check"] for one in report["preflight"]["findings"]] == ["rewound"]
    assert world.query("SELECT action FROM rf_audit") == [("rewound",)]
    assert (world.rows(), world.query("SELECT * FROM rf_applied_tx")) == ([], [])


def test_a_tx_in_parts_must_be_whole(world: World, config_file: Path, tmp_path: Path) -> None:
    tx = Origin("a").tx(*(item(number, "x" * 900, number) for number in range(1, 20)))
    parts = tx.parts(4096)
    report = imported(config_file, saved(tmp_path, *parts[:-1]), code=3)
    assert "missing" in report["findings"][0]["message"]
    assert nothing_was_written(world)
    first, second = saved(tmp_path, *parts[:2], name="1.jsonl"), saved(tmp_path, *parts[2:], name="2.jsonl")
    assert imported(config_file, second, first)["applied"] == 1
    assert len(world.rows()) == 19


def ddl(origin: Origin, sql: str) -> bytes:
    """A batch of one DDL line."""

    class Sealed:
        header = TxHeader(
            tx_id_of(origin.node_id, origin.made + 1), origin.node_id, origin.incarnation, WHEN,
            origin.lsn + 1, origin.lsn + 1, origin.lsn, {},
        )  # fmt: skip

        def lines(self) -> Iterator[bytes]:
            line = {"type": "change", "lsn": self.header.from_lsn, "tx_id": self.header.tx_id, "op": "DDL", "sql": sql}
            yield json.dumps(line, separators=(",", ":")).encode() + b"\n"

    sealed = Sealed()
    origin.made, origin.lsn = origin.made + 1, origin.lsn + 1
    (part,) = encode_tx(sealed)
    return part.body


def test_ddl_runs_only_where_a_flag_allows_it(world: World, config_file: Path, tmp_path: Path) -> None:
    a = Origin("a")
    create = ddl(a, "CREATE TABLE fresh (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))")
    rows = a.tx(Write("I", "fresh", {"id": 1, "name": "x", "price": "1.50"}, 10)).body
    file = saved(tmp_path, create, rows)
    refused = imported(config_file, file, code=3)
    assert refused["findings"][0]["check"] == "ddl"
    assert nothing_was_written(world)

    done = imported(config_file, file, "--allow-ddl")
    assert (done["applied"], done["set_aside"]) == (2, [])
    assert [row[1] for row in world.rows("fresh")] == ["x"]
    world.execute("INSERT INTO fresh VALUES (2, 'local', 2)")
    assert world.node.database.sealer(world.node.facts).seal().changes == 1

    drop = saved(tmp_path, ddl(a, "DROP TABLE fresh"))
    assert imported(config_file, drop, "--allow-ddl", code=3)["refused"]
    assert imported(config_file, drop, "--allow-destructive-ddl")["applied"] == 1
    assert "fresh" not in world.node.database.catalog().tables


def test_ddl_that_the_database_refuses_is_a_dead_letter(world: World, config_file: Path, tmp_path: Path) -> None:
    a = Origin("a")
    bodies = [
        ddl(a, "ALTER TABLE item ADD COLUMN name TEXT"),
        ddl(a, "CREATE TABLE item (id INTEGER PRIMARY KEY)"),
        a.put(1, "one", 10).body,
    ]
    report = imported(config_file, saved(tmp_path, *bodies), "--allow-destructive-ddl", code=4)
    assert (report["applied"], [one["reason"] for one in report["set_aside"]]) == (1, ["ddl", "ddl"])
    world.execute("INSERT INTO item VALUES (2, 'still captured', 2)")
    assert world.node.database.sealer(world.node.facts).seal().changes == 1


@pytest.mark.parametrize(
    "statements",
    [
        ["ALTER TABLE shown ADD COLUMN w TEXT"],
        ["DROP TABLE shown"],
        ["ALTER TABLE nowhere ADD COLUMN w TEXT"],
        ["DROP TABLE nowhere"],
        ["ALTER TABLE keyless ADD COLUMN w TEXT"],
        ["DROP TABLE item", "ALTER TABLE item ADD COLUMN w TEXT"],
        ["CREATE TABLE fresh (id INTEGER PRIMARY KEY)", "DROP TABLE fresh", "DROP TABLE fresh"],
    ],
    ids="; ".join,
)
def test_ddl_on_what_is_no_table_here_is_refused(
    world: World, config_file: Path, tmp_path: Path, statements: list[str]
) -> None:
    """`include = ["*"]` means every table that there is and that can travel."""
    world.execute("CREATE VIEW shown AS SELECT 1 AS a", "CREATE TABLE keyless (a INTEGER)")
    a = Origin("a")
    file = saved(tmp_path, *(ddl(a, sql) for sql in statements))
    report = imported(config_file, file, "--allow-ddl", "--allow-destructive-ddl", code=3)
    (finding,) = report["findings"]
    assert finding["check"] == "ddl"
    assert "no table" in finding["message"]
    assert nothing_was_written(world)


def test_ddl_on_a_table_made_before_it_runs(world: World, config_file: Path, tmp_path: Path) -> None:
    a = Origin("a")
    statements = (
        "CREATE TABLE Fresh (id INTEGER PRIMARY KEY)",
        "ALTER TABLE fresh ADD COLUMN w TEXT",
        "DROP TABLE fresh",
        "DROP TABLE IF EXISTS fresh",
        "CREATE TABLE fresh (id INTEGER PRIMARY KEY, v TEXT)",
        "ALTER TABLE fresh ADD COLUMN w TEXT",
    )
    file = saved(tmp_path, *(ddl(a, sql) for sql in statements))
    assert imported(config_file, file, "--allow-ddl", "--allow-destructive-ddl")["applied"] == len(statements)
    columns = world.node.database.catalog().tables["fresh"].columns
    assert {column.name for column in columns} == {"id", "v", "w"}


@pytest.mark.parametrize("again", [["import-change-log"], ["pull", "--file"]])
def test_ddl_that_was_applied_before_needs_no_flag(
    world: World, config_file: Path, tmp_path: Path, again: list[str]
) -> None:
    create = ddl(Origin("a"), "CREATE TABLE fresh (id INTEGER PRIMARY KEY)")
    file = saved(tmp_path, create, Origin("b").put(1, "one", 10).body)
    assert imported(config_file, saved(tmp_path, create, name="first.jsonl"), "--allow-ddl")["applied"] == 1
    done = document(config_file, *again, file)
    assert (done["applied"], done["duplicates"], done["preflight"]["already_applied"]) == (1, 1, 1)
    other = saved(tmp_path, ddl(Origin("a"), "CREATE TABLE fresh (id INTEGER PRIMARY KEY, x TEXT)"))
    assert document(config_file, *again, other, code=3)["refused"]


def test_ddl_that_stands_twice_is_applied_once(world: World, config_file: Path, tmp_path: Path) -> None:
    """What the first has dropped is no reason to refuse the second, which is skipped."""
    a = Origin("a")
    create = ddl(a, "CREATE TABLE fresh (id INTEGER PRIMARY KEY, v TEXT)")
    assert imported(config_file, saved(tmp_path, create, name="first.jsonl"), "--allow-ddl")["applied"] == 1
    gone = [ddl(a, "ALTER TABLE fresh DROP COLUMN v"), ddl(a, "DROP TABLE fresh")]
    file = saved(tmp_path, *gone, *gone)
    report = imported(config_file, file, file, "--allow-destructive-ddl")
    assert (report["applied"], report["duplicates"], report["set_aside"]) == (2, 6, [])
    assert "fresh" not in world.node.database.catalog().tables


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE fresh (a INTEGER, b TEXT)"],
        ["ALTER TABLE item DROP COLUMN id"],
        ["CREATE TABLE fresh (id INTEGER PRIMARY KEY, b TEXT)", "ALTER TABLE fresh DROP COLUMN id"],
    ],
)
def test_ddl_that_leaves_a_table_without_a_key_is_refused(
    world: World, config_file: Path, tmp_path: Path, statements: list[str]
) -> None:
    """`migrate` would refuse the node for it."""
    a = Origin("a")
    file = saved(tmp_path, *(ddl(a, sql) for sql in statements))
    report = imported(config_file, file, "--allow-destructive-ddl", code=3)
    assert "primary key" in report["findings"][0]["message"]
    assert nothing_was_written(world)
    assert rowferry(config_file, "migrate").exit_code == 0


@pytest.mark.parametrize(
    "sql",
    [
        'ALTER TABLE item ADD COLUMN w INTEGER REFERENCES item (id) ON "DELETE CASCADE; DROP TABLE kept; --" CASCADE',
        'ALTER TABLE item ADD COLUMN w INT REFERENCES item (id) ON "DELETE CASCADE CHECK (n < 0) ON UPDATE" CASCADE',
    ],
)
def test_no_text_of_the_file_reaches_the_database(world: World, config_file: Path, tmp_path: Path, sql: str) -> None:
    """What was quoted where a word belongs ran as a part of the statement, on PostgreSQL as one of its own."""
    world.execute("CREATE TABLE kept (id INTEGER PRIMARY KEY)")
    file = saved(tmp_path, ddl(Origin("a"), sql))
    report = imported(config_file, file, "--allow-ddl", code=3)
    assert report["findings"][0]["check"] == "ddl"
    tables = world.node.database.catalog().tables
    assert "kept" in tables
    assert "w" not in {column.name for column in tables["item"].columns}


def test_no_temporary_table_stands_before_one_that_travels(world: World, config_file: Path, tmp_path: Path) -> None:
    """The rows that came after it in the file were written there, and were gone with it."""
    a = Origin("a")
    schema = "temp" if world.node.config.node.database.startswith("sqlite") else "pg_temp"
    create = ddl(a, f"CREATE TABLE {schema}.item (id INTEGER PRIMARY KEY, name TEXT, n INTEGER)")
    report = imported(config_file, saved(tmp_path, create, a.put(1, "one", 10).body), "--allow-ddl", code=3)
    assert report["findings"][0]["check"] == "ddl"
    assert nothing_was_written(world)


def test_ddl_never_comes_from_a_queue_or_a_folder(world: World) -> None:
    a = Origin("a")
    world.receive(ddl(a, "CREATE TABLE fresh (id INTEGER PRIMARY KEY)"))
    assert [reason for _, reason, _ in world.letters()] == ["ddl"]
    assert "fresh" not in world.node.database.catalog().tables


def test_conflicts_are_counted(world: World, config_file: Path, tmp_path: Path) -> None:
    a, b = Origin("a"), Origin("b")
    file = saved(
        tmp_path,
        a.put(1, "one", 10, NEVER).body,
        b.put(1, "uno", 20, NEVER).body,
        a.put(1, "deux", 30, Version(0, 10, "a"), "U").body,
    )
    assert imported(config_file, str(file))["conflicts"] == 2
    assert [row[1] for row in world.rows()] == ["deux"]
