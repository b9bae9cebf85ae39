"""The Alembic history makes the tables that `common.schema.tables` describes, on every database."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from common.dialects import open_database
from common.errors import ConfigError
from common.ports.dialect import NodeFacts
from common.runtime.node import read_facts
from common.schema import migrate, revision
from common.schema.tables import metadata
from consumer.standing.store import tables_with_copies
from tests.support.applying import close_world, open_world, sqlite_url
from tests.support.postgresql_node import PostgresNode


def differences(engine: sa.Engine) -> list[object]:
    """Return what Alembic would still change in the tables that the metadata knows."""

    def is_shared(name: str | None, kind: str, _parents: object) -> bool:
        return kind != "table" or name in metadata.tables

    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_name": is_shared, "version_table": migrate.VERSION_TABLE, "compare_type": True}
        )
        return list(compare_metadata(context, metadata))


def check(url: str) -> None:
    database = open_database(url)
    try:
        assert migrate.upgrade(database.engine) is True
        assert migrate.upgrade(database.engine) is False
        assert differences(database.engine) == []
        assert migrate.pending_sql(database.engine) == ""
        removed = migrate.remove(database.engine)
        assert set(metadata.tables) <= set(removed)
        assert [name for name in sa.inspect(database.engine).get_table_names() if name.startswith("rf_")] == []
    finally:
        database.close()


def check_from_the_first(url: str) -> None:
    """What stood in a database of the first release stands after the upgrade."""
    database = open_database(url)
    try:
        migrate.upgrade(database.engine, "0001")
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO rf_conflict (table_name, pk, kind, state, winner, rule, source_node, tx_id, lsn,"
                " our_version, their_version, recorded_us)"
                " VALUES ('t', '{}', 'insert', 'settled', 'ours', 'lww', 'a', 'tx', 1, '[]', '[]', 1)"
            )
            connection.exec_driver_sql(
                "INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us)"
                " VALUES ('a', 'main', 'i1', false, 1, 2)"
            )
            connection.exec_driver_sql(
                "INSERT INTO rf_row_version (table_id, key, main_epoch, hlc, node_id, base_epoch, base_hlc, base_node,"
                " deleted) VALUES (1, '[1]', 0, 5, 'a', 0, 0, '', true)"
            )
        assert migrate.upgrade(database.engine) is True
        assert differences(database.engine) == []
        with database.engine.connect() as connection:
            (peer,) = connection.exec_driver_sql("SELECT node_id, role, last_seen_us, heard_us FROM rf_node").all()
        assert tuple(peer) == ("a", "main", 2, None)
        with database.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT key FROM rf_row_version WHERE deleted").all() == [("[1]",)]
            assert connection.exec_driver_sql("SELECT retired_us, returned_us FROM rf_node").all() == [(None, None)]
        indexes = {index["name"] for index in sa.inspect(database.engine).get_indexes("rf_row_version")}
        assert "rf_row_version_deleted" in indexes
        with database.engine.connect() as connection:
            (kept,) = connection.exec_driver_sql("SELECT table_name, winner, row_key FROM rf_conflict").all()
        assert tuple(kept) == ("t", "ours", None)
    finally:
        database.close()


def test_tables_of_another_release_are_named_with_the_remedy(tmp_path: Path) -> None:
    assert revision.newest() == migrate.newest_revision()
    world = open_world(sqlite_url(tmp_path))
    database, config = world.node.database, world.node.config
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE rf_alembic_version SET version_num = '0001'")
    with pytest.raises(ConfigError, match=r"revision 0001.*rowferry migrate"):
        read_facts(database, config)
    close_world(world)


def test_an_upgrade_keeps_what_stands_on_sqlite(tmp_path: Path) -> None:
    check_from_the_first(f"sqlite:///{tmp_path / 'node.db'}")


@pytest.mark.containers
def test_an_upgrade_keeps_what_stands_on_postgresql(pg_database: str) -> None:
    check_from_the_first(pg_database)


def test_the_history_on_sqlite(tmp_path: Path) -> None:
    check(f"sqlite:///{tmp_path / 'node.db'}")


@pytest.mark.containers
def test_the_history_on_postgresql(pg_database: str) -> None:
    check(pg_database)


def upgraded_with_a_peer(url: str) -> None:
    """A database of before that knows a peer goes on with it."""
    database = open_database(url)
    try:
        migrate.upgrade(database.engine, "0002")
        row = "'p', 'branch', 'i', {}, 1, 2".format("0" if url.startswith("sqlite") else "false")
        names = "node_id, role, incarnation, is_self, first_seen_us, last_seen_us"
        with database.engine.begin() as connection:
            connection.exec_driver_sql(f"INSERT INTO rf_node ({names}) VALUES ({row})")
        assert migrate.upgrade(database.engine) is True
        with database.engine.connect() as connection:
            query = "SELECT node_id, last_seen_us, ahead_us, ahead_seen_us FROM rf_node"
            assert [tuple(row) for row in connection.exec_driver_sql(query)] == [("p", 2, 0, 0)]
        assert differences(database.engine) == []
    finally:
        database.close()


def upgraded_with_its_data(url: str) -> None:
    """A database of before revision 0005, with rows of its own, goes on as it was."""
    database = open_database(url)
    try:
        migrate.upgrade(database.engine, "0004")
        with database.engine.begin() as connection:
            connection.exec_driver_sql(
                "INSERT INTO rf_applied_tx (source_node, tx_id, incarnation, prev_lsn, to_lsn, sha256, applied_us)"
                " VALUES ('a', 't', 'i', 0, 1, 's', 1)"
            )
        assert migrate.upgrade(database.engine) is True
        assert differences(database.engine) == []
        with database.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT source_node, to_lsn FROM rf_applied_tx").fetchall() == [("a", 1)]
            assert tables_with_copies(connection) == set()
    finally:
        database.close()


def test_a_peer_of_before_is_in_bounds_on_sqlite(tmp_path: Path) -> None:
    upgraded_with_a_peer(f"sqlite:///{tmp_path / 'node.db'}")


@pytest.mark.containers
def test_a_peer_of_before_is_in_bounds_on_postgresql(pg_database: str) -> None:
    upgraded_with_a_peer(pg_database)


def test_a_database_of_before_is_upgraded_on_sqlite(tmp_path: Path) -> None:
    upgraded_with_its_data(f"sqlite:///{tmp_path / 'node.db'}")


@pytest.mark.containers
def test_a_database_of_before_is_upgraded_on_postgresql(pg_database: str) -> None:
    upgraded_with_its_data(pg_database)


@pytest.mark.containers
def test_what_was_set_aside_before_0016_is_sealed_after_the_upgrade(pg_database: str) -> None:
    """The release before set each transaction aside by itself, and stopped there."""
    with PostgresNode(pg_database, "a", "CREATE TABLE item (id int PRIMARY KEY)") as node:
        for number in range(5):
            node.run(f"INSERT INTO item VALUES ({number})")
        assert node.seal(max_changes=2).more
        node.run(*_BEFORE_0016)
        assert migrate.upgrade(node.database.engine) is True
        assert node.seal_all() == 3
        assert [json.loads(bytes(change.pk))["id"] for change in node.changes()] == [0, 1, 2, 3, 4]


@pytest.mark.containers
def test_what_was_sealed_before_0019_finds_its_log_rows_after_the_upgrade(pg_database: str) -> None:
    """Of two incarnations, the first of them purged in part."""
    with PostgresNode(pg_database, "a", "CREATE TABLE item (id int PRIMARY KEY)") as node:
        node.run("INSERT INTO item VALUES (1), (2), (3)", "INSERT INTO item VALUES (4)")
        node.seal_all()
        facts = NodeFacts("a", "branch", "another")
        sealer, log = node.database.sealer(facts), node.database.log(facts)
        node.run("INSERT INTO item VALUES (5)", "DELETE FROM item WHERE id > 3")
        sealer.seal()
        lines = [list(tx.lines()) for log in (node.log, log) for tx in log.read(0, 10**6)]
        with node.database.engine.begin() as connection:
            assert node.database.retention().drop_lines(connection, node.facts.incarnation, 3, 2) == 2
        node.run(*_BEFORE_0019)
        assert migrate.upgrade(node.database.engine) is True
        assert [list(tx.lines()) for tx in node.log.read(3, 10**6)] == lines[1:2]
        assert [list(tx.lines()) for tx in log.read(0, 10**6)] == lines[2:]
        with node.database.engine.begin() as connection:
            assert node.database.retention().drop_lines(connection, node.facts.incarnation, 4, 100) == 2
            assert node.database.retention().drop_lines(connection, "another", 3, 100) == 3
        assert node.rows("SELECT (SELECT count(*) FROM rf_change_log), (SELECT count(*) FROM rf_sealed)") == [(0, 0)]


_BEFORE_0019 = (
    """
    CREATE TABLE rf_sealed_tx AS
    SELECT era, to_lsn, xid FROM rf_tx JOIN rf_era USING (incarnation) JOIN rf_sealed USING (era) WHERE lsn = to_lsn
    """,
    "ALTER TABLE rf_sealed_tx ADD PRIMARY KEY (era, to_lsn)",
    "ALTER TABLE rf_sealed DROP COLUMN xid",
    "ALTER TABLE rf_tx ADD UNIQUE (tx_id)",
    "UPDATE rf_alembic_version SET version_num = '0018'",
)
_BEFORE_0016 = (
    *_BEFORE_0019,
    "ALTER TABLE rf_seal_pending RENAME TO bins",
    "ALTER INDEX rf_seal_pending_pkey RENAME TO bins_pkey",
    """
    CREATE TABLE rf_seal_pending AS
    SELECT tx.*, ARRAY[shape] AS shapes FROM bins CROSS JOIN LATERAL unnest(
        last_seqs, xids, each_changes, each_captured_us, each_bytes, first_shapes
    ) AS tx(last_seq, xid, changes, captured_us, bytes, shape)
    """,
    "ALTER TABLE rf_seal_pending ADD PRIMARY KEY (last_seq), DROP COLUMN shape",
    "DROP TABLE bins",
    "ALTER TABLE rf_node DROP COLUMN verified_us",
    "DROP INDEX rf_shape_table_id",
    "ALTER TABLE rf_shape ADD UNIQUE (table_id, meta)",
    "UPDATE rf_alembic_version SET version_num = '0015'",
)
