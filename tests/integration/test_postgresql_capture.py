"""What the triggers log: every way to write a table, by every account, under whatever settings."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from common.wire.records import Change
from tests.support.postgresql_node import PostgresNode, replayed

pytestmark = pytest.mark.containers

ITEM = "CREATE TABLE item (id int PRIMARY KEY, name text, qty int DEFAULT 1)"


@pytest.fixture
def node_of(pg_database: str) -> Iterator[Callable[[str], PostgresNode]]:
    """Makes the node with its tables."""
    opened: list[PostgresNode] = []

    def make(ddl: str) -> PostgresNode:
        opened.append(PostgresNode(pg_database, "a", ddl))
        return opened[-1]

    yield make
    for node in opened:
        node.database.close()


def ops(changes: list[Change]) -> list[tuple[str, object]]:
    return [(change.op, json.loads(bytes(change.pk))) for change in changes]


def assert_log_leads_to_rows(node: PostgresNode, *tables: str) -> list[Change]:
    """The oracle: replaying the log from nothing gives exactly the rows that stand."""
    changes = node.changes()
    state = replayed(changes)
    for table in tables:
        assert state.get(table, {}) == node.images(table)
    return changes


def test_each_kind_of_statement(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run(
        "INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, NULL)",
        "UPDATE item SET qty = qty + id WHERE id < 3",
        "INSERT INTO item VALUES (1, 'again'), (4, 'd') ON CONFLICT (id) DO UPDATE SET name = excluded.name",
        "INSERT INTO item VALUES (1, 'ignored') ON CONFLICT DO NOTHING",
        "UPDATE item SET name = v.name FROM (VALUES (2, 'from')) v(id, name) WHERE v.id = item.id",
        "WITH gone AS (DELETE FROM item WHERE id = 3 RETURNING *) INSERT INTO item SELECT id + 10, name FROM gone",
        "MERGE INTO item USING (VALUES (4, 'm'), (5, 'n')) v(id, name) ON v.id = item.id"
        " WHEN MATCHED THEN UPDATE SET name = v.name WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.name)",
        "DELETE FROM item WHERE id = 2",
    )
    with node.application() as connection, connection.cursor().copy("COPY item (id, name) FROM STDIN") as copy:
        copy.write_row((20, "copied"))
        copy.write_row((21, None))
    changes = assert_log_leads_to_rows(node, "item")
    assert len(changes) == 15


def test_an_update_that_changes_nothing_writes_nothing(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("INSERT INTO item VALUES (1, 'a')", "UPDATE item SET name = 'a', qty = 1")
    assert ops(node.changes()) == [("I", {"id": 1})]


def test_a_key_that_changes_is_a_delete_and_an_insert(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("INSERT INTO item VALUES (1, 'a'), (2, 'b')", "UPDATE item SET id = id + 10")
    changes = assert_log_leads_to_rows(node, "item")
    assert sorted(op for op, _ in ops(changes[2:])) == ["D", "D", "I", "I"]
    assert len({change.tx_id for change in changes[2:]}) == 1


def test_savepoints_and_rollbacks_leave_nothing(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    with node.application() as connection:
        connection.execute("INSERT INTO item VALUES (1, 'kept')")
        for round_ in range(3):
            with connection.transaction(force_rollback=True):
                connection.execute("UPDATE item SET qty = 99 WHERE id = 1")
                connection.execute("INSERT INTO item VALUES (%s, 'lost')", (2 + round_,))
        connection.execute("UPDATE item SET qty = 5 WHERE id = 1")
    with node.application() as connection:
        connection.execute("DELETE FROM item")
        connection.rollback()
    changes = assert_log_leads_to_rows(node, "item")
    assert ops(changes) == [("I", {"id": 1}), ("U", {"id": 1})]
    assert len({change.tx_id for change in changes}) == 1


def test_cascades_are_logged(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(
        "CREATE TABLE p (id int PRIMARY KEY);"
        "CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE);"
        "CREATE TABLE n (id int PRIMARY KEY, p int REFERENCES p ON DELETE SET NULL)"
    )
    node.run(
        "INSERT INTO p VALUES (1), (2)",
        "INSERT INTO c VALUES (1, 1), (2, 1), (3, 2)",
        "INSERT INTO n VALUES (1, 1)",
        "UPDATE p SET id = 5 WHERE id = 2",
        "DELETE FROM p WHERE id = 1",
    )
    changes = assert_log_leads_to_rows(node, "p", "c", "n")
    assert ("D", {"id": 2}) in ops(changes)


def test_truncate_and_truncate_cascade(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of("CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p)")
    node.run("INSERT INTO p VALUES (1), (2)", "INSERT INTO c VALUES (1, 1)", "TRUNCATE p CASCADE")
    changes = assert_log_leads_to_rows(node, "p", "c")
    assert [op for op, _ in ops(changes)].count("D") == 3


PARTITIONED = """
CREATE TABLE part (id int, k int, v text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 (v text, junk int, k int NOT NULL, id int NOT NULL);
ALTER TABLE part_2 DROP COLUMN junk;
ALTER TABLE part ATTACH PARTITION part_2 FOR VALUES IN (2)
"""


def test_partitions_travel_under_the_name_of_their_root(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(PARTITIONED)
    assert list(node.tables) == ["part"]
    node.run(
        "INSERT INTO part VALUES (1, 1, 'one'), (2, 2, 'two'), (3, 1, 'three')",
        "INSERT INTO part_2 (id, k, v) VALUES (9, 2, 'direct')",
        "UPDATE part SET k = 2 WHERE id = 1",
        "UPDATE part SET v = v || '!'",
        "TRUNCATE part_1",
    )
    changes = assert_log_leads_to_rows(node, "part")
    assert {change.table for change in changes} == {"part"}
    node.run("TRUNCATE part")
    assert_log_leads_to_rows(node, "part")


def test_a_partition_that_comes_or_goes_is_noticed(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(PARTITIONED)
    capture, shapes = node.database.capture(), list(node.tables.values())
    assert capture.drifted(shapes) == []
    node.run("CREATE TABLE part_3 PARTITION OF part FOR VALUES IN (3)")
    assert capture.drifted(shapes) == ["part"]
    node.run("INSERT INTO part VALUES (1, 3, 'x')", "TRUNCATE part")
    assert_log_leads_to_rows(node, "part")
    node.install()
    assert capture.drifted(shapes) == []
    node.run("INSERT INTO part VALUES (1, 3, 'x')", "TRUNCATE part_3")
    assert_log_leads_to_rows(node, "part")
    node.run("ALTER TABLE part DETACH PARTITION part_1")
    assert capture.drifted(shapes) == ["part"]


STRANGE = """
CREATE SCHEMA "Sch.ema %s";
CREATE TABLE "Sch.ema %s"."It's \\ a ""table"" %" (
    "Key %s" text, "zwei-Ä" numeric, "select" bool, PRIMARY KEY ("zwei-Ä", "Key %s"));
CREATE TABLE "dot.ted" (id int PRIMARY KEY)
"""


def test_strange_names(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(STRANGE)
    name = 'Sch..ema %s.It\'s \\ a "table" %'
    assert set(node.tables) == {name, "dot..ted"}
    table = '"Sch.ema %s"."It\'s \\ a ""table"" %"'
    node.run(
        f"INSERT INTO {table} VALUES (E'a\\nb''\\\\', 1.50, true)",
        f'UPDATE {table} SET "select" = false',
        'INSERT INTO "dot.ted" VALUES (1)',
    )
    changes = assert_log_leads_to_rows(node, "dot..ted")
    assert json.loads(bytes(changes[0].pk)) == {"zwei-Ä": "1.5", "Key %s": "a\nb'\\"}


def test_a_key_called_like_an_empty_object(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of("""CREATE TABLE odd ("a{}" int PRIMARY KEY, "{}" text)""")
    node.run("INSERT INTO odd VALUES (1, 'x')", """ALTER TABLE odd DROP COLUMN "{}\"""", "INSERT INTO odd VALUES (2)")
    assert [json.loads(bytes(change.after)) for change in node.changes()] == [{"a{}": 1, "{}": "x"}, {"a{}": 2}]


def test_more_columns_than_a_function_takes_arguments(node_of: Callable[[str], PostgresNode]) -> None:
    columns = ", ".join(f"c{number} text DEFAULT 'ä{{}},{number}'" for number in range(173))
    node = node_of(f"CREATE TABLE wide (id int PRIMARY KEY, {columns}, b bytea)")
    node.run("INSERT INTO wide (id) VALUES (1)", "UPDATE wide SET c100 = NULL, b = decode(repeat('00ff', 99), 'hex')")
    assert_log_leads_to_rows(node, "wide")
    node.run("ALTER TABLE wide ALTER b TYPE int USING 1", "UPDATE wide SET c1 = 'b'")
    after = json.loads(bytes(node.changes()[-1].after))
    assert (len(after), after["c1"], after["b"]) == (175, "b", 1)


@pytest.mark.parametrize("value", ["'last'", "'start'"], ids=["on", "and back"])
def test_a_trigger_of_the_application_that_writes_rows_of_its_own_statement(
    node_of: Callable[[str], PostgresNode], value: str
) -> None:
    """The nested change is logged before the outer one of that row; sealing puts them in order, also where the images
    alone would not show it."""
    node = node_of(ITEM)
    node.run(
        "INSERT INTO item VALUES (1, 'start'), (2, 'start'), (3, 'start')",
        f"""
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = 1 AND pg_trigger_depth() = 1 THEN
                UPDATE item SET name = 'middle' WHERE id = 2;
                UPDATE item SET name = name WHERE id = 2;
                UPDATE item SET name = {value} WHERE id = 2;
                DELETE FROM item WHERE id = 3;
            END IF;
            RETURN NULL;
        END $$;
        CREATE TRIGGER " comes first" AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION touch()""",
        "UPDATE item SET name = 'outer'",
    )
    assert_log_leads_to_rows(node, "item")
    assert node.rows("SELECT key, deleted FROM rf_row_version WHERE deleted") == [('{"id":3}', True)]


def test_a_session_can_not_bend_the_name_of_a_relation(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of("CREATE TABLE named (id int PRIMARY KEY, relation regclass)")
    with node.application() as session:
        session.execute("SET quote_all_identifiers = on")
        session.execute("INSERT INTO named VALUES (1, 'pg_class')")
    assert json.loads(bytes(node.changes()[0].after))["relation"] == "pg_class"


def with_trigger(when: str, body: str) -> str:
    return f"""{ITEM};
        CREATE FUNCTION act() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$;
        CREATE TRIGGER " comes first" AFTER {when} ON item FOR EACH ROW EXECUTE FUNCTION act()"""


@pytest.mark.parametrize(
    ("ddl", "statements"),
    [
        pytest.param(
            with_trigger("INSERT", "DELETE FROM item WHERE id = NEW.id + 1;"),
            ["INSERT INTO item VALUES (1, 'a'), (2, 'b'), (4, 'd')"],
            id="a row of the same insert is deleted",
        ),
        pytest.param(
            with_trigger(
                "INSERT", "UPDATE item SET qty = 5 WHERE id = NEW.id + 1; DELETE FROM item WHERE id = NEW.id + 1;"
            ),
            ["INSERT INTO item VALUES (1, 'a'), (2, 'b')"],
            id="and written before",
        ),
        pytest.param(
            with_trigger("INSERT", "UPDATE item SET id = id + 100 WHERE id = NEW.id;"),
            ["INSERT INTO item VALUES (1, 'a'), (2, 'b')"],
            id="the inserted row takes another key",
        ),
        pytest.param(
            with_trigger("DELETE", "INSERT INTO item SELECT OLD.*;"),
            ["INSERT INTO item VALUES (1, 'a'), (2, 'b')", "DELETE FROM item WHERE id = 1"],
            id="the deleted row is put back",
        ),
        pytest.param(
            "CREATE TABLE item (id int PRIMARY KEY DEFERRABLE, name text)",
            [
                "INSERT INTO item VALUES (1, 'a'), (2, 'b'), (3, 'a')",
                "UPDATE item SET id = 4 - id",
                "BEGIN; UPDATE item SET id = 3 - id WHERE id < 3; UPDATE item SET id = 4 - id;"
                " DELETE FROM item WHERE id = 2; INSERT INTO item VALUES (2, 'new'); COMMIT",
                "BEGIN; SET CONSTRAINTS ALL DEFERRED; INSERT INTO item VALUES (2, 'next');"
                " DELETE FROM item WHERE name = 'new'; COMMIT",
            ],
            id="keys swapped",
        ),
        pytest.param(
            ITEM,
            [
                "BEGIN; INSERT INTO item VALUES (1, 'a'); UPDATE item SET qty = qty; DELETE FROM item; COMMIT",
                "BEGIN; SAVEPOINT a; INSERT INTO item VALUES (1, 'a'); RELEASE a; UPDATE item SET qty = qty;"
                " UPDATE item SET name = 'z'; COMMIT",
                "BEGIN; TRUNCATE item; INSERT INTO item VALUES (1, 'z'); UPDATE item SET qty = 7; TRUNCATE item;"
                " INSERT INTO item VALUES (1, 'z'); COMMIT",
            ],
            id="nothing changed on the way, and places that come twice",
        ),
    ],
)
def test_a_row_written_several_times_in_one_transaction(
    node_of: Callable[[str], PostgresNode], ddl: str, statements: list[str]
) -> None:
    node = node_of(ddl)
    node.run(*statements)
    assert_log_leads_to_rows(node, "item")
    standing = {json.loads(key)["id"] for (key,) in node.rows("SELECT key FROM rf_row_version WHERE NOT deleted")}
    assert standing == {key for (key,) in node.rows("SELECT id FROM item")}


def test_a_new_column_does_not_break_and_is_noticed(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("INSERT INTO item VALUES (1, 'a')", "ALTER TABLE item ADD COLUMN extra int", "UPDATE item SET extra = 7")
    assert node.database.capture().drifted(list(node.tables.values())) == ["item"]
    node.run("UPDATE item SET name = 'b'")
    assert "extra" not in json.loads(bytes(node.changes()[-1].after))
    node.install()
    node.run("UPDATE item SET extra = 8")
    last = node.changes()[-1]
    assert json.loads(bytes(last.before))["extra"] == 7
    assert json.loads(bytes(last.after))["extra"] == 8
    header = node.txs()[-1].header
    assert list(header.tables["item"].columns) == ["id", "name", "qty", "extra"]


def test_a_renamed_table_does_not_break_and_is_noticed(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("INSERT INTO item VALUES (1, 'a')")
    sent = node.changes()
    node.run("ALTER TABLE item RENAME TO thing", "INSERT INTO thing VALUES (2, 'b')")
    assert node.database.capture().drifted(list(node.tables.values())) == ["thing"]
    node.install()
    node.run("INSERT INTO thing VALUES (3, 'c')")
    changes = node.changes()
    assert [(change.table, json.loads(bytes(change.pk))["id"]) for change in changes] == [
        ("item", 1),
        ("thing", 2),
        ("thing", 3),
    ]
    assert changes[:1] == sent


def test_rows_of_a_renamed_table_keep_their_versions(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("INSERT INTO item VALUES (1, 'a')", "INSERT INTO item VALUES (2, 'b')", "INSERT INTO item VALUES (3, 'c')")
    node.run("DELETE FROM item WHERE id = 3")
    one, two, _, gone = node.changes()
    node.run(
        "ALTER TABLE item RENAME TO thing",
        "UPDATE thing SET name = 'before capture follows' WHERE id = 1",
    )
    node.install()
    node.run("UPDATE thing SET name = 'after' WHERE id = 2", "INSERT INTO thing VALUES (3, 'again')")
    assert [change.base for change in node.changes()[4:]] == [one.version, two.version, gone.version]


def test_a_backlog_that_waits_goes_on_under_a_tables_new_name(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run(*(f"INSERT INTO item VALUES ({number}, 'a')" for number in range(1, 21)))
    assert node.seal(4).more
    node.run("ALTER TABLE item RENAME TO thing")
    node.install()
    changes = node.changes()
    sealed = sum(change.table == "item" for change in changes)
    assert 0 < sealed < 20
    assert [change.table for change in changes] == ["item"] * sealed + ["thing"] * (20 - sealed)
    assert len(node.rows("SELECT FROM rf_row_version v JOIN rf_table t USING (table_id) WHERE t.name = 'thing'")) == 20


def test_a_table_that_took_a_renamed_ones_name_begins_anew(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("INSERT INTO item VALUES (1, 'a')")
    node.changes()
    node.run("ALTER TABLE item RENAME TO thing")
    node.install()
    node.run(ITEM)
    node.install()
    node.run("INSERT INTO item VALUES (1, 'another')", "UPDATE thing SET name = 'b'")
    assert [(change.table, change.op) for change in node.changes()] == [("item", "I"), ("item", "I"), ("thing", "U")]
    node.run("DROP TABLE item", "ALTER TABLE thing RENAME TO item", "UPDATE item SET name = 'back'")
    node.install()
    last = node.changes()[-1]
    assert (last.table, json.loads(bytes(last.after))["name"]) == ("item", "back")


@pytest.mark.parametrize(
    ("statement", "written", "captured"),
    [
        ("ALTER TABLE item DROP COLUMN name", "INSERT INTO item VALUES (2, 5)", {"id": 2, "qty": 5}),
        ("ALTER TABLE item DROP COLUMN name CASCADE", "INSERT INTO item VALUES (2, 5)", {"id": 2, "qty": 5}),
        (
            "ALTER TABLE item ALTER COLUMN qty TYPE bigint",
            "INSERT INTO item VALUES (2, 'b', 9999999999)",
            {"id": 2, "name": "b", "qty": 9999999999},
        ),
        (
            "ALTER TABLE item ALTER COLUMN qty TYPE text",
            "INSERT INTO item VALUES (2, 'b', 'many')",
            {"id": 2, "name": "b", "qty": "many"},
        ),
        ("ALTER TABLE item RENAME name TO title", "INSERT INTO item VALUES (2, 'b')", {"id": 2, "name": "b", "qty": 1}),
    ],
)
def test_the_owner_may_alter_the_table_and_every_session_writes_on(
    node_of: Callable[[str], PostgresNode], statement: str, written: str, captured: dict[str, object]
) -> None:
    """Also the session that had the trigger's plan before: it is not broken, and what is left is captured."""
    node = node_of(ITEM)
    with node.application(autocommit=True) as session:
        session.execute("INSERT INTO item VALUES (1, 'a')")
        node.run(statement)
        session.execute(written.encode())
        session.execute("UPDATE item SET qty = qty WHERE id = 1")
        session.execute("DELETE FROM item WHERE id = 1")
    assert json.loads(bytes(node.changes()[1].after)) == captured
    # A reader refuses a row that has other columns than its header.
    assert list(node.txs()[1].header.tables["item"].columns) == list(captured)
    assert ops(node.changes())[-1] == ("D", {"id": 1})
    node.install()
    assert node.database.capture().drifted(list(node.tables.values())) == []
    node.run("TRUNCATE item")
    last = node.txs()[-1].header if node.seal_all() else None
    assert last is not None
    assert dict(last.tables["item"].columns) == dict(node.tables["item"].meta.columns)


def test_a_table_whose_logical_type_changed_has_drifted(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("ALTER TABLE item ALTER COLUMN qty TYPE text")
    assert node.database.capture().drifted(list(node.tables.values())) == ["item"]


HOSTILE = "SET datestyle = 'German'; SET timezone = 'Asia/Kathmandu'; SET extra_float_digits = -15"


@pytest.mark.parametrize(
    ("ddl", "altered", "written", "image"),
    [
        ("id int PRIMARY KEY, v bytea", "v TYPE text", "1, 'a'", {"id": 1, "v": "a"}),
        ("id float8 PRIMARY KEY, v int", "id TYPE text", "'1', 5", {"id": "1", "v": 5}),
        ("id numeric PRIMARY KEY, v int", "id TYPE text", "'1', 5", {"id": "1", "v": 5}),
        ("id numeric PRIMARY KEY, v int", "id TYPE bigint", "1, 5", {"id": 1, "v": 5}),
        ("id int PRIMARY KEY, v int", "v TYPE float8", "1, 0.1::float8 + 0.2", {"id": 1, "v": 0.30000000000000004}),
        (
            "id int PRIMARY KEY, v text",
            "v TYPE timestamptz USING now()",
            "1, '2026-11-23 09:00+00'",
            {"id": 1, "v": "2026-11-23T09:00:00+00:00"},
        ),
        ("id int PRIMARY KEY, v text", "v TYPE bent USING NULL", "1, ROW(7)", {"id": 1, "v": "(7)"}),
    ],
)
def test_a_column_of_another_type_is_written_whatever_the_session_sets(
    node_of: Callable[[str], PostgresNode], ddl: str, altered: str, written: str, image: dict[str, object]
) -> None:
    """By a session that knew the table before and by a new one, until capture is installed anew; and no cast is run
    that somebody made for a type of his own."""
    node = node_of(f"CREATE TABLE item ({ddl})")
    node.run(
        "CREATE TYPE bent AS (x int)",
        "CREATE FUNCTION bend(bent) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE 'run by %', current_user; END $$",
        "CREATE CAST (bent AS json) WITH FUNCTION bend(bent)",
    )
    with node.application(autocommit=True) as before:
        before.execute("INSERT INTO item VALUES (0)")
        node.run(f"ALTER TABLE item ALTER {altered}")
        with node.application(autocommit=True) as after:
            for session in (before, after):
                session.execute(HOSTILE)
                session.execute(f"INSERT INTO item VALUES ({written})".encode())
                session.execute("DELETE FROM item")
    node.run(f"INSERT INTO item VALUES ({written})", "TRUNCATE item")
    found = [change for change in node.changes() if json.loads(bytes(change.pk)) == {"id": image["id"]}]
    assert [change.op for change in found] == ["I", "D"] * 3
    for change in found:
        assert json.loads(bytes(change.after if change.op == "I" else change.before)) == image


def test_a_table_that_lost_its_key_is_still_written(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("ALTER TABLE item DROP COLUMN id CASCADE", "INSERT INTO item VALUES ('a')", "TRUNCATE item")
    assert node.changes() == []
    assert node.database.catalog().keyless == ("item",)


def test_a_table_may_be_dropped_and_made_again(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    node.run("INSERT INTO item VALUES (1, 'a')", "DROP TABLE item", ITEM)
    assert node.database.capture().drifted(list(node.tables.values())) == ["item"]
    node.install()
    node.run("INSERT INTO item VALUES (2, 'b')")
    assert ops(node.changes()) == [("I", {"id": 1}), ("I", {"id": 2})]
    node.run("DROP TABLE item")
    node.install()
    assert node.rows("SELECT proname FROM pg_proc WHERE proname LIKE 'rowferry%'") == []


def test_truncating_takes_the_rows_of_that_table_whatever_it_is_called(
    node_of: Callable[[str], PostgresNode],
) -> None:
    """The way of a rebuild: the old table steps aside, and is emptied later."""
    node = node_of(ITEM)
    node.run(
        "INSERT INTO item VALUES (1, 'a')",
        "CREATE TABLE item_new (LIKE item INCLUDING ALL)",
        "INSERT INTO item_new VALUES (1, 'a'), (2, 'new')",
        "ALTER TABLE item RENAME TO item_old",
        "ALTER TABLE item_new RENAME TO item",
        "TRUNCATE item_old",
    )
    assert ops(node.changes()) == [("I", {"id": 1}), ("D", {"id": 1})]


def test_install_plan_and_uninstall(node_of: Callable[[str], PostgresNode]) -> None:
    node = node_of(ITEM)
    capture, shapes = node.database.capture(), list(node.tables.values())
    assert capture.plan(shapes) == []
    assert capture.install(shapes) == []
    node.run('ALTER TABLE item DISABLE TRIGGER "!rowferry capture 1"')
    assert capture.drifted(shapes) == ["item"]
    assert capture.plan(shapes) == capture.install(shapes) != []
    assert capture.install([]) != []
    node.run("INSERT INTO item VALUES (1, 'unseen')")
    assert node.changes() == []
    left = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'rowferry%' OR proname LIKE 'rf\\_%'"
    assert node.rows(left) == [(0,)]
    assert capture.install(shapes) != []
    node.run("INSERT INTO item VALUES (2, 'seen')")
    assert len(node.changes()) == 1
    capture.uninstall()
    assert node.rows(left) == [(0,)]
    assert node.rows("SELECT count(*) FROM pg_trigger WHERE tgname LIKE '!rowferry%'") == [(0,)]


def test_the_plan_can_be_asked_for_before_the_first_migrate(pg_database: str) -> None:
    from common.dialects.postgresql import PostgresDatabase

    database = PostgresDatabase(pg_database)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(ITEM)
    assert any("CREATE TRIGGER" in line for line in database.capture().plan(list(database.catalog().tables.values())))
    database.close()


def test_a_table_of_as_many_columns_as_a_row_can_hold_is_captured(pg_database: str) -> None:
    names = [str(uuid.uuid4()) for _ in range(1_500)]
    columns = ", ".join(f'"{name}" int' for name in names)
    with PostgresNode(pg_database, "a", f"CREATE TABLE wide (id int PRIMARY KEY, {columns})") as node:
        node.run(f'INSERT INTO wide (id, "{names[0]}", "{names[-1]}") VALUES (1, 10, 20)')
        node.run(f'UPDATE wide SET "{names[700]}" = 30')
        node.install()
        node.seal_all()
        images = [json.loads(bytes(change.after)) for change in node.changes()]
    first = {"id": 1} | dict.fromkeys(names) | {names[0]: 10, names[-1]: 20}
    assert images == [first, first | {names[700]: 30}]


def test_whether_capture_stands_is_asked_of_all_tables_at_once(
    node_of: Callable[[str], PostgresNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every five seconds, and there may be hundreds."""
    node = node_of(ITEM)
    asked: list[object] = []
    execute = psycopg.Cursor.execute

    def counted(cursor: psycopg.Cursor[Any], query: Any, *more: Any, **named: Any) -> Any:
        asked.append(query)
        return execute(cursor, query, *more, **named)

    monkeypatch.setattr(psycopg.Cursor, "execute", counted)
    taken = []
    for numbers in (range(2), range(2, 40)):
        with node.application() as connection:
            for number in numbers:
                connection.execute(f"CREATE TABLE t{number} (id int PRIMARY KEY, name text)".encode())
        tables = list(node.database.catalog().tables.values())
        capture = node.database.capture()
        capture.install(tables)
        asked.clear()
        assert capture.drifted(tables) == []
        taken.append(len(asked))
    assert taken[0] == taken[1]
