"""`rowferry verify` without HTTP: digests in a file, compared where it is carried to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.wire.compress import decompress
from common.wire.signing import new_private_key
from tests.support.cli import call, document, ok
from tests.support.nodes import CliNode
from tests.support.verifying import DDL, damage


def made(folder: Path, name: str, url: str, ddl: tuple[str, ...] = DDL) -> CliNode:
    node = CliNode(name, folder / name, url)
    node.folder.mkdir()
    ok(node, "init", "--node", name, "--database", url, "--directory", str(folder / "exchange"))
    node.execute(*ddl)
    ok(node, "migrate")
    return node


@pytest.fixture
def nodes(tmp_path: Path, main_url: str, shop_url: str) -> tuple[CliNode, CliNode]:
    return made(tmp_path, "main", main_url), made(tmp_path, "shop", shop_url)


def sync(*nodes: CliNode) -> None:
    for node in (*nodes, *nodes):
        ok(node, "run", "--once")


def verify(node: CliNode, *arguments: str, code: int = 0) -> Any:
    return document(node.folder / "rowferry.toml", "verify", *arguments, code=code)


def test_nodes_that_share_a_folder_alone_are_compared(nodes: tuple[CliNode, CliNode], tmp_path: Path) -> None:
    main, shop = nodes
    main.execute("INSERT INTO item VALUES (1, NULL, 'tea', 1.50), (2, NULL, 'gone', 2), (3, NULL, 'x', 3)")
    sync(main, shop)
    main.execute("DELETE FROM item WHERE id = 2")
    sync(main, shop)
    file = str(tmp_path / "main.jsonl.zst")
    written = verify(main, "--export", file)
    assert (written["node"], written["tables"], written["rows"]) == ("main", ["code", "item", "parent"], 3)
    found = verify(shop, "--file", file)
    assert (found["equal"], found["peer"]) == (True, "main")
    damage(shop.database, "UPDATE item SET name = 'y' WHERE id = 1")
    # Written since: the file knows nothing of it.
    shop.execute("INSERT INTO item VALUES (9, NULL, 'new', 9)")
    found = verify(shop, "--file", file, code=4)
    assert [(one["pk"]["id"], one["kind"], one["state"]) for one in found["rows"]] == [
        (1, "values", "different"),
        (9, "missing-there", "in-flight"),
    ]


@pytest.fixture
def main(tmp_path: Path) -> CliNode:
    return made(tmp_path, "main", f"sqlite:///{tmp_path / 'main.db'}")


@pytest.fixture
def shop(tmp_path: Path) -> CliNode:
    return made(tmp_path, "shop", f"sqlite:///{tmp_path / 'shop.db'}")


@pytest.fixture
def file(main: CliNode, tmp_path: Path) -> Path:
    main.execute("INSERT INTO item VALUES (1, NULL, 'tea', 1.50)", "INSERT INTO code VALUES (1, 'ä')")
    path = tmp_path / "main.jsonl"
    verify(main, "--export", str(path))
    return path


def test_values_are_not_in_it(file: Path) -> None:
    assert b"tea" not in file.read_bytes()
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    assert [line["type"] for line in lines] == [
        "digests",
        "row",
        "chunk",
        "table",
        "row",
        "chunk",
        "table",
        "table",
        "end",
    ]


@pytest.mark.parametrize("damage_it", ["torn", "altered", "twice", "nothing", "batch"])
def test_a_file_that_is_not_whole_is_refused(file: Path, shop: CliNode, damage_it: str) -> None:
    data = file.read_bytes()
    file.write_bytes(
        {
            "torn": data[:-20],
            "altered": data.replace(b'"rows":1', b'"rows":2', 1),
            "twice": data + data,
            "nothing": b"",
            "batch": b'{"type":"batch"}\n',
        }[damage_it]
    )
    refused = call(shop, "verify", "--file", str(file))
    assert (refused.exit_code, str(file) in refused.output) == (3, True), refused.output


def test_what_makes_no_sense_is_said(file: Path, main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    for arguments, words in (
        (("--file", str(file), "--repair"), "--repair works only over HTTP"),
        (("--file", str(tmp_path / "none.jsonl")), "there is no such file"),
        (("--file", str(file), "--like", str(file)), "--like needs --export"),
        (("--file", str(file), "main"), "say what to compare with"),
        (("--export", str(tmp_path / "out.jsonl"), "--tables", "nothing"), "not a captured table"),
        (("--export", str(shop.folder / "rowferry.toml")), "would be lost"),
    ):
        refused = call(shop, "verify", *arguments)
        assert (refused.exit_code, words in refused.output) == (2, True), refused.output
    own = call(main, "verify", "--file", str(file))
    assert (own.exit_code, "written by this node itself" in own.output) == (2, True)


def test_a_file_is_written_for_a_node_with_other_columns(main: CliNode, tmp_path: Path) -> None:
    ddl = ("CREATE TABLE item (id integer PRIMARY KEY, parent_id integer, name text, price text, more text)",)
    shop = made(tmp_path, "shop", f"sqlite:///{tmp_path / 'shop.db'}", ddl)
    main.execute("INSERT INTO item VALUES (1, NULL, 'tea', 1.5), (2, NULL, 'x', 2)")
    sync(main, shop)
    first, second = str(tmp_path / "shop.jsonl"), str(tmp_path / "shop2.jsonl.gz")
    verify(shop, "--export", first)
    refused = verify(main, "--file", first, code=4)
    assert {one["table"]: one["reason"] for one in refused["not_compared"]}["item"] == "other-columns"
    told = call(main, "verify", "--file", first)
    assert "--like" in told.output
    ours = str(tmp_path / "main.jsonl")
    verify(main, "--export", ours)
    verify(shop, "--export", second, "--like", ours)
    found = verify(main, "--file", second)
    assert found["equal"]
    assert next(one for one in found["tables"] if one["table"] == "item")["columns_only_there"] == ["more"]


def test_a_signed_file_is_taken_for_its_nodes(main: CliNode, shop: CliNode, tmp_path: Path) -> None:
    key = main.folder / "key"
    key.write_text(new_private_key())
    key.chmod(0o600)
    config = main.folder / "rowferry.toml"
    config.write_text(config.read_text().replace("[node]\n", f'[node]\nsigning_key_file = "{key}"\n'))
    public = json.loads(ok(main, "key", "show", "--json"))["public_key"]
    theirs = shop.folder / "rowferry.toml"
    theirs.write_text(theirs.read_text() + f'\n[signers]\nmain = ["{public}"]\n')
    signed = tmp_path / "signed.jsonl.zst"
    verify(main, "--export", str(signed))
    assert b'"signature"' in decompress(signed.read_bytes(), "zstd")
    assert verify(shop, "--file", str(signed))["equal"]
    config.write_text(config.read_text().replace("signing_key_file", "# signing_key_file"))
    verify(main, "--export", str(signed))
    refused = call(shop, "verify", "--file", str(signed))
    assert (refused.exit_code, "not signed" in refused.output) == (3, True)
