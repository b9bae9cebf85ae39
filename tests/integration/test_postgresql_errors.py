"""Real errors of a real server: what is an outage or in the way sets nothing aside, and goes on by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
import sqlalchemy as sa

from common.dialects import open_database
from common.dialects.postgresql.errors import translate
from common.errors import ContentionError, OutageError
from common.ops.incarnation import renew_incarnation
from common.ports.dialect import ApplySession
from common.retry import in_transaction
from consumer.apply.committing import Committing
from tests.support.applying import Origin, World, close_world, open_world
from tests.support.postgres_server import PostgresServer

pytestmark = pytest.mark.containers


@pytest.fixture
def world(pg_database: str) -> Iterator[World]:
    made = open_world(pg_database)
    yield made
    close_world(made)


def plain(world: World) -> str:
    url = world.node.database.engine.url.set(drivername="postgresql")
    return url.render_as_string(hide_password=False)


def admin(world: World, statement: str) -> None:
    with psycopg.connect(plain(world), autocommit=True) as connection:
        connection.execute(statement.encode())


def database_name(world: World) -> str:
    return f'"{world.node.database.engine.url.database}"'


@pytest.mark.parametrize("statements", ["PREPARE one AS SELECT 1; PREPARE one AS SELECT 1", "EXECUTE another"])
def test_statements_of_another_session_tell_of_a_pooler(world: World, statements: str) -> None:
    """It is no batch's doing, so nothing is set aside for it."""
    with pytest.raises(psycopg.Error) as caught:
        admin(world, statements)
    told = translate(caught.value)
    assert isinstance(told, OutageError)
    assert "a connection pooler is in between: point node.database to the server itself" in str(told)


def test_a_deadlock_is_tried_again(world: World) -> None:
    world.execute("INSERT INTO item VALUES (1, 'a', 1), (2, 'b', 1)")
    world.node.database.sealer(world.node.facts).seal()
    locked, asked = threading.Event(), threading.Event()

    def other() -> None:
        with psycopg.connect(plain(world)) as connection:
            # The one that looks for deadlocks first is the one that gives way.
            connection.execute(b"SET deadlock_timeout = '60s'")
            connection.execute(b"SELECT * FROM item WHERE id = 2 FOR UPDATE")
            locked.set()
            assert asked.wait(30)
            connection.execute(b"SELECT * FROM item WHERE id = 1 FOR UPDATE")

    thread = threading.Thread(target=other)
    thread.start()
    tries: list[int] = []

    def work(session: ApplySession) -> str:
        tries.append(1)
        session.connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        session.connection.exec_driver_sql("SELECT * FROM item WHERE id = 1 FOR UPDATE")
        asked.set()
        try:
            session.connection.exec_driver_sql("SELECT * FROM item WHERE id = 2 FOR UPDATE")
        except sa.exc.SQLAlchemyError as error:
            raise translate(error) from error
        return "done"

    assert locked.wait(30)
    assert Committing(world.node).run(work, patiently=True) == "done"
    thread.join(30)
    assert len(tries) == 2


def test_a_serialization_failure_is_tried_again(world: World) -> None:
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    tries: list[int] = []

    def work(connection: sa.Connection) -> None:
        tries.append(1)
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("SELECT * FROM item")
        if len(tries) == 1:
            admin(world, "UPDATE item SET name = 'b' WHERE id = 1")
        connection.exec_driver_sql("UPDATE item SET name = 'c' WHERE id = 1")

    in_transaction(world.node.database, work)
    assert len(tries) == 2
    assert world.one("SELECT name FROM item") == "c"


def test_a_database_that_is_away_sets_nothing_aside(world: World, postgres_server: PostgresServer) -> None:
    name = database_name(world)

    def elsewhere(statement: str) -> None:
        with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
            connection.execute(statement.encode())

    intake = world.intake()
    intake.step(0)
    world.source.put(Origin("a").put(1, "one", 10).body)
    elsewhere(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false")
    try:
        ended = (
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {name.replace(chr(34), chr(39))}"
        )
        elsewhere(ended)
        for _ in range(3):
            with pytest.raises(OutageError):
                intake.step(0)
        assert world.source.acked == []
    finally:
        elsewhere(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true")
    intake.step(0)
    assert (world.letters(), [row[1] for row in world.rows()]) == ([], ["one"])
    assert len(world.source.acked) == 1


def test_a_server_that_only_reads_is_an_outage(world: World) -> None:
    error = failing(world, "SET TRANSACTION READ ONLY", "INSERT INTO item VALUES (1, 'a', 1)")
    assert isinstance(error, OutageError)


def failing(world: World, *statements: str) -> Exception:
    """Return what the last of these statements, run in one transaction, comes out as."""

    def work(connection: sa.Connection) -> None:
        for statement in statements:
            connection.exec_driver_sql(statement)

    with pytest.raises(sa.exc.SQLAlchemyError) as caught, world.node.database.engine.begin() as connection:
        work(connection)
    return translate(caught.value)


def test_a_row_that_others_hold_is_named(world: World) -> None:
    world.execute("INSERT INTO item VALUES (1, 'a', 1)")
    with psycopg.connect(plain(world)) as other:
        other.execute("SELECT * FROM item FOR UPDATE")
        found = failing(world, "SET LOCAL lock_timeout = 20", "SELECT * FROM item FOR UPDATE")
    assert isinstance(found, ContentionError)
    assert 'in relation "item"' in str(found)


def test_a_table_that_others_lock_is_waited_for_so_long_and_told(world: World) -> None:
    with world.node.database.engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "30s"
    with psycopg.connect(plain(world)) as other:
        other.execute("LOCK TABLE rf_node IN ACCESS EXCLUSIVE MODE")
        found = failing(world, "SET LOCAL lock_timeout = 20", "SELECT * FROM rf_node")
    assert isinstance(found, ContentionError)
    assert "pg_stat_activity" in str(found)


def test_a_statement_timeout_is_no_dead_letter(world: World) -> None:
    assert isinstance(failing(world, "SET LOCAL statement_timeout = 20", "SELECT pg_sleep(5)"), ContentionError)


@pytest.mark.parametrize("state", ["53100", "53200"])
def test_a_full_disk_or_memory_is_an_outage(world: World, state: str) -> None:
    raised = f"DO $$ BEGIN RAISE EXCEPTION 'No space left on device' USING ERRCODE = '{state}'; END $$"
    found = failing(world, raised)
    assert isinstance(found, OutageError)
    assert ("free space on the disks of the database's server" in str(found)) == (state == "53100")


def test_a_server_that_is_shut_down_is_an_outage(world: World) -> None:
    def work(connection: sa.Connection) -> None:
        pid = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        admin(world, f"SELECT pg_terminate_backend({pid})")
        connection.exec_driver_sql("SELECT 1")

    with pytest.raises(OutageError):
        in_transaction(world.node.database, work)
    assert in_transaction(world.node.database, lambda connection: connection.exec_driver_sql("SELECT 1").scalar()) == 1


def test_too_many_connections_are_an_outage(world: World, postgres_server: PostgresServer) -> None:
    admin(world, f"ALTER DATABASE {database_name(world)} CONNECTION LIMIT 0")
    admin(world, "DROP ROLE IF EXISTS crowded")
    admin(world, "CREATE ROLE crowded LOGIN PASSWORD 'x'")
    url = world.node.database.engine.url.set(username="crowded", password="x").render_as_string(hide_password=False)
    database = open_database(url)
    try:
        with pytest.raises(OutageError, match=r"too many connections.*raise max_connections") as told:
            in_transaction(database, lambda connection: connection.exec_driver_sql("SELECT 1"))
        assert "whether its server is up" not in str(told.value)
        admin(world, "ALTER ROLE crowded NOLOGIN")
        with pytest.raises(OutageError, match=r"not permitted to log in: check .*LOGIN"):
            in_transaction(database, lambda connection: connection.exec_driver_sql("SELECT 1"))
    finally:
        database.close()
        admin(world, f"ALTER DATABASE {database_name(world)} CONNECTION LIMIT -1")
        admin(world, "DROP ROLE crowded")


def test_a_new_incarnation_that_is_due_waits_for_a_server_that_takes_writes(world: World) -> None:
    read_only = open_database(f"{plain(world)}?options=-c%20default_transaction_read_only%3Don")
    with closing(read_only), pytest.raises(OutageError, match="25006"):
        renew_incarnation(read_only, world.node.facts, world.clock, "failover")
