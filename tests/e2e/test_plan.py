"""The plan's three cases on real database files: plain, again, conflict. Each reads from top to bottom as it happens.

migrate -> seed -> push -> pull -> compare. A branch and the main node; the commands as an operator types them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nodes import CliNode, MakeNode

TABLES = ("company", "store", "product", "sale")


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.containers)])
def pair(request: pytest.FixtureRequest, nodes: MakeNode, tmp_path: Path) -> tuple[CliNode, CliNode]:
    """A shop on SQLite, and the main node on either database."""
    office_url = f"sqlite:///{tmp_path / 'office.db'}"
    if request.param == "postgresql":
        office_url = request.getfixturevalue("pg_database")
    shop = nodes("shop", f"sqlite:///{tmp_path / 'shop.db'}", "--policy", "company=main-wins")
    office = nodes("office", office_url, "--role", "main", "--policy", "company=main-wins")
    for node in (shop, office):
        node.ok("migrate")
    shop.ok("seed", "--rows", "50")
    office.ok("seed", "--rows", "1")
    return shop, office


def carry(source: CliNode, target: CliNode, file: Path, code: int = 0) -> None:
    """Push into a file on one node, pull it on the other."""
    source.ok("push", "--file", str(file))
    target.ok("pull", "--file", str(file), code=code)


def test_plain(pair: tuple[CliNode, CliNode], tmp_path: Path) -> None:
    shop, office = pair
    carry(shop, office, tmp_path / "to-office.jsonl")
    carry(office, shop, tmp_path / "to-shop.jsonl")

    assert shop.query("SELECT count(*) FROM sale") != [(0,)]
    assert texts(shop) == texts(office)


def test_again(pair: tuple[CliNode, CliNode], tmp_path: Path) -> None:
    shop, office = pair
    file = tmp_path / "to-office.jsonl"
    carry(shop, office, file)
    before = texts(office)

    done = office.report("pull", "--file", str(file))
    assert done["applied"] == 0
    assert done["duplicates"] > 0
    assert texts(office) == before
    assert office.report("dlq", "list") == []


def test_conflict(pair: tuple[CliNode, CliNode], tmp_path: Path) -> None:
    shop, office = pair
    carry(shop, office, tmp_path / "1.jsonl")
    carry(office, shop, tmp_path / "2.jsonl")
    (company,) = shop.query("SELECT min(id) FROM company")[0]
    (sale,) = shop.query("SELECT min(id) FROM sale")[0]

    # Neither has seen the other's write. The shop writes last, but the company is the main node's.
    office.execute(f"UPDATE company SET name = 'of the office' WHERE id = '{company}'")
    office.execute(f"UPDATE sale SET note = 'of the office' WHERE id = '{sale}'")
    office.ok("export-change-log", "--out", str(tmp_path / "office-sealed.jsonl"))
    shop.execute(f"UPDATE company SET name = 'of the shop' WHERE id = '{company}'")
    shop.execute(f"UPDATE sale SET note = 'of the shop' WHERE id = '{sale}'")
    carry(shop, office, tmp_path / "3.jsonl")
    carry(office, shop, tmp_path / "4.jsonl")

    for node in pair:
        assert node.query(f"SELECT name FROM company WHERE id = '{company}'") == [("of the office",)]
        assert node.query(f"SELECT note FROM sale WHERE id = '{sale}'") == [("of the shop",)]
        found = {one["table"]: one for one in node.report("conflicts", "list")}
        assert {table: one["rule"] for table, one in found.items()} == {"company": "main-wins", "sale": "lww"}
    assert texts(shop) == texts(office)
    # The branch whose write lost is told, and can have it back.
    (lost,) = shop.report("conflicts", "list", "--lost")
    assert lost["table"] == "company"
    shop.ok("conflicts", "undo", str(lost["id"]))
    carry(shop, office, tmp_path / "5.jsonl")
    assert office.query(f"SELECT name FROM company WHERE id = '{company}'") == [("of the shop",)]
    assert texts(shop) == texts(office)


def texts(node: CliNode) -> dict[str, list[tuple[str, ...]]]:
    """All rows, by table and key; values as text, for the two databases' drivers give other types."""
    keyed = {table: node.query(f"SELECT id FROM {table} ORDER BY id") for table in TABLES}
    assert keyed["company"], "nothing was seeded"
    return {table: sorted(rows_as_text(node, table)) for table in TABLES}


def rows_as_text(node: CliNode, table: str) -> list[tuple[str, ...]]:
    columns = {
        "company": ("id", "name"),
        "store": ("id", "company_id", "name", "city"),
        "product": ("id", "name"),
        "sale": ("id", "store_id", "product_id", "note"),
    }[table]
    return [tuple(map(str, row)) for row in node.query(f"SELECT {', '.join(columns)} FROM {table}")]
