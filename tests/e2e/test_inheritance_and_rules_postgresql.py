"""Tables that inherit from others, and tables with rewrite rules: what PostgreSQL alone has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.support.nodes import CliNode, sync

pytestmark = pytest.mark.containers

CITIES = (
    "CREATE TABLE city (id int PRIMARY KEY, name text)",
    "CREATE TABLE capital (state text, PRIMARY KEY (id)) INHERITS (city)",
    "INSERT INTO city VALUES (1, 'a'), (2, 'b'), (3, 'c')",
    "INSERT INTO capital VALUES (1, 'A', 'x'), (2, 'B', 'y'), (3, 'C', 'z')",
)
STATES = (
    "CREATE TABLE state (code text PRIMARY KEY)",
    "CREATE TABLE city (id int PRIMARY KEY, state text REFERENCES state)",
    "CREATE TABLE capital (PRIMARY KEY (id)) INHERITS (city)",
    "INSERT INTO state VALUES ('x')",
    "INSERT INTO capital VALUES (1, 'x')",
)
RULED = (
    "CREATE TABLE item (id int PRIMARY KEY, name text)",
    "CREATE TABLE note (id serial PRIMARY KEY, what text)",
    "CREATE RULE item_ins AS ON INSERT TO item DO ALSO INSERT INTO note (what) VALUES ('ins ' || NEW.id)",
    "CREATE RULE item_upd AS ON UPDATE TO item DO ALSO INSERT INTO note (what) VALUES ('upd ' || NEW.id)",
    "CREATE RULE item_del AS ON DELETE TO item WHERE OLD.id = 3 DO INSTEAD INSERT INTO note (what) VALUES ('kept')",
)


@pytest.fixture
def pair(pg_database_factory: Callable[[], str], tmp_path: Path) -> Callable[[Sequence[str]], tuple[CliNode, CliNode]]:
    """Two nodes that begin with the same statements."""

    def make(statements: Sequence[str]) -> tuple[CliNode, CliNode]:
        folder = ["--directory", str(tmp_path / "exchange")]
        made = [CliNode.init(name, tmp_path / name, pg_database_factory(), *folder) for name in ("a", "b")]
        for node in made:
            node.execute(*statements)
            node.ok("migrate")
        return made[0], made[1]

    return make


def test_a_row_of_an_inheriting_table_is_not_the_parents_row_with_that_key(
    pair: Callable[[Sequence[str]], tuple[CliNode, CliNode]],
) -> None:
    node, other = pair(CITIES)
    node.execute("UPDATE ONLY city SET name = 'new' WHERE id = 1")
    node.execute("DELETE FROM ONLY city WHERE id = 2")
    node.execute("UPDATE city SET name = name || '!' WHERE id = 3")
    node.execute("DELETE FROM capital WHERE id = 3")
    sync(node, other)
    for query in ("SELECT * FROM ONLY city ORDER BY id", "SELECT * FROM capital ORDER BY id"):
        assert other.query(query) == node.query(query)
    assert node.query("SELECT * FROM ONLY city ORDER BY id") == [(1, "new"), (3, "c!")]
    assert node.query("SELECT id FROM capital ORDER BY id") == [(1,), (2,)]


def test_a_row_of_an_inheriting_table_is_no_parent_of_what_points_to_the_table_it_inherits_from(
    pair: Callable[[Sequence[str]], tuple[CliNode, CliNode]],
) -> None:
    node, other = pair([*CITIES, "CREATE TABLE visit (id int PRIMARY KEY, city int REFERENCES city)"])
    node.execute("INSERT INTO visit VALUES (1, 1)")
    other.execute("DELETE FROM ONLY city WHERE id = 1")
    node.ok("run", "--once")
    other.ok("run", "--once")
    # The city is known to be deleted here, and the capital of that number is none: the visit steps back.
    assert [(one["table"], one["kind"]) for one in other.report("conflicts", "list")] == [("visit", "foreign-key")]
    assert other.report("dlq", "list") == []
    assert other.query("SELECT * FROM visit") == []


def test_a_row_of_an_inheriting_table_keeps_nothing_that_only_rows_of_its_parent_point_to(
    pair: Callable[[Sequence[str]], tuple[CliNode, CliNode]],
) -> None:
    """PostgreSQL does not inherit foreign keys."""
    node, other = pair(STATES)
    node.execute("DELETE FROM state")
    sync(node, other)
    assert other.query("SELECT * FROM state") == []


def test_a_table_with_rules_is_applied_to_and_its_rules_stay_quiet(
    pair: Callable[[Sequence[str]], tuple[CliNode, CliNode]],
) -> None:
    """What they did at the source is in the batch."""
    node, other = pair(RULED)
    node.execute("INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, 'c')")
    node.execute("UPDATE item SET name = 'new' WHERE id = 2")
    node.execute("DELETE FROM item WHERE id IN (1, 3)")
    sync(node, other)
    for query in ("SELECT * FROM item ORDER BY id", "SELECT * FROM note ORDER BY id"):
        assert other.query(query) == node.query(query)
    assert node.query("SELECT * FROM item ORDER BY id") == [(2, "new"), (3, "c")]


def test_a_rule_that_comes_while_the_node_runs_stops_nothing(
    pair: Callable[[Sequence[str]], tuple[CliNode, CliNode]],
) -> None:
    node, other = pair(RULED[:2])
    node.execute("INSERT INTO item VALUES (1, 'a')")
    sync(node, other)
    other.execute(*RULED[2:])
    node.execute("UPDATE item SET name = 'b'")
    sync(node, other)
    assert other.query("SELECT * FROM item") == [(1, "b")]
    assert other.query("SELECT * FROM note") == []
