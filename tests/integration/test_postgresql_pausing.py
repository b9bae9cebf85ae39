"""What is PostgreSQL's own about paused tables: rights, partitions, keys of another type, writers beside appliers."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from common.errors import ContentionError, PausedError
from common.ports.dialect import RowWrite
from common.versions import NEVER, Version
from tests.support.postgresql_node import PostgresNode, replayed

pytestmark = pytest.mark.containers

DDL = """
CREATE TABLE item (id int PRIMARY KEY, name text);
CREATE TABLE part (id int, k int, note text, PRIMARY KEY (id, k)) PARTITION BY LIST (k);
CREATE TABLE part_1 PARTITION OF part FOR VALUES IN (1);
CREATE TABLE part_2 PARTITION OF part FOR VALUES IN (2);
"""


@pytest.fixture
def node(pg_database: str) -> Iterator[PostgresNode]:
    with PostgresNode(pg_database, "a", DDL) as opened:
        yield opened


def pause(node: PostgresNode, *names: str) -> list[str]:
    return node.database.capture().pause([node.tables[name] for name in names], 1, "somebody")


def resume(node: PostgresNode, *names: str) -> list[str]:
    return node.database.capture().resume(names, list(node.tables.values()))


def test_partitions_come_go_and_are_truncated_meanwhile(node: PostgresNode) -> None:
    node.run("INSERT INTO part SELECT n, 1 + n % 2, 'n' FROM generate_series(1, 20) n")
    node.seal_all()
    pause(node, "part")
    left = node.rows("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal AND tgname LIKE '!rowferry%' AND"
                     " tgrelid IN ('part'::regclass, 'part_1'::regclass, 'part_2'::regclass)")  # fmt: skip
    assert left == [(0,)]
    node.run(
        "TRUNCATE part_1",
        "ALTER TABLE part DETACH PARTITION part_2",
        "CREATE TABLE part_3 PARTITION OF part FOR VALUES IN (3)",
        "INSERT INTO part VALUES (30, 3, 'new')",
    )
    assert node.seal_all() == 0
    resume(node, "part")
    assert node.seal_all() == 21
    assert replayed(node.changes())["part"] == node.images("part")
    node.run("UPDATE part SET note = 'captured'", "INSERT INTO part VALUES (31, 3, 'too')")
    assert replayed(node.changes())["part"] == node.images("part")
    assert node.rows("SELECT count(*) FROM rf_paused_row") == [(0,)]


def test_a_column_of_another_type_is_sealed_where_its_values_are_others(node: PostgresNode) -> None:
    node.run("CREATE TABLE price (id int PRIMARY KEY, amount numeric(10,2), note varchar(9))")
    node.install()
    node.run("INSERT INTO price VALUES (1, 1.50, 'a'), (2, 2.00, 'b'), (3, NULL, NULL)")
    node.seal_all()
    pause(node, "price")
    node.run("ALTER TABLE price ALTER note TYPE text", "ALTER TABLE price ALTER amount TYPE numeric(10,3)")
    before = node.log.head().lsn
    resume(node, "price")
    sealed = node.changes(before)
    assert {bytes(one.pk) for one in sealed} == {b'{"id":1}', b'{"id":2}'}
    assert replayed(node.changes())["price"] == node.images("price")


def test_a_key_of_another_type_deletes_nothing(node: PostgresNode) -> None:
    node.run("INSERT INTO item VALUES (1, 'a'), (2, 'b')")
    node.seal_all()
    pause(node, "item")
    node.run("ALTER TABLE item ALTER id TYPE text")
    before = node.log.head().lsn
    resume(node, "item")
    assert {one.op for one in node.changes(before)} <= {"I", "U"}
    node.run("INSERT INTO item VALUES ('3', 'c')")
    assert any(bytes(one.pk) == b'{"id":"3"}' for one in node.changes(before))


def test_a_transaction_that_holds_the_table_is_waited_for_and_nothing_is_half_done(node: PostgresNode) -> None:
    node.run("INSERT INTO item VALUES (1, 'a')")
    node.seal_all()
    with node.application() as held:
        held.execute("UPDATE item SET name = 'open'")
        with pytest.raises(ContentionError):
            pause(node, "item")
        assert node.rows("SELECT (SELECT count(*) FROM rf_paused), (SELECT count(*) FROM rf_paused_row)") == [(0, 0)]
    node.seal_all()
    assert pause(node, "item") == ["item"]
    with node.application() as held:
        held.execute("UPDATE item SET name = 'meanwhile'")
        with pytest.raises(ContentionError):
            resume(node, "item")
        assert node.rows("SELECT count(*) FROM rf_paused_row") == [(1,)]
    before = node.log.head().lsn
    resume(node, "item")
    assert len(node.changes(before)) == 1


def test_a_writer_can_not_slip_in_between_the_look_at_a_row_and_its_write(node: PostgresNode) -> None:
    pause(node, "item")
    item = node.tables["item"]
    with node.database.apply_session() as session:
        (state,) = session.lock(item, item.meta, [b'{"id":1}'])
        with node.application() as other:
            other.execute("SET lock_timeout = '200ms'")
            with pytest.raises(psycopg.errors.LockNotAvailable):
                other.execute("INSERT INTO item VALUES (1, 'own')")
        write = RowWrite(state.key, b'{"id":1}', b'{"id":1,"name":"theirs"}', Version(0, 5, "b"), NEVER)
        session.write(item, item.meta, [write])
    node.run("UPDATE item SET name = 'own'")
    with pytest.raises(PausedError), node.database.apply_session() as session:
        session.lock(item, item.meta, [b'{"id":1}'])
