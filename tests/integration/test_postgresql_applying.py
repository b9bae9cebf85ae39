"""Applying: what is written, what is refused with which reason, and the order of locks against local writers."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.errors import ConfigError, ContentionError, OutageError, PoisonError, Reason
from common.ports.dialect import RowWrite
from common.versions import NEVER, Version
from common.wire.records import TableMeta
from tests.support.postgresql_node import PostgresNode, apply_part, apply_until_done, replayed
from tests.support.waiting import wait_for

pytestmark = pytest.mark.containers

DDL = """
CREATE TABLE parent (id int PRIMARY KEY, code text UNIQUE, note text);
CREATE TABLE child (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent int REFERENCES parent, code text REFERENCES parent (code),
    doubled int GENERATED ALWAYS AS (parent * 2) STORED);
CREATE TABLE plain (
    id int PRIMARY KEY, short varchar(3), price numeric(6,2), at timestamp, day date, small real, big float8, b bytea,
    flag bool, j jsonb, bits bit(3), other text DEFAULT 'kept', number int GENERATED ALWAYS AS IDENTITY,
    CONSTRAINT positive CHECK (price > 0))
"""


@pytest.fixture
def node(pg_database: str) -> Iterator[PostgresNode]:
    with PostgresNode(pg_database, "b", DDL) as opened:
        yield opened


def write(
    node: PostgresNode, table: str, *images: dict[str, Any], meta: TableMeta | None = None, replace: bool = False
) -> None:
    """Write whole rows, as from other nodes: one for each set of columns."""
    shape = node.tables[table]
    known = (meta or shape.meta).columns
    by_columns: dict[tuple[str, ...], list[RowWrite]] = {}
    for image in images:
        by_columns.setdefault(tuple(image), []).append(as_write(shape.pk, image))
    with node.database.apply_session() as session:
        for names, writes in by_columns.items():
            pk = (meta or shape.meta).pk
            sent = TableMeta(pk=pk, columns={name: known.get(name, "text") for name in (*names, *pk)})
            states = session.lock(shape, sent, [one.pk for one in writes])
            keyed = [RowWrite(s.key, w.pk, w.image, w.version, w.base) for s, w in zip(states, writes, strict=True)]
            session.write(shape, sent, keyed, replace=replace)


def as_write(pk: tuple[str, ...], image: dict[str, Any], *, deleted: bool = False) -> RowWrite:
    key = json.dumps({name: image[name] for name in pk}).encode()
    return RowWrite(key.decode(), key, None if deleted else json.dumps(image).encode(), Version(0, 9, "a"), NEVER)


def test_only_the_columns_that_an_image_names_are_set(node: PostgresNode) -> None:
    node.run("INSERT INTO plain (id, short, other) VALUES (1, 'old', 'mine')")
    write(node, "plain", {"id": 1, "short": "new"}, {"id": 2, "short": None}, {"id": 3, "price": "1.50"})
    found = node.rows("SELECT id, short, price::text, other FROM plain ORDER BY id")
    assert found == [(1, "new", None, "mine"), (2, None, None, "kept"), (3, None, "1.50", "kept")]
    own, merged = node.changes()
    assert (own.op, merged.op) == ("I", "I"), "rows that the batch alone made are nobody's own changes"
    image = json.loads(bytes(merged.after))
    assert (image["short"], image["other"]) == ("new", "mine")


def test_identity_and_generated_columns(node: PostgresNode) -> None:
    write(node, "parent", {"id": 4, "code": "x", "note": None})
    write(node, "child", {"id": 70, "parent": 4, "code": "x"})
    write(node, "child", {"id": 70, "parent": None, "code": "x", "doubled": 99})
    assert node.rows("SELECT * FROM child") == [(70, None, "x", None)]
    write(node, "plain", {"id": 1, "number": 500, "short": "a"})
    write(node, "plain", {"id": 1, "number": 501, "short": "b"})
    write(node, "plain", {"id": 1, "number": 501, "short": "c"})
    assert node.rows("SELECT number, short FROM plain") == [(501, "c")]


@pytest.mark.parametrize(
    ("image", "reason", "named"),
    [
        ({"short": "abcd"}, Reason.TYPE, "short"),
        ({"short": "abc  "}, Reason.TYPE, "short"),
        ({"short": "a\x00"}, Reason.TYPE, ""),
        ({"price": "1.555"}, Reason.TYPE, "price"),
        ({"price": "99999.00"}, Reason.TYPE, ""),
        ({"at": "today"}, Reason.TYPE, "at"),
        ({"at": "2026-11-23T09:00:00+02:00"}, Reason.TYPE, "at"),
        ({"at": "2026-11-23T09:00:00.1234567"}, Reason.TYPE, "at"),
        ({"day": "2026-11-23T09:00:00"}, Reason.TYPE, "day"),
        ({"small": 0.123456789}, Reason.TYPE, "small"),
        ({"bits": "10"}, Reason.TYPE, ""),
        ({"bits": "1011"}, Reason.TYPE, ""),
        ({"flag": 2}, Reason.TYPE, ""),
        ({"j": "{"}, Reason.TYPE, ""),
        ({"j": "[" * 100_000}, Reason.TYPE, "depth"),
        ({"b": {"$text": base64.b64encode(b"x").decode()}}, Reason.TYPE, "b"),
        ({"short": {"$bytes": base64.b64encode(b"x").decode()}}, Reason.TYPE, "short"),
        ({"short": {"$text": base64.b64encode(b"\xff").decode()}}, Reason.TYPE, "short"),
        ({"price": {"$text": base64.b64encode(b"dear").decode()}}, Reason.TYPE, ""),
        ({"short": ["x"]}, Reason.TYPE, "short"),
        ({"price": "-1"}, Reason.CONSTRAINT, "positive"),
        ({"gone": 1}, Reason.UNKNOWN_COLUMN, "gone"),
    ],
)
def test_what_would_be_changed_or_cannot_be_is_refused(
    node: PostgresNode, image: dict[str, Any], reason: Reason, named: str
) -> None:
    with pytest.raises(PoisonError) as caught:
        write(node, "plain", {"id": 1, **image})
    assert caught.value.reason is reason
    assert named in str(caught.value)
    assert node.rows("SELECT count(*) FROM plain") == [(0,)]


def test_values_of_other_kinds_of_database(node: PostgresNode) -> None:
    meta = TableMeta(pk=("id",), columns={"id": "int", "flag": "int", "price": "float", "big": "int", "short": "int"})

    def text(value: str) -> dict[str, str]:
        return {"$text": base64.b64encode(value.encode()).decode()}

    write(node, "plain", {"id": 1, "flag": 1, "price": 1.5, "big": 2**52, "short": 7}, meta=meta)
    write(node, "plain", {"id": 2, "at": "2026-11-23 09:00:00", "price": {"$int": 3}, "big": {"$float": "NaN"}})
    write(node, "plain", {"id": 3, "at": text("2026-11-23T09:00"), "price": text("2.5"), "short": text("ä{}")})
    write(node, "plain", {"id": 4, "b": {"$bytes": "AP8="}, "j": "[1]"})
    shown = "SELECT flag, price::text, big::text, short, at::text, b, j::text FROM plain ORDER BY id"
    assert node.rows(shown) == [
        (True, "1.50", "4.503599627370496e+15", "7", None, None, None),
        (None, "3.00", "NaN", None, "2026-11-23 09:00:00", None, None),
        (None, "2.50", None, "ä{}", "2026-11-23 09:00:00", None, None),
        (None, None, None, None, None, b"\x00\xff", "[1]"),
    ]
    with pytest.raises(PoisonError, match="big"):
        write(node, "plain", {"id": 1, "big": 2**53 + 1}, meta=meta)
    with pytest.raises(PoisonError, match="b bytea"):
        write(node, "plain", {"id": 1, "b": "AP8="}, meta=TableMeta(pk=("id",), columns={"id": "int", "b": "text"}))
    with pytest.raises(PoisonError) as caught:
        write(node, "plain", {"id": 1}, meta=TableMeta(pk=("b",), columns={"b": "int"}))
    assert caught.value.reason is Reason.UNKNOWN_COLUMN


def test_unique_values_that_change_places(node: PostgresNode) -> None:
    write(node, "parent", {"id": 1, "code": "x", "note": "1"}, {"id": 2, "code": "y", "note": "2"})
    swapped = ({"id": 1, "code": "y"}, {"id": 2, "code": "x"})
    with pytest.raises(PoisonError) as caught:
        write(node, "parent", *swapped)
    assert (caught.value.reason, caught.value.table) == (Reason.CONSTRAINT, "parent")
    write(node, "parent", *swapped, replace=True)
    assert node.rows("SELECT id, code FROM parent ORDER BY id") == [(1, "y"), (2, "x")]


def test_keys_have_one_text_whatever_their_sender_wrote(pg_database: str) -> None:
    ddl = "CREATE TABLE k (a numeric, b float4, c char(3), d bytea, PRIMARY KEY (a, b, c, d))"
    with PostgresNode(pg_database, "b", ddl) as node:
        node.run("INSERT INTO k VALUES (1.50, '-0', 'a', '\\x00')")
        (change,) = node.changes()
        shape = node.tables["k"]
        spellings = [
            bytes(change.pk),
            b'{"d":"AA==","c":"a  ","b":0,"a":"1.500"}',
            b'{"a":"1.5","b":-0.0,"c":"a  ","d":"AA=="}',
        ]
        with node.database.apply_session() as session:
            states = session.lock(shape, shape.meta, spellings)
            images = session.images(shape, spellings, shape.meta)
        assert len({state.key for state in states}) == 1
        assert states[0].version == change.version
        assert all(state.known and not state.deleted for state in states)
        assert images == [bytes(change.after)] * 3
        # Without its blanks it would come back to its sender as the key of another row.
        with (
            pytest.raises(PoisonError, match="would be another key in column c"),
            node.database.apply_session() as session,
        ):
            session.lock(shape, shape.meta, [b'{"a":"1.5","b":0,"c":"a","d":"AA=="}'])


def test_states_and_tombstones(node: PostgresNode) -> None:
    shape = node.tables["parent"]
    pks = [b'{"id":1}', b'{"id":2}']
    write(node, "parent", {"id": 1, "code": "x"})
    with node.database.apply_session() as session:
        known, unknown = session.lock(shape, shape.meta, pks)
        assert (known.version, known.known, known.deleted) == (Version(0, 9, "a"), True, False)
        assert (unknown.version, unknown.known) == (NEVER, False)
        session.write(shape, shape.meta, [RowWrite(known.key, pks[0], None, Version(0, 10, "a"), known.version)])
    with node.database.apply_session() as session:
        gone = session.lock(shape, shape.meta, pks)[0]
        assert (gone.version, gone.base, gone.deleted) == (Version(0, 10, "a"), Version(0, 9, "a"), True)
        assert session.images(shape, pks, shape.meta) == [None, None]


def test_foreign_keys_are_checked(node: PostgresNode) -> None:
    parent, child = node.tables["parent"], node.tables["child"]
    node.run(
        "INSERT INTO parent VALUES (1, 'x'), (2, 'y'), (3, 'z')", "INSERT INTO child (parent, code) VALUES (1, 'y')"
    )
    with node.database.apply_session() as session:
        good = as_write(("id",), {"id": 50, "parent": 1, "code": None})
        bad = as_write(("id",), {"id": 51, "parent": 9, "code": "q"})
        session.write(child, child.meta, [good, bad])
        broken = session.broken_references(child, child.meta, [good, bad], [])
        assert [(one.table, one.parent, one.child_pk) for one in broken] == [("child", "parent", '{"id":51}')] * 2
        session.connection.rollback()
    with node.database.apply_session() as session:
        changed = as_write(("id",), {"id": 2, "code": "changed"})
        deleted = [as_write(("id",), {"id": number}, deleted=True) for number in (1, 3)]
        session.write(parent, parent.meta, [changed, *deleted])
        broken = session.broken_references(parent, parent.meta, [changed], deleted)
        assert sorted(json.loads(one.child_pk).popitem() for one in broken) == [("code", "y"), ("parent", 1)]
        assert {(one.table, one.parent) for one in broken} == {("child", "parent")}
        session.connection.rollback()


def test_a_row_of_a_table_that_inherits_from_the_parent_is_no_parent(pg_database: str) -> None:
    tables = """
    CREATE TABLE city (id int PRIMARY KEY);
    CREATE TABLE capital (PRIMARY KEY (id)) INHERITS (city);
    CREATE TABLE visit (id int PRIMARY KEY, city int REFERENCES city)
    """
    with PostgresNode(pg_database, "b", tables) as node:
        node.run("INSERT INTO capital VALUES (5)")
        visit = node.tables["visit"]
        with node.database.apply_session() as session:
            row = as_write(("id",), {"id": 1, "city": 5})
            session.write(visit, visit.meta, [row])
            broken = session.broken_references(visit, visit.meta, [row], [])
            assert [(one.table, one.parent) for one in broken] == [("visit", "city")]
            session.connection.rollback()


def test_a_parent_that_was_checked_can_not_be_deleted_before_the_commit(node: PostgresNode) -> None:
    child = node.tables["child"]
    node.run("INSERT INTO parent VALUES (1, 'x')")
    with node.connect() as application, node.database.apply_session() as session:
        application.execute("SET lock_timeout = '50ms'")
        row = as_write(("id",), {"id": 50, "parent": 1})
        session.write(child, child.meta, [row])
        assert session.broken_references(child, child.meta, [row], []) == []
        with pytest.raises(Exception, match="lock timeout"):
            application.execute("DELETE FROM parent")


def test_a_row_that_somebody_holds_is_contention(node: PostgresNode) -> None:
    node.run("INSERT INTO parent VALUES (1, 'x')")
    with node.connect() as application:
        application.execute("UPDATE parent SET note = 'held'")
        with pytest.raises(ContentionError):
            write(node, "parent", {"id": 1, "code": "y"})
        application.rollback()
        # A reference to the row is no reason to wait for a write that leaves the key alone.
        application.execute("INSERT INTO child (parent) VALUES (1)")
        write(node, "parent", {"id": 1, "note": "written"})


def test_a_local_write_that_is_not_sealed_is_noticed(node: PostgresNode) -> None:
    shape = node.tables["parent"]
    node.run("INSERT INTO parent VALUES (1, 'x'), (2, 'y')")
    node.seal()
    pks = [b'{"id":1}', b'{"id":2}', b'{"id":3}']
    with node.connect() as open_:
        open_.execute("INSERT INTO parent VALUES (3, 'open')")
        with node.database.apply_session() as session:
            keys = [state.key for state in session.lock(shape, shape.meta, pks)]
            assert not session.unsealed(shape, keys)
            node.run("UPDATE child SET parent = 1", "INSERT INTO parent VALUES (4, 'other')")
            assert not session.unsealed(shape, keys)
            open_.commit()
            assert session.unsealed(shape, keys)
            assert session.unsealed(shape, keys[2:])
            assert not session.unsealed(shape, keys[:2])


def test_sealer_and_appliers_take_turns(node: PostgresNode) -> None:
    shape = node.tables["parent"]
    node.run("INSERT INTO parent VALUES (1, 'x')")
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        " AND query LIKE '%rf_seal%' AND pid <> pg_backend_pid()"
    )

    def applier() -> None:
        with node.database.apply_session() as session:
            session.lock(shape, shape.meta, [b'{"id":2}'])

    with ThreadPoolExecutor(2) as pool:
        with node.database.apply_session() as session:
            session.lock(shape, shape.meta, [b'{"id":1}'])
            others = [pool.submit(node.seal), pool.submit(applier)]
            wait_for(lambda: node.rows(waiting) == [(2,)], 30, "the sealer and the second applier to wait")
        for other in others:
            other.result()


def test_nothing_is_captured_and_application_triggers_stay_quiet(node: PostgresNode) -> None:
    node.run(
        "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN NEW.note := 'stamped'; RETURN NEW; END $$",
        "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON parent FOR EACH ROW EXECUTE FUNCTION stamp()",
    )
    write(node, "parent", {"id": 1, "note": "as sent"})
    assert node.rows("SELECT note FROM parent") == [("as sent",)]
    assert node.changes() == []
    node.run("UPDATE parent SET code = 'own'")
    assert [change.op for change in node.changes()] == ["U"]


def test_a_connection_that_applies_keeps_its_settings_and_plans(node: PostgresNode) -> None:
    def planned() -> tuple[str, int, int]:
        with node.database.apply_session() as session:
            role = session.connection.exec_driver_sql("SHOW session_replication_role").scalar_one()
            plans = "SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements WHERE statement LIKE %s"
            generic, custom = session.connection.exec_driver_sql(plans, ("%rf_row_version%",)).one()
            return role, int(generic or 0), int(custom or 0)

    with pytest.raises(ZeroDivisionError), node.database.apply_session():
        raise ZeroDivisionError
    for number in range(8):
        write(node, "parent", {"id": number, "code": f"c{number}"})
    role, generic, custom = planned()
    assert (role, custom) == ("replica", 0)
    assert generic > 0
    write(node, "parent", *({"id": 1_000 + number, "code": f"d{number}"} for number in range(200)))
    role, _, custom = planned()
    assert role == "replica"
    assert custom > 0, "the values of many rows deserve a plan of their own"
    with node.database.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW session_replication_role").scalar_one() == "origin"


def test_a_server_that_is_gone_is_an_outage() -> None:
    from common.dialects.postgresql import PostgresDatabase

    database = PostgresDatabase("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(OutageError):
        database.catalog()
    database.close()
    with pytest.raises(ConfigError):
        PostgresDatabase("mysql://x/y")


ROWS = 5
ENOUGH_WINS = 25
MOST_TURNS = 4000


@pytest.mark.heavy
def test_a_local_writer_against_appliers_on_the_same_rows(pg_database_factory: Any) -> None:
    """Two nodes write the same few rows all the time and apply each other's batches: both end with the same rows and
    versions. The incoming changes must win often, or this shows nothing."""
    ddl = "CREATE TABLE hot (id int PRIMARY KEY, v text)"
    with PostgresNode(pg_database_factory(), "a", ddl) as a, PostgresNode(pg_database_factory(), "b", ddl) as b:
        for node in (a, b):
            node.database.capture().uninstall()
            node.run(f"INSERT INTO hot SELECT g, 'same' FROM generate_series(1, {ROWS}) g")
            node.install()
        start = threading.Barrier(6)
        written = {node: threading.Event() for node in (a, b)}
        wins = dict.fromkeys((a, b), 0)

        def enough() -> bool:
            return min(wins.values()) >= ENOUGH_WINS

        def local_writer(node: PostgresNode) -> None:
            pause = threading.Event()
            with node.connect() as connection:
                start.wait()
                for turn in range(MOST_TURNS):
                    if enough():
                        break
                    row = (turn * 3) % ROWS + 1
                    if turn % 7 == 3:
                        connection.execute("DELETE FROM hot WHERE id = %s", (row,))
                    connection.execute(
                        "INSERT INTO hot VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET v = excluded.v",
                        (row, f"{node.facts.node_id}-{turn}"),
                    )
                    pause.wait(0.004)
                    connection.commit()
                    # Slower and slower up to a point, then quick again: on a busy machine too there are stretches in
                    # which a change arrives before its row was written again, and others in which it doesn't.
                    pause.wait(0.01 * (turn % 12))
            written[node].set()

        def carrier(source: PostgresNode, target: PostgresNode) -> None:
            sealer, tables = source.database.sealer(source.facts), target.tables
            position = 0
            start.wait()
            while True:
                last_round = written[source].is_set()
                sealer.seal()
                for part in source.parts(position):
                    wins[target] += apply_until_done(target, part, tables)[0]
                    position = part.header.to_lsn
                if last_round and position == source.log.head().lsn:
                    return

        def second_applier() -> None:
            """Delivers a's batches to b as well, at the same time, some of them again and again."""
            tables = b.tables
            start.wait()
            position = 0
            while not written[a].is_set():
                for part in a.parts(position):
                    apply_until_done(b, part, tables)
                    position = max(position, part.header.to_lsn - 3)

        with ThreadPoolExecutor(6) as pool:
            writers = [pool.submit(local_writer, node) for node in (a, b)]
            others = [pool.submit(carrier, a, b), pool.submit(carrier, b, a), pool.submit(second_applier)]
            start.wait()
            for future in [*writers, *others]:
                future.result()
        assert enough(), f"incoming changes hardly ever won: {list(wins.values())}"
        assert replayed_rows(a) == replayed_rows(b)
        assert_each_change_found_what_its_base_names(a, b)


def replayed_rows(node: PostgresNode) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    node.seal_all()
    versions = node.rows("SELECT key, main_epoch, hlc, node_id, deleted FROM rf_row_version ORDER BY key")
    return node.images("hot"), versions


def assert_each_change_found_what_its_base_names(*nodes: PostgresNode) -> None:
    """A change's `before` must be the image that its base left, on whichever node that was: else a version was given
    out over a write that nobody had seen."""
    changes = [change for node in nodes for change in node.changes()]
    images = {(bytes(change.pk), change.version): json.loads(bytes(change.after)) for change in changes}
    for change in changes:
        if change.base not in (None, NEVER):
            assert json.loads(bytes(change.before)) == images[bytes(change.pk), change.base], change.version


def test_two_appliers_of_one_batch_at_once(pg_database_factory: Any) -> None:
    ddl = "CREATE TABLE item (id int PRIMARY KEY, n int)"
    with PostgresNode(pg_database_factory(), "a", ddl) as a, PostgresNode(pg_database_factory(), "b", ddl) as b:
        a.run("INSERT INTO item SELECT g, 0 FROM generate_series(1, 200) g", "UPDATE item SET n = id")
        changes = a.changes()
        tables = b.tables
        start = threading.Barrier(4)

        def apply_all() -> int:
            start.wait()
            return sum(apply_until_done(b, part, tables)[0] for part in a.parts())

        with ThreadPoolExecutor(4) as pool:
            won = [future.result() for future in [pool.submit(apply_all) for _ in range(4)]]
        assert sum(won) == 400
        assert b.images("item") == replayed(changes)["item"]
        assert b.changes() == []


def test_the_batch_of_another_shape_is_refused_by_name(node: PostgresNode, pg_database_factory: Any) -> None:
    with PostgresNode(pg_database_factory(), "a", "CREATE TABLE parent (id int PRIMARY KEY, more int)") as a:
        a.run("INSERT INTO parent VALUES (1, 2)")
        a.seal()
        (part,) = a.parts()
        with pytest.raises(PoisonError) as caught:
            apply_part(node, part)
        assert (caught.value.reason, caught.value.table) == (Reason.UNKNOWN_COLUMN, "parent")


@pytest.mark.parametrize(
    ("ddl", "statements"),
    [
        (
            "CREATE TABLE moved (a int, b int GENERATED ALWAYS AS (a * 2) STORED, v text, PRIMARY KEY (b))",
            [
                "INSERT INTO moved (a, v) VALUES (1, 'x'), (2, 'y')",
                "UPDATE moved SET a = a + 10",
                "UPDATE moved SET v = 'z' WHERE a = 11",
                "DELETE FROM moved WHERE a = 12",
            ],
        ),
        (
            "CREATE TABLE moved (id int PRIMARY KEY DEFERRABLE, v text, n int GENERATED ALWAYS AS IDENTITY)",
            [
                "INSERT INTO moved VALUES (1, 'x'), (2, 'y')",
                "UPDATE moved SET id = 3 - id",
                "UPDATE moved SET v = v || 'z', n = DEFAULT",
                "DELETE FROM moved WHERE id = 1",
            ],
        ),
        (
            "CREATE TABLE moved (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)",
            ["INSERT INTO moved VALUES (1), (2)", "UPDATE moved SET id = id + 1", "DELETE FROM moved WHERE id = 2"],
        ),
        (
            """CREATE SCHEMA "e.x"; CREATE EXTENSION citext SCHEMA "e.x"; CREATE EXTENSION ltree SCHEMA "e.x";
            CREATE TABLE top (k "e.x".ltree PRIMARY KEY);
            CREATE TABLE moved (id "e.x".citext PRIMARY KEY, k "e.x".ltree REFERENCES top ON DELETE CASCADE)""",
            [
                "INSERT INTO top VALUES ('a.b'), ('a.c')",
                "INSERT INTO moved VALUES ('Abc', 'a.b'), ('x', 'a.c')",
                "UPDATE moved SET id = 'ABC' WHERE k::text = 'a.b'",
                "UPDATE moved SET id = 'new' WHERE k::text = 'a.b'",
                "DELETE FROM top WHERE k::text = 'a.c'",
            ],
        ),
    ],
    ids=["generated", "deferrable", "deferred, and nothing but the key", "operators that no search_path finds"],
)
def test_unusual_primary_keys(pg_database_factory: Any, ddl: str, statements: list[str]) -> None:
    with PostgresNode(pg_database_factory(), "a", ddl) as source, PostgresNode(pg_database_factory(), "b", ddl) as node:
        for statement in statements:
            source.run(statement)
            known = source.log.head().lsn
            source.seal_all()
            for part in source.parts(known):
                apply_part(node, part)
            assert node.images("moved") == source.images("moved")


@pytest.mark.parametrize("name", ["excluded", "new", "old", "r", "t", "q", "l", "e", "user", "pks"])
def test_names_that_mean_something_in_statements(pg_database_factory: Any, name: str) -> None:
    """As the name of a table, and of its columns."""
    ddl = f'CREATE TABLE "{name}" (id int PRIMARY KEY, "{name}" text, parent int REFERENCES "{name}")'
    with PostgresNode(pg_database_factory(), "a", ddl) as source, PostgresNode(pg_database_factory(), "b", ddl) as node:
        source.run(
            f"INSERT INTO \"{name}\" VALUES (1, 'x', NULL), (2, 'y', 1)",
            f'UPDATE "{name}" SET "{name}" = \'z\', parent = 2',
            f'TRUNCATE "{name}"',
            f"INSERT INTO \"{name}\" VALUES (3, 'x', 3)",
            f'UPDATE "{name}" SET id = 4, parent = 4',
            f'DELETE FROM "{name}" WHERE id = 3',
        )
        source.seal_all()
        for part in source.parts():
            apply_part(node, part)
        assert node.images(name) == source.images(name)
        assert len(node.images(name)) == 1
