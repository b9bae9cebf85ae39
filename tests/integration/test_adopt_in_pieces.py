"""First versions of which a receiver can't hold one: the others arrive, and what is left names its row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import call, document, ok
from tests.support.nodes import CliNode
from tests.support.verifying import Pair, made_pair

DDL = "CREATE TABLE item (id integer PRIMARY KEY, name text CHECK (name <> '{}'))"
ROWS = "INSERT INTO item WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40) SELECT {}"
MAIN = (DDL.format("odd, shop"), ROWS.format("i, CASE i WHEN 7 THEN 'odd, main' ELSE 'main' END FROM n"))
SHOP = (DDL.format("odd, main"), ROWS.format("i + 100, CASE i WHEN 9 THEN 'odd, shop' ELSE 'shop' END FROM n"))


def made(folder: Path, name: str, url: str, statements: tuple[str, ...], *options: str) -> CliNode:
    node = CliNode(name, folder / name, url)
    node.folder.mkdir()
    role = ["--role", "main"] if name == "main" else []
    ok(node, "init", "--node", name, "--database", url, *role, *options)
    node.execute(*statements)
    if name != "main":
        node.configure("[node]", 'main = "main"')
    ok(node, "migrate")
    return node


@contextmanager
def by_files(folder: Path, main_url: str, shop_url: str, *options: str) -> Iterator[tuple[CliNode, CliNode]]:
    """Two nodes that compare themselves by files; each gives its own part."""
    main, shop = (
        made(folder, name, url, rows, *options)
        for name, url, rows in (("main", main_url, MAIN), ("shop", shop_url, SHOP))
    )
    # So that nothing is dropped as unroutable: each has its queue.
    for node in (main, shop):
        ok(node, "run", "--once")
        ok(node, "verify", "--export", str(folder / f"{node.node_id}.jsonl"))
    for node, other in ((main, shop), (shop, main)):
        ok(node, "adopt", "--from", "main", "--file", str(folder / f"{other.node_id}.jsonl"))
    yield main, shop


def letter(node: CliNode) -> Any:
    (one,) = json.loads(ok(node, "dlq", "list", "--json"))
    return one


def settle(source: CliNode, target: CliNode, key: int, carry: Callable[[], None]) -> None:
    """What `target` could not hold is one letter, which is taken to pieces: one row is left, and named."""
    whole = letter(target)
    assert (whole["source_node"], whole["reason"]) == (source.node_id, "constraint")
    assert target.query(f"SELECT count(*) FROM item WHERE name = '{source.node_id}'") == [(0,)]
    (result,) = document(target.folder / "rowferry.toml", "dlq", "replay", "--all", "--in-pieces", code=4)["results"]
    assert result["open_changes"] == 1
    assert target.query(f"SELECT count(*) FROM item WHERE name = '{source.node_id}'") == [(39,)]
    shown = json.loads(ok(target, "dlq", "show", whole["tx_id"], "--json"))
    assert [row["pk"] for row in shown["rows"] if row["open"]] == [{"id": key}]
    # Mended where it was made; the letter is then of no more use.
    source.execute(f"UPDATE item SET name = 'mended' WHERE id = {key}")
    carry()
    ok(target, "dlq", "replay", "--all")
    assert json.loads(ok(target, "dlq", "list", "--json")) == []


def rows(*nodes: CliNode) -> list[list[tuple[Any, ...]]]:
    return [node.query("SELECT id, name FROM item ORDER BY id") for node in nodes]


@pytest.mark.parametrize("way", ["directory", "rabbitmq"])
def test_one_row_alone_is_left_by_files_and_by_a_broker(
    request: pytest.FixtureRequest, tmp_path: Path, main_url: str, shop_url: str, way: str
) -> None:
    options = ["--directory", str(tmp_path / "exchange")]
    if way == "rabbitmq":
        options = ["--broker", request.getfixturevalue("rabbitmq_url"), "--directory", str(tmp_path / "unused")]

    with by_files(tmp_path, main_url, shop_url, *options) as (main, shop):

        def carry() -> None:
            for node in (main, shop, main, shop):
                call(node, "run", "--once")

        carry()
        settle(main, shop, 7, carry)
        settle(shop, main, 109, carry)
        at_main, at_shop = rows(main, shop)
        assert at_main == at_shop
        assert len(at_main) == 80


@pytest.fixture
def pair(tmp_path: Path, main_url: str, shop_url: str) -> Iterator[Pair]:
    with made_pair(tmp_path, main_url, shop_url, MAIN, SHOP) as one:
        yield one


def test_one_row_alone_is_left_over_http(pair: Pair, tmp_path: Path, main_url: str) -> None:
    shop = pair.branch
    adopted = document(shop.folder / "rowferry.toml", "adopt", "--from", "main")
    assert (adopted["given_here"], adopted["given_there"]) == (40, 40)
    call(shop, "run", "--once")
    call(shop, "run", "--once")
    at_main = CliNode("main", tmp_path / "served", main_url)
    at_main.folder.mkdir()
    ok(at_main, "init", "--node", "main", "--database", main_url, "--role", "main")

    def carry() -> None:
        call(shop, "run", "--once")
        call(shop, "run", "--once")

    settle(at_main, shop, 7, carry)
    settle(shop, at_main, 109, carry)
    first, second = rows(at_main, shop)
    assert first == second
    assert pair.verify()["equal"]
