"""Adopting where more is in the way: forgotten deletes, signatures, other columns, odd keys, large rows, many rows."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import call, document, ok
from tests.support.nodes import ROWFERRY, CliNode
from tests.support.verifying import Pair, made_pair

NUMBERS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {})"


def adopt(pair: Pair, *arguments: str, code: int = 0) -> Any:
    return document(pair.branch.folder / "rowferry.toml", "adopt", "--from", "main", *arguments, code=code)


def letters(node: CliNode) -> list[Any]:
    return json.loads(ok(node, "dlq", "list", "--json"))  # type: ignore[no-any-return]


def main_node(pair: Pair, folder: Path, url: str) -> CliNode:
    """Main as its operator sees it, while it is served."""
    node = CliNode("main", folder / "served", url)
    node.folder.mkdir()
    ok(node, "init", "--node", "main", "--database", url, "--role", "main")
    return node


def rows(pair: Pair, query: str) -> tuple[list[Any], list[Any]]:
    return pair.main.world.query(query), pair.branch.query(query)


def test_a_late_joiner_writes_its_own_rows_anew(tmp_path: Path, main_url: str, shop_url: str) -> None:
    """Main has forgotten deletes: a row that only the branch has may be one of them. It is told, and a write helps."""
    ddl = "CREATE TABLE item (id integer PRIMARY KEY, name text, again integer)"
    of_main = (ddl, "INSERT INTO item (id, name) VALUES (1, 'main'), (2, 'both')")
    of_shop = (ddl, "INSERT INTO item (id, name) VALUES (1, 'shop'), (2, 'both'), (3, 'shop alone'), (4, 'gone there')")
    with made_pair(tmp_path, main_url, shop_url, of_main, of_shop) as pair:
        pair.main.world.execute(
            "INSERT INTO rf_horizon (table_id, main_epoch, hlc, node_id)"
            " SELECT table_id, 0, 1000000, 'main' FROM rf_table WHERE name = 'item'"
        )
        told = adopt(pair)
        assert told["given_here"] == 2
        call(pair.branch, "run", "--once")
        call(pair.branch, "run", "--once")
        main = main_node(pair, tmp_path, main_url)
        (letter,) = letters(main)
        assert letter["reason"] == "older-than-tombstones"
        assert "insert it anew" in letter["error"]
        shown = json.loads(ok(main, "dlq", "show", letter["tx_id"], "--json"))
        assert sorted(one["pk"]["id"] for one in shown["rows"]) == [3, 4]
        # What shall be there is written at the branch, what shall not is deleted there; then the letter is of no use.
        pair.branch.execute("UPDATE item SET name = name, again = 1 WHERE id = 3", "DELETE FROM item WHERE id = 4")
        pair.sync()
        here, there = rows(pair, "SELECT id, name FROM item ORDER BY id")
        assert here == there == [(1, "main"), (2, "both"), (3, "shop alone")]
        ok(main, "dlq", "discard", "--all", "--reason", "written anew at the shop")
        assert pair.verify()["equal"]


def test_where_signatures_are_asked_for(tmp_path: Path) -> None:
    """Each gives its part by a signed file, and what it gives travels signed; an unsigned file is refused."""
    ddl = "CREATE TABLE item (id integer PRIMARY KEY, name text)"
    nodes, keys = [], {}
    for name, own in (("main", 2), ("shop", 3)):
        node = CliNode(name, tmp_path / name, f"sqlite:///{tmp_path / name}.db")
        node.folder.mkdir()
        role = ["--role", "main"] if name == "main" else []
        ok(node, "init", "--node", name, "--database", node.database, "--directory", str(tmp_path / "exchange"), *role)
        node.execute(ddl, f"INSERT INTO item VALUES (1, '{name}'), ({own}, 'own')")
        ok(node, "migrate")
        keys[name] = json.loads(ok(node, "key", "create", "--json"))["public_key"]
        nodes.append(node)
    main, shop = nodes
    shop.configure("[node]", 'main = "main"')
    for node, other in ((main, "shop"), (shop, "main")):
        node.configure("[node]", "require_signed = true")
        node.configure("[signers]", f'{other} = "{keys[other]}"')
    for node, other in ((main, shop), (shop, main)):
        ok(node, "verify", "--export", str(tmp_path / f"{node.node_id}.jsonl"))
        refused = call(other, "adopt", "--from", "main", "--file", str(tmp_path / f"{node.node_id}.jsonl"))
        assert refused.exit_code == 3, refused.output
        node.configure("[node]", f'signing_key_file = "{node.node_id}.key"')
        ok(node, "verify", "--export", str(tmp_path / f"{node.node_id}-signed.jsonl"))
    assert document(shop.folder / "rowferry.toml", *by_file(tmp_path, "main"))["given_here"] == 1
    assert document(main.folder / "rowferry.toml", *by_file(tmp_path, "shop"))["given_here"] == 2
    for node in (main, shop, main):
        ok(node, "run", "--once")
    expected = [(1, "main"), (2, "own"), (3, "own")]
    for node in (main, shop):
        assert node.query("SELECT * FROM item ORDER BY id") == expected
        assert letters(node) == []


def by_file(folder: Path, name: str) -> tuple[str, ...]:
    return "adopt", "--from", "main", "--file", str(folder / f"{name}-signed.jsonl")


def test_columns_that_one_side_alone_has(tmp_path: Path, main_url: str, shop_url: str) -> None:
    """What the branch's column holds stays there; what is given travels with the columns that both have, or is told."""
    of_main = ("CREATE TABLE item (id integer PRIMARY KEY, name text)", "INSERT INTO item VALUES (1, 'main'), (2, 'm')")
    of_shop = (
        "CREATE TABLE item (id integer PRIMARY KEY, name text, note text)",
        "INSERT INTO item VALUES (1, 'shop', 'kept'), (3, 's', 'own')",
    )
    with made_pair(tmp_path, main_url, shop_url, of_main, of_shop) as pair:
        assert adopt(pair)["tables"][0]["columns_only_here"] == ["note"]
        call(pair.branch, "run", "--once")
        call(pair.branch, "run", "--once")
        assert pair.branch.query("SELECT id, name, note FROM item ORDER BY id") == [
            (1, "main", "kept"),
            (2, "m", None),
            (3, "s", "own"),
        ]
        main = main_node(pair, tmp_path, main_url)
        # Also what the branch's row 1 has beside what came: that is a write of the branch.
        assert {one["reason"] for one in letters(main)} == {"unknown-column"}
        pair.main.world.execute("ALTER TABLE item ADD COLUMN note text")
        ok(main, "migrate")
        ok(main, "dlq", "replay", "--all")
        pair.sync()
        here, there = rows(pair, "SELECT id, name, note FROM item ORDER BY id")
        assert here == there
        assert here[1:] == [(2, "m", None), (3, "s", "own")]
        # PostgreSQL takes the new column for a write of main: that stands then, and the other image is on record.
        on_record = pair.branch.query("SELECT our_image FROM rf_conflict")
        assert here[0] == (1, "main", "kept") or any('"kept"' in image for (image,) in on_record)
        assert letters(main) == []


def test_composite_keys_with_text_in_odd_collations(tmp_path: Path, main_url: str, shop_url: str) -> None:
    keys = ("a", "A", "ä", "ä", "ß", "ss", "", " ", "a ", "\u200b", "İ", "ı", "😀", "'", '"', "\\", "\t")
    values = {
        name: ", ".join(
            f"('{key.replace(chr(39), chr(39) * 2)}', {number}, '{name}')" for number, key in enumerate(keys)
        )
        for name in ("main", "shop")
    }

    def statements(url: str, name: str) -> tuple[str, ...]:
        odd = "" if "sqlite" in url else "CREATE COLLATION odd (provider = icu, locale = 'und-u-ks-level2')"
        of = "text COLLATE RTRIM" if "sqlite" in url else "text COLLATE odd"
        ddl = f'CREATE TABLE "odd Pair" (b {of} NOT NULL, a integer NOT NULL, v text, PRIMARY KEY (b, a))'
        return tuple(one for one in (odd, ddl, f'INSERT INTO "odd Pair" VALUES {values[name]}') if one)

    with made_pair(tmp_path, main_url, shop_url, statements(main_url, "main"), statements(shop_url, "shop")) as pair:
        told = adopt(pair)
        assert (told["given_there"], told["refused"]) == (len(keys), 0)
        pair.sync()
        here, there = rows(pair, 'SELECT a, b, v FROM "odd Pair" ORDER BY a')
        assert here == there == [(number, key, "main") for number, key in enumerate(keys)]
        assert pair.verify()["equal"]
        assert pair.branch.query("SELECT count(*) FROM rf_conflict WHERE kind = 'first-sync'") == [(len(keys),)]


def test_rows_of_several_mib(tmp_path: Path, main_url: str, shop_url: str) -> None:
    ddl = "CREATE TABLE item (id integer PRIMARY KEY, name text, body text)"
    size = 3 * 1024 * 1024

    def statements(url: str, name: str, letter: str) -> tuple[str, ...]:
        body = f"replace(hex(zeroblob({size // 2})), '0', '{letter}')"
        if "sqlite" not in url:
            body = f"repeat('{letter}', {size})"
        return ddl, f"INSERT INTO item {NUMBERS.format(6)} SELECT i, '{name}', {body} FROM n"

    with made_pair(
        tmp_path, main_url, shop_url, statements(main_url, "m", "x"), statements(shop_url, "s", "y")
    ) as pair:
        told = adopt(pair)
        assert (told["given_there"], told["refused"]) == (6, 0)
        pair.sync()
        here, there = rows(pair, "SELECT id, name, length(body), substr(body, 1, 1) FROM item ORDER BY id")
        assert here == there == [(number, "m", size, "x") for number in range(1, 7)]
        kept = "SELECT count(*) FROM rf_conflict WHERE length(our_image) > 3000000 AND length(their_image) > 3000000"
        assert pair.branch.query(kept) == [(6,)]


def test_a_first_version_that_meets_a_write_is_no_number_given_twice(tmp_path: Path) -> None:
    ddl = "CREATE TABLE item (id integer PRIMARY KEY AUTOINCREMENT, name text)"
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("main", "shop")]
    of_main, of_shop = ((ddl, f"INSERT INTO item VALUES (1, '{name}')") for name in ("main", "shop"))
    with made_pair(tmp_path, *urls, of_main, of_shop) as pair:
        config = pair.branch.folder / "rowferry.toml"
        pair.branch.configure("[node]", "number = 2")
        pair.branch.configure("[tables.keys]", 'item = "stride"')
        ok(pair.branch, "migrate")
        pair.branch.execute("UPDATE item SET name = 'written' WHERE id = 1")
        with pair.main.client(pair.main.token("shop")) as client:
            client.post("/sync/adopt", json={"rows": [{"table": "item", "pk": {"id": 1}}]})
        pair.sync()
        here, there = rows(pair, "SELECT * FROM item")
        assert here == there == [(1, "written")]
        assert pair.branch.query("SELECT kind, their_version FROM rf_conflict") == [("insert", '[0,1,"main"]')]
        assert document(config, "status")["clashing_keys"] == []


MEASURING = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stderr=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def measured(node: CliNode, *arguments: str) -> tuple[str, int]:
    """Run one command; return what it says, and the most memory that it had, in KiB.

    A small process starts it: what a child is counted with begins at what its parent has, and this one has much."""
    command = [str(ROWFERRY), "--config", str(node.folder / "rowferry.toml"), *arguments]
    measuring = [sys.executable, "-c", MEASURING, *command]
    done = subprocess.run(measuring, cwd=node.folder, capture_output=True, text=True, check=True)
    return done.stdout, int(done.stderr)


@pytest.mark.heavy
def test_a_hundred_thousand_rows_that_are_equal_beside_a_thousand_that_are_not(tmp_path: Path) -> None:
    """By files, each command a process of its own: its memory is bounded."""
    nodes, peaks = [], []
    for name in ("main", "shop"):
        url = f"sqlite:///{tmp_path / name}.db"
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as raw, raw:
            raw.execute("CREATE TABLE item (id integer PRIMARY KEY, name text, filler text)")
            raw.execute(
                f"INSERT INTO item {NUMBERS.format(101_000)}"
                f" SELECT i, CASE i % 101 WHEN 0 THEN '{name}' ELSE 'same' END, hex(zeroblob(200)) FROM n"
            )
        way = ("--directory", str(tmp_path / "exchange"))
        role = ("--role", "main") if name == "main" else ()
        node = CliNode.init(name, tmp_path / name, url, *way, *role)
        if name == "shop":
            node.configure("[node]", 'main = "main"')
        node.ok("migrate")
        peaks.append(measured(node, "verify", "--export", str(tmp_path / f"{name}.jsonl"))[1])
        nodes.append(node)
    main, shop = nodes
    said, peak = measured(main, "adopt", "--from", "main", "--file", str(tmp_path / "shop.jsonl"), "--json")
    told = json.loads(said)
    assert (told["given_here"], told["tables"][0]["other_values"]) == (1_000, 1_000)
    peaks += [peak, *(measured(node, "run", "--once")[1] for node in (main, shop))]
    assert shop.query("SELECT count(*) FROM item WHERE name = 'main'") == [(1_000,)]
    assert shop.query("SELECT count(*) FROM rf_conflict WHERE kind = 'first-sync'") == [(1_000,)]
    assert max(peaks) < 300 * 1024
