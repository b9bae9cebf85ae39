"""Guards on PostgreSQL: every way to change a row, by whatever account, and what passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from common.ports.rules import Rules
from tests.support.postgresql_node import PostgresNode

pytestmark = pytest.mark.containers

PARTED = (
    "CREATE TABLE parted (id int, place int, v text, PRIMARY KEY (id, place)) PARTITION BY LIST (place);"
    "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);"
    "CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);"
)
ENTRY = "CREATE TABLE entry (id int PRIMARY KEY, v json, w xml);"
RULES = Rules(append_only=frozenset({"entry", "parted", "base"}))


@pytest.fixture
def node_of(pg_database: str) -> Iterator[Callable[[str], PostgresNode]]:
    opened: list[PostgresNode] = []

    def make(ddl: str) -> PostgresNode:
        node = PostgresNode(pg_database, "a")
        opened.append(node)
        node.run(ddl)
        node.database.capture(RULES).install(list(node.tables.values()))
        return node

    yield make
    for node in opened:
        node.database.close()


def refused(node: PostgresNode, statement: str) -> None:
    with pytest.raises(psycopg.errors.RestrictViolation, match="is append-only") as caught:
        node.run(statement)
    assert caught.value.diag.table_name is not None


def test_every_way_to_change_a_row(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ENTRY)
    node.run("INSERT INTO entry VALUES (1, '{}', '<a/>')")
    for statement in (
        "UPDATE entry SET v = v",
        "DELETE FROM entry",
        "TRUNCATE entry",
        "MERGE INTO entry USING (VALUES (1)) v(id) ON v.id = entry.id WHEN MATCHED THEN DELETE",
        "MERGE INTO entry USING (VALUES (1)) v(id) ON v.id = entry.id WHEN MATCHED THEN UPDATE SET v = NULL",
        "WITH gone AS (DELETE FROM entry RETURNING *) SELECT * FROM gone",
        "INSERT INTO entry VALUES (1) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    ):
        refused(node, statement)
    node.run(
        "MERGE INTO entry USING (VALUES (1), (2)) v(id) ON v.id = entry.id"
        " WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED THEN INSERT VALUES (v.id)"
    )
    with node.application() as connection, connection.cursor().copy("COPY entry (id) FROM STDIN") as copy:
        copy.write_row((3,))
    assert node.rows("SELECT id FROM entry ORDER BY id") == [(1,), (2,), (3,)]
    assert [change.op for change in node.changes()] == ["I", "I", "I"]


def test_partitions(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(PARTED)
    node.run("INSERT INTO parted VALUES (1, 1, 'a'), (2, 2, 'b')")
    for statement in (
        "UPDATE parted SET place = 2 WHERE id = 1",
        "UPDATE parted_1 SET v = 'x'",
        "DELETE FROM parted_2",
        "TRUNCATE parted",
        "TRUNCATE parted_2",
    ):
        refused(node, statement)
    assert node.rows("SELECT * FROM parted ORDER BY id") == [(1, 1, "a"), (2, 2, "b")]

    # when a partition comes, and capture follows
    node.run("CREATE TABLE parted_3 PARTITION OF parted FOR VALUES IN (3)", "INSERT INTO parted VALUES (3, 3, 'c')")
    refused(node, "UPDATE parted SET v = 'x' WHERE id = 3")
    capture = node.database.capture(RULES)
    assert capture.drifted(list(node.tables.values())) == ["parted"]
    capture.install(list(node.tables.values()))
    refused(node, "TRUNCATE parted_3")
    assert {change.op for change in node.changes()} == {"I"}


def test_an_inheriting_table_has_a_policy_of_its_own(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(
        "CREATE TABLE base (id int PRIMARY KEY, v text);"
        "CREATE TABLE heir (PRIMARY KEY (id)) INHERITS (base);"
        "INSERT INTO base VALUES (1, 'a'); INSERT INTO heir VALUES (2, 'b')"
    )
    node.run("UPDATE base SET v = 'c' WHERE id = 2", "DELETE FROM heir")
    refused(node, "UPDATE base SET v = 'c'")
    refused(node, "DELETE FROM ONLY base")


def test_a_trigger_of_the_application_that_keeps_the_row_has_its_way(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(
        ENTRY + "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep BEFORE DELETE ON entry FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    node.run("INSERT INTO entry VALUES (1)", "DELETE FROM entry")
    assert node.rows("SELECT id FROM entry") == [(1,)]


def test_a_name_of_any_kind_stands_in_the_error(pg_database: str) -> None:
    name = 'it\'s 100% "odd" $rowferry$'
    quoted = '"' + name.replace('"', '""') + '"'
    with PostgresNode(pg_database, "a") as node:
        node.run(f"CREATE TABLE {quoted} (id int PRIMARY KEY)", f"INSERT INTO {quoted} VALUES (1)")
        node.database.capture(Rules(append_only=frozenset({name}))).install(list(node.tables.values()))
        with pytest.raises(psycopg.errors.RestrictViolation) as caught:
            node.run(f"DELETE FROM {quoted}")
        assert str(caught.value).startswith(f"rowferry: {name} is append-only")


def test_what_was_missed_goes_again_as_inserts(node_of: Callable[[str], PostgresNode]) -> None:
    """An append-only table of another node takes nothing else, and nobody updated these rows."""
    node = node_of(ENTRY)
    node.run("INSERT INTO entry VALUES (1), (2)")
    node.changes()
    node.run("ALTER TABLE entry ADD COLUMN more int DEFAULT 7", "INSERT INTO entry (id, more) VALUES (3, 8)")
    capture = node.database.capture(RULES)
    capture.install(list(node.tables.values()))
    assert {change.op for change in node.changes()} == {"I"}

    # given the table made anew: nobody knows what was changed
    node.run(
        "CREATE TABLE other (LIKE entry INCLUDING ALL)",
        "INSERT INTO other SELECT * FROM entry",
        "DROP TABLE entry CASCADE",
        "ALTER TABLE other RENAME TO entry",
        "UPDATE entry SET more = 9 WHERE id = 1",
    )
    capture.install(list(node.tables.values()))
    assert {change.op for change in node.changes()} == {"I"}
