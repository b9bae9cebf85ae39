"""A decimal as the key: its row keeps the zeros at the end, the key has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nodes import CliNode, sync

pytestmark = pytest.mark.containers


@pytest.mark.parametrize("kind", ["text", "numeric(6,2)", "money_text"])
def test_rows_with_a_decimal_key_are_found_again_on_sqlite(pg_database: str, tmp_path: Path, kind: str) -> None:
    folder = ["--directory", str(tmp_path / "exchange")]
    node = CliNode.init("a", tmp_path / "a", pg_database, *folder)
    other = CliNode.init("b", tmp_path / "b", f"sqlite:///{tmp_path / 'b.db'}", *folder)
    node.execute("CREATE TABLE price (k numeric(6,2) PRIMARY KEY, v text)")
    other.execute(f"CREATE TABLE price (k {kind} PRIMARY KEY, v text)")
    for one in (node, other):
        one.ok("migrate")
    node.execute("INSERT INTO price VALUES (1.50, 'a'), (2.00, 'b'), (0.10, 'c')")
    sync(node, other)
    node.execute("UPDATE price SET v = 'new' WHERE k = 1.5", "DELETE FROM price WHERE k = 2")
    sync(node, other)
    other.execute("UPDATE price SET v = 'back' WHERE v = 'c'", "INSERT INTO price VALUES ('7.25', 'd')")
    sync(other, node)
    assert other.ok("migrate").startswith("Nothing to do")
    sync(other, node)
    rows = "SELECT CAST(k AS float), v FROM price ORDER BY 1"
    assert other.query(rows) == node.query(rows) == [(0.1, "back"), (1.5, "new"), (7.25, "d")]
