"""The container fixtures themselves: what they hand out works, and what they promise about killing holds."""

from __future__ import annotations

import pika
import psycopg
import pytest
import sqlalchemy

from tests.fixtures.containers import DatabaseFactory
from tests.support.postgres_server import PostgresServer
from tests.support.rabbit_server import RabbitServer


def _declare_and_publish(url: str, queue: str, body: bytes, queue_type: str = "quorum") -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": queue_type})
        channel.basic_publish("", queue, body, pika.BasicProperties(delivery_mode=2), mandatory=True)
    finally:
        connection.close()


def _take(url: str, queue: str) -> bytes | None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        _, _, body = connection.channel().basic_get(queue, auto_ack=True)
        return body
    finally:
        connection.close()


def _database_names(server: PostgresServer) -> set[str]:
    with psycopg.connect(server.dsn()) as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database")}


def test_database_is_fresh_and_reachable_through_sqlalchemy(pg_database: str) -> None:
    engine = sqlalchemy.create_engine(pg_database)
    with engine.connect() as connection:
        tables = connection.execute(sqlalchemy.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"))
        assert tables.scalar() == 0
        settings = connection.execute(
            sqlalchemy.text("SELECT current_setting('max_connections'), current_setting('fsync')")
        ).one()
        assert tuple(settings) == ("200", "on")
    engine.dispose()


def test_databases_are_dropped_even_with_a_connection_open(postgres_server: PostgresServer) -> None:
    factory = DatabaseFactory(lambda: postgres_server)
    url = factory()
    name = url.rpartition("/")[2]
    with psycopg.connect(postgres_server.dsn(name)):
        assert name in _database_names(postgres_server)
        factory.drop_all()
        assert name not in _database_names(postgres_server)


def test_the_two_clusters_are_two(
    postgres_server: PostgresServer, postgres_server_b: PostgresServer, pg_database_factory: DatabaseFactory
) -> None:
    name = pg_database_factory(postgres_server_b).rpartition("/")[2]
    assert name in _database_names(postgres_server_b)
    assert name not in _database_names(postgres_server)


@pytest.mark.parametrize(("fixture", "version"), [("rabbitmq", "4."), ("rabbitmq310", "3.10.")])
@pytest.mark.containers
def test_broker_takes_a_message_in_a_vhost_of_the_tests_own(
    request: pytest.FixtureRequest, fixture: str, version: str
) -> None:
    server: RabbitServer = request.getfixturevalue(fixture)
    url = request.getfixturevalue(f"{fixture}_url")
    assert server.management("GET", "/api/overview")["rabbitmq_version"].startswith(version)
    _declare_and_publish(url, "smoke", b"hello")
    assert _take(url, "smoke") == b"hello"
    assert _take(url, "smoke") is None


def test_shared_servers_refuse_to_be_killed(rabbitmq: RabbitServer) -> None:
    with pytest.raises(RuntimeError, match="private_"):
        rabbitmq.kill()
    assert rabbitmq.running


@pytest.mark.heavy
@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("fixture", ["private_rabbitmq", "private_rabbitmq310"])
@pytest.mark.containers
def test_killed_broker_comes_back_at_the_same_address_with_its_messages(
    request: pytest.FixtureRequest, fixture: str, queue_type: str
) -> None:
    server: RabbitServer = request.getfixturevalue(fixture)
    url = server.url(server.create_vhost())
    _declare_and_publish(url, "kept", b"survives", queue_type)
    server.flush_declarations()

    server.kill()
    with pytest.raises(pika.exceptions.AMQPConnectionError):
        _take(url, "kept")

    server.start()
    assert _take(url, "kept") == b"survives"
    assert "rabbit@rowferry-test" in server.ctl("status")


def test_killed_cluster_comes_back_at_the_same_address_with_its_rows(private_postgres: PostgresServer) -> None:
    name = private_postgres.create_database().rpartition("/")[2]
    with psycopg.connect(private_postgres.dsn(name)) as connection:
        connection.execute("CREATE TABLE kept (id int)")
        connection.execute("INSERT INTO kept VALUES (42)")

    private_postgres.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(private_postgres.dsn(name), connect_timeout=2)

    private_postgres.start()
    with psycopg.connect(private_postgres.dsn(name)) as connection:
        assert connection.execute("SELECT id FROM kept").fetchall() == [(42,)]
