"""What capture did not see while a table was altered, rebuilt or its partitions came and went is sealed afterwards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from common.errors import ContentionError
from common.wire.records import Change
from tests.support.nodes import CliNode
from tests.support.postgresql_node import PostgresNode, canonical

pytestmark = pytest.mark.containers

ITEM = "CREATE TABLE item (id int PRIMARY KEY, name text, qty int)"
WAITED_FOR = "SELECT FROM pg_locks WHERE relation = 'later'::regclass AND NOT granted"
ITEMS = "INSERT INTO item VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)"
PART = """
CREATE TABLE part (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2)
"""
PARTS = "INSERT INTO part VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 2, 'c')"
SELF = """
INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us)
VALUES ('a', 'branch', 'inc-a', true, 0, 0)
"""


def rows_elsewhere(changes: Iterable[Change], table: str) -> dict[str, Any]:
    """The rows of a node that set what each image names."""
    rows: dict[str, Any] = {}
    for change in changes:
        if change.table == table:
            key, image = canonical(bytes(change.pk)), json.loads(bytes(change.after))
            rows[key] = None if image is None else {**(rows.get(key) or {}), **image}
    return {key: row for key, row in rows.items() if row is not None}


@pytest.mark.parametrize(
    ("table", "statements", "resent"),
    [
        pytest.param(
            "item",
            [
                "BEGIN; ALTER TABLE item ADD note text; UPDATE item SET note = 'n' WHERE id = 1; COMMIT",
                "ALTER TABLE item ADD doc json",
                "INSERT INTO item VALUES (4, 'd', 4, NULL, '[1]')",
            ],
            [("U", 1), ("U", 4)],
            id="a new column is filled in the same transaction",
        ),
        pytest.param(
            "item",
            [
                "ALTER TABLE item ADD tags text[] DEFAULT '{a,\"b,c\"}'",
                "ALTER TABLE item ADD price numeric(9, 2) DEFAULT 5",
                "UPDATE item SET tags = '{z}' WHERE id = 2",
                "UPDATE item SET price = 5.5 WHERE id = 3",
            ],
            [("U", 2), ("U", 3)],
            id="rows that have what the column began with are left alone",
        ),
        pytest.param(
            "item",
            ["ALTER TABLE item ADD token uuid DEFAULT gen_random_uuid()"],
            [("U", 1), ("U", 2), ("U", 3)],
            id="a default that differs from row to row",
        ),
        pytest.param(
            "item",
            ["ALTER TABLE item ALTER qty TYPE text USING 'n' || qty"],
            [("U", 1), ("U", 2), ("U", 3)],
            id="a type changes the values",
        ),
        pytest.param(
            "item",
            [
                "CREATE TABLE item_new (id int PRIMARY KEY, name text, qty int)",
                "INSERT INTO item_new SELECT * FROM item WHERE id <> 3",
                "DROP TABLE item",
                "ALTER TABLE item_new RENAME TO item",
                "INSERT INTO item VALUES (9, 'new', 9)",
                "UPDATE item SET qty = 7 WHERE id = 1",
            ],
            [("U", 1), ("I", 9), ("D", 3)],
            id="rebuilt",
        ),
        pytest.param(
            "item",
            [
                "ALTER TABLE item DISABLE TRIGGER ALL",
                "UPDATE item SET qty = 7 WHERE id = 1",
                "DELETE FROM item WHERE id = 2",
                "INSERT INTO item VALUES (9, 'new', 9)",
            ],
            [("U", 1), ("I", 9), ("D", 2)],
            id="triggers switched off",
        ),
        pytest.param(
            "part",
            [
                "CREATE TABLE part_3 (LIKE part INCLUDING ALL)",
                "INSERT INTO part_3 VALUES (7, 3, 'x'), (8, 3, 'y')",
                "ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES IN (3)",
                "INSERT INTO part VALUES (9, 3, 'z')",
            ],
            [("I", 9), ("I", 7), ("I", 8)],
            id="a partition comes with its rows",
        ),
        pytest.param(
            "part",
            ["ALTER TABLE part DETACH PARTITION part_2"],
            [("D", 2), ("D", 3)],
            id="a partition goes",
        ),
        pytest.param("part", ["DROP TABLE part_2"], [("D", 2), ("D", 3)], id="a partition is dropped"),
        pytest.param(
            "part",
            ["CREATE TABLE part_4 PARTITION OF part FOR VALUES IN (4)", "INSERT INTO part VALUES (1, 4, 'n')"],
            [("I", 1)],
            id="a partition is made and nothing was missed",
        ),
    ],
)
def test_what_went_by_is_sealed(
    pg_database: str, table: str, statements: Sequence[str], resent: list[tuple[str, int]]
) -> None:
    with PostgresNode(pg_database, "a", f"{ITEM}; {PART}") as node:
        node.run(SELF, ITEMS, PARTS)
        node.seal_all()
        known = node.log.head().lsn
        node.run(*statements)
        shapes = list(node.tables.values())
        assert table in node.database.capture().drifted(shapes)
        node.install()
        assert node.database.capture().plan(list(node.tables.values())) == []
        node.run(f"UPDATE {table} SET id = id")
        changes = node.changes(known)
        stands = node.images(table)
        sent = [(change.op, json.loads(bytes(change.pk))["id"]) for change in changes]
        assert sorted(sent[-len(resent) :]) == sorted(resent)
        there = rows_elsewhere(node.changes(), table)
        assert there.keys() == stands.keys()
        for key, row in there.items():
            assert row == {name: stands[key][name] for name in row}


def test_a_captured_table_can_become_a_partition(pg_database: str) -> None:
    """It has triggers of its own then, beside the clones of those of its new root."""
    with PostgresNode(pg_database, "a", f"{PART}; CREATE TABLE part_3 (LIKE part INCLUDING ALL)") as node:
        node.run(
            "INSERT INTO part_3 VALUES (7, 3, 'x')",
            "ALTER TABLE part ATTACH PARTITION part_3 FOR VALUES IN (3)",
            "UPDATE part SET v = 'y'",
        )
        node.install()
        node.run("UPDATE part SET v = 'z'")
        assert rows_elsewhere(node.changes(), "part") == node.images("part")
        node.run("TRUNCATE part")
        assert rows_elsewhere(node.changes(), "part") == {}


DROPPED_BETWEEN = (
    "BEGIN; UPDATE item SET name = 'x', qty = 7 WHERE id = 1; INSERT INTO item VALUES (4, 'd', 4);"
    " DELETE FROM item WHERE id = 2;"
    """ UPDATE item SET doc = '{"a": [1, "\\u0000"], "a": 2.50}', price = 1.50 WHERE id = 3;"""
    " ALTER TABLE item DROP COLUMN name; UPDATE item SET qty = 8 WHERE id = 1;"
    " ALTER TABLE item DROP COLUMN qty; UPDATE item SET price = 2.250 WHERE id = 4; COMMIT"
)
WIDE_ITEM = f"{ITEM[:-1]}, doc json, price numeric)"
WIDE_ITEMS = "INSERT INTO item VALUES (1, 'a', 1), (2, 'b', 2), (3, 'c', 3)"


def test_images_of_a_tx_that_dropped_columns_have_those_of_its_header(pg_database: str) -> None:
    with PostgresNode(pg_database, "a", WIDE_ITEM) as node:
        node.run(WIDE_ITEMS)
        node.seal_all()
        node.run(DROPPED_BETWEEN, "UPDATE item SET price = 3")
        changes = node.changes()[3:]
        dropped, last = node.txs()[-2:]
        named = ["id", "doc", "price"]
        assert list(dropped.header.tables["item"].columns) == named
        assert dict(dropped.header.tables["item"].columns) == {"id": "int", "doc": "json", "price": "decimal"}
        for change in changes:
            for image in (change.before, change.after):
                assert json.loads(bytes(image)) is None or list(json.loads(bytes(image))) == named
        # Each row was written by the last statement too.
        assert rows_elsewhere(changes, "item") == node.images("item")
        assert last.header.tables == dropped.header.tables


@pytest.mark.parametrize("drops_too", [False, True])
def test_a_tx_that_drops_columns_between_its_writes_is_applied(
    pg_database: str, tmp_path: Path, drops_too: bool
) -> None:
    """By nodes that still have the columns, and by those that dropped them before."""
    folder = ["--directory", str(tmp_path / "exchange")]
    node = CliNode.init("a", tmp_path / "a", pg_database, *folder)
    other = CliNode.init("b", tmp_path / "b", f"sqlite:///{tmp_path / 'b.db'}", *folder)
    for one in (node, other):
        one.execute("CREATE TABLE item (id integer PRIMARY KEY, name text, qty int, doc json, price numeric)")
        one.ok("migrate")
    node.execute(WIDE_ITEMS)
    node.ok("run", "--once")
    other.ok("run", "--once")
    if drops_too:
        other.execute(
            "CREATE TABLE item_new (id integer PRIMARY KEY, doc json, price numeric)",
            "INSERT INTO item_new SELECT id, doc, price FROM item",
            "DROP TABLE item",
            "ALTER TABLE item_new RENAME TO item",
        )
    node.execute(*DROPPED_BETWEEN[len("BEGIN; ") : -len("; COMMIT")].split("; "))
    node.ok("run", "--once")
    other.ok("run", "--once")
    assert other.report("dlq", "list") == []
    prices = "SELECT id, CAST(price AS float), CAST(doc AS text) FROM item ORDER BY id"
    assert other.query(prices) == node.query(prices)


def test_what_is_not_known_to_have_been_written_beats_nobody(pg_database: str) -> None:
    """Rows that others wrote, or nobody since migrate, are sent with the weakest version there is."""
    with PostgresNode(pg_database, "a") as node:
        node.run(ITEM, ITEMS, SELF)
        node.install()
        node.run("ALTER TABLE item DISABLE TRIGGER ALL", "UPDATE item SET qty = 9 WHERE id = 1")
        node.install()
        changes = node.changes()
        assert {json.loads(bytes(change.pk))["id"] for change in changes} == {1, 2, 3}
        assert {change.version.hlc for change in changes} == {1}


def test_a_table_with_another_key_is_not_compared(pg_database: str) -> None:
    with PostgresNode(pg_database, "a", ITEM) as node:
        node.run(ITEMS, SELF)
        node.seal_all()
        node.run("ALTER TABLE item DROP CONSTRAINT item_pkey", "ALTER TABLE item ADD PRIMARY KEY (name)")
        known = node.log.head().lsn
        node.install()
        assert node.changes(known) == []


def test_an_open_transaction_on_an_altered_table_stops_nothing_but_its_capture(
    pg_database: str, tmp_path: Path
) -> None:
    node = CliNode.init("a", tmp_path / "a", pg_database, "--directory", str(tmp_path / "exchange"))
    node.execute(ITEM)
    node.ok("migrate")
    node.execute("ALTER TABLE item ADD extra int")
    with psycopg.connect(pg_database.replace("+psycopg", "")) as session:
        session.execute("INSERT INTO item VALUES (1, 'open')")
        node.execute("INSERT INTO item VALUES (2, 'b', 2, 22)")
        assert 'LOCK TABLE "public"."item"' in node.call("migrate").stderr
        node.ok("run", "--once")
        status = node.report("status")
        assert status["drifted"] == ["item"]
        assert node.query("SELECT count(*) FROM rf_tx") == [(1,)]
    node.ok("run", "--once")
    assert node.report("status")["drifted"] == []
    node.ok("export-change-log", "--out", str(tmp_path / "all.jsonl"))
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    images = [line["after"] for line in lines if line["type"] == "change" and line["pk"] == {"id": 2}]
    assert [image.get("extra") for image in images] == [None, 22]


def test_a_table_that_is_held_does_not_keep_others_from_being_captured(pg_database: str) -> None:
    with PostgresNode(pg_database, "a", f"{ITEM}; CREATE TABLE a_held (id int PRIMARY KEY)") as node:
        node.run("ALTER TABLE a_held ADD extra int", "ALTER TABLE item ADD extra int")
        with node.application() as session:
            session.execute("INSERT INTO a_held VALUES (1, 1)")
            node.run("CREATE TABLE later (id int PRIMARY KEY)")
            with pytest.raises(ContentionError, match="a_held"):
                node.install()
            assert node.database.capture().drifted(list(node.tables.values())) == ["a_held"]
            node.run("INSERT INTO later VALUES (1)", "INSERT INTO item (id, extra) VALUES (1, 1)")
        node.install()
        assert node.database.capture().drifted(list(node.tables.values())) == []
        assert {change.table for change in node.changes()} == {"a_held", "item", "later"}


def test_a_table_that_is_altered_while_it_is_looked_at_is_captured_at_the_next_look(pg_database: str) -> None:
    with PostgresNode(pg_database, "a", ITEM) as node:
        node.run("ALTER TABLE item ADD note text")
        seen = list(node.tables.values())
        node.run("ALTER TABLE item ADD price int")
        with pytest.raises(ContentionError, match="item was altered"):
            node.database.capture().install(seen)
        node.install()
        node.run("INSERT INTO item VALUES (1, 'a', 1, 'n', 5)")
        assert json.loads(bytes(node.changes()[-1].after))["price"] == 5


def test_who_writes_a_table_that_is_done_is_not_killed_while_another_one_is_waited_for(pg_database: str) -> None:
    """Seen as a deadlock in the application: it read one table, and then wrote the other, on which capture stood."""
    with PostgresNode(pg_database, "a", f"{ITEM}; CREATE TABLE later (id int PRIMARY KEY)") as node:
        node.run("ALTER TABLE item ADD extra int", "ALTER TABLE later ADD extra int")
        capture, tables = node.database.capture(), list(node.tables.values())
        with node.application() as session, ThreadPoolExecutor(1) as pool:
            session.execute("SET deadlock_timeout = '250ms'")
            session.execute("SELECT FROM later")
            installing = pool.submit(capture.install, tables, briefly=True)
            while not (installing.done() or node.rows(WAITED_FOR)):
                pass
            session.execute("INSERT INTO item (id) VALUES (1)")
            with pytest.raises(ContentionError, match="later"):
                installing.result()
        assert capture.drifted(tables) == ["later"]


@pytest.mark.parametrize("held", ["other", "part_2"])
def test_a_table_that_is_locked_altogether_stops_nothing(pg_database: str, tmp_path: Path, held: str) -> None:
    """Looking at the catalogs must not wait for an ALTER TABLE that its owner has not committed."""
    node = CliNode.init("a", tmp_path / "a", pg_database, "--directory", str(tmp_path / "exchange"))
    node.execute(ITEM, "CREATE TABLE other (id serial PRIMARY KEY, v text DEFAULT 'x')", *PART.split(";"))
    node.ok("migrate")
    with psycopg.connect(pg_database.replace("+psycopg", "")) as session:
        session.execute(f"LOCK TABLE {held} IN ACCESS EXCLUSIVE MODE".encode())
        node.execute("INSERT INTO item VALUES (1, 'a')")
        node.ok("run", "--once", timeout=60)
        assert node.report("status")["drifted"] == []
        assert node.query("SELECT count(*) FROM rf_tx") == [(1,)]
        assert node.ok("migrate", timeout=60).startswith("Nothing to do")


@pytest.mark.parametrize("together", [True, False])
def test_rows_written_before_capture_knows_a_column_that_may_not_be_empty(pg_database: str, together: bool) -> None:
    """No other node could make them without it, whatever it holds."""
    alter = [
        "ALTER TABLE item ADD COLUMN stock int DEFAULT 7 NOT NULL",
        "ALTER TABLE item ALTER COLUMN stock DROP DEFAULT",
    ]
    with PostgresNode(pg_database, "a", ITEM) as node:
        node.run(SELF, ITEMS)
        if together:
            node.run(f"BEGIN; {'; '.join(alter)}; COMMIT")
        else:
            node.run(alter[0], "INSERT INTO item VALUES (5, 'between', 5)", alter[1])
        node.run("INSERT INTO item VALUES (4, 'd', 4, 7)")
        node.seal_all()
        known = node.log.head().lsn
        node.install()
        changes = node.changes(known)
        sent = {json.loads(bytes(change.pk))["id"]: json.loads(bytes(change.after)) for change in changes}
        assert sent[4] == {"id": 4, "name": "d", "qty": 4, "stock": 7}
        assert (5 in sent) is not together
        assert node.install() == []


def test_rows_of_the_last_day_are_sent_again_for_a_column_that_may_not_be_empty(pg_database: str) -> None:
    """Where it came first they wait for it, as long as that."""
    with PostgresNode(pg_database, "a", ITEM) as node:
        node.run(SELF, "INSERT INTO item VALUES (1, 'long ago', 1)", "INSERT INTO item VALUES (2, 'today', 2)")
        node.run("UPDATE rf_change_log SET captured_at = now() - interval '25 hours' WHERE pk = '{\"id\":1}'")
        node.seal_all()
        known = node.log.head().lsn
        node.run("DO $$ BEGIN FOR i IN 1 .. 1100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        node.run("ALTER TABLE item ADD COLUMN stock int DEFAULT 7 NOT NULL, ADD COLUMN kept int DEFAULT 8 NOT NULL")
        node.run("ALTER TABLE item ALTER COLUMN stock DROP DEFAULT")
        node.install()
        assert [json.loads(bytes(change.after)) for change in node.changes(known)] == [
            {"id": 2, "name": "today", "qty": 2, "stock": 7, "kept": 8}
        ]


def test_a_column_with_a_default_sends_no_row_of_before_again(pg_database: str) -> None:
    with PostgresNode(pg_database, "a", ITEM) as node:
        node.run(SELF, ITEMS)
        node.seal_all()
        known = node.log.head().lsn
        node.run("DO $$ BEGIN FOR i IN 1 .. 1100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$")
        node.run("ALTER TABLE item ADD COLUMN stock int DEFAULT 7 NOT NULL")
        node.install()
        assert node.changes(known) == []


def test_a_column_that_is_empty_by_itself_sends_no_row_again(pg_database: str) -> None:
    """Such a row would tell of nobody's write, and might win over what somebody filled in elsewhere."""
    with PostgresNode(pg_database, "a", ITEM) as node:
        node.run(SELF, ITEMS)
        node.run(
            "ALTER TABLE item ADD COLUMN note text", "INSERT INTO item VALUES (4, 'd', 4, NULL), (5, 'e', 5, 'filled')"
        )
        node.seal_all()
        known = node.log.head().lsn
        node.install()
        assert [json.loads(bytes(change.pk))["id"] for change in node.changes(known)] == [5]


def test_rows_written_under_a_columns_new_name_before_capture_knows_it(pg_database: str) -> None:
    with PostgresNode(pg_database, "a", ITEM) as node:
        node.run(SELF, ITEMS)
        node.run("ALTER TABLE item RENAME COLUMN name TO title")
        node.run("UPDATE item SET title = 'x' WHERE id = 1", "INSERT INTO item VALUES (4, 'd', 4)")
        node.install()
        changes = node.changes()
        last = {json.loads(bytes(change.pk))["id"]: json.loads(bytes(change.after)) for change in changes}
        assert last[1] == {"id": 1, "title": "x", "qty": 1}
        assert last[4] == {"id": 4, "title": "d", "qty": 4}
