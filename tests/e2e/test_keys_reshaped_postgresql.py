"""A table on PostgreSQL whose key gets another type, or that was dropped and made anew under another key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, sync

pytestmark = pytest.mark.containers

ITEM = "CREATE TABLE item (id int PRIMARY KEY, name text)"
SWAP = (
    "CREATE TABLE item_new (id text PRIMARY KEY, name text)",
    "INSERT INTO item_new SELECT id::text, name FROM item",
    "DROP TABLE item",
    "ALTER TABLE item_new RENAME TO item",
)


@pytest.fixture
def pair(pg_database_factory: Callable[[], str], tmp_path: Path) -> tuple[CliNode, CliNode]:
    """Two nodes with the same three rows."""
    folder = ["--directory", str(tmp_path / "exchange")]
    made = [CliNode.init(name, tmp_path / name, pg_database_factory(), *folder) for name in ("a", "b")]
    for node in made:
        node.execute(ITEM)
        node.ok("migrate")
    node, other = made
    node.execute("INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    sync(node, other)
    return node, other


@pytest.mark.parametrize(
    ("statements", "seen_at_once"),
    [
        pytest.param(("ALTER TABLE item ALTER id TYPE text",), False, id="by ALTER"),
        pytest.param(SWAP, True, id="by a table made anew"),
    ],
)
@pytest.mark.parametrize("other_too", [True, False])
def test_a_key_gets_another_type_and_no_row_is_lost(
    pair: tuple[CliNode, CliNode], statements: tuple[str, ...], seen_at_once: bool, other_too: bool
) -> None:
    node, other = pair
    node.execute(*statements)
    if seen_at_once:
        node.ok("migrate")
    node.execute("UPDATE item SET name = 'new' WHERE id = '2'", "DELETE FROM item WHERE id = '3'")
    if other_too:
        other.execute(*statements)
        other.ok("migrate")
    sync(node, other)
    sync(other, node)
    rows = "SELECT id::text, name FROM item ORDER BY 1"
    assert other.query(rows) == node.query(rows)
    assert node.query(rows) == [("1", "a"), ("2", "new")]


def test_a_text_goes_into_a_key_that_was_a_number_a_moment_ago(pair: tuple[CliNode, CliNode]) -> None:
    node, other = pair
    for one in pair:
        one.execute("ALTER TABLE item ALTER id TYPE text")
    node.execute("""INSERT INTO item VALUES ('x "y', 'd')""")
    sync(node, other)
    rows = "SELECT * FROM item ORDER BY 1"
    assert other.query(rows) == node.query(rows)
    assert ('x "y', "d") in other.query(rows)


def test_what_stood_under_another_key_in_a_table_of_that_name_is_not_named_by_the_new_key(
    pair: tuple[CliNode, CliNode],
) -> None:
    node, other = pair
    for one in pair:
        one.execute("DROP TABLE item")
        one.ok("migrate")
        one.execute("CREATE TABLE item (code int PRIMARY KEY, name text)")
        one.ok("migrate")
    node.execute(
        "INSERT INTO item VALUES (7, 'x'), (8, 'y')",
        "ALTER TABLE item DISABLE TRIGGER ALL",
        "DELETE FROM item WHERE code = 8",
    )
    sync(node, other)
    assert other.query("SELECT * FROM item") == node.query("SELECT * FROM item") == [(7, "x")]
