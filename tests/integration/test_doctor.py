"""`doctor`: each fault that it knows, made for real, and a node on which nothing is wrong."""

from __future__ import annotations

import socket
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from tests.support.applying import application, sqlite_url
from tests.support.cli import document, rowferry
from tests.support.postgres_server import PostgresServer
from tests.support.private import write_private
from tests.support.rabbit_server import RabbitServer
from tests.support.waiting import wait_for

CREATE = "CREATE TABLE sale (id TEXT PRIMARY KEY, note TEXT)"


def configured(tmp_path: Path, database: str, more: str = "") -> Path:
    return write_private(tmp_path / "rowferry.toml", f'[node]\nid = "shop"\ndatabase = "{database}"\n{more}')


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A migrated node on SQLite with a shared folder."""
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(CREATE)
    config = configured(tmp_path, sqlite_url(tmp_path), f'\n[directory]\npath = "{tmp_path / "exchange"}"\n')
    assert rowferry(config, "migrate").exit_code == 0
    return config


def told(config: Path, code: int = 0) -> dict[str, list[tuple[str, str, Any]]]:
    """Findings by level."""
    found: dict[str, list[tuple[str, str, Any]]] = {}
    report = document(config, "doctor", code=code)
    assert report["ok"] == (code == 0)
    for one in report["findings"]:
        found.setdefault(one["level"], []).append((one["area"], one["message"], one["remedy"]))
    return found


@pytest.mark.parametrize(
    ("server", "says"),
    [
        ('host = "0.0.0.0"', "without TLS anyone on the way can read the tokens: serve does not start"),
        ('host = "192.0.2.1"\nplain_http = true', "can't listen on 192.0.2.1:8765"),
    ],
)
def test_a_server_that_would_not_start(shop: Path, server: str, says: str) -> None:
    shop.write_text(f"{shop.read_text()}\n[server]\n{server}\n")
    ((message, remedy),) = [one[1:] for one in told(shop, 1)["fail"] if one[0] == "server"]
    assert says in message
    assert remedy


def test_a_table_that_is_asked_for_and_gone_is_told_by_status_too(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(CREATE)
    config = configured(tmp_path, sqlite_url(tmp_path), '\n[tables]\ninclude = ["sale"]\n')
    assert rowferry(config, "migrate").exit_code == 0
    assert document(config, "status")["state"] == "up to date"
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("ALTER TABLE sale RENAME TO sold")
    found = document(config, "status")
    assert found["state"] == "needs attention"
    assert "tables.include names 'sale', which is no longer a table of this database" in " ".join(found["reasons"])


def test_a_server_that_answers_already_is_no_fault(shop: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        shop.write_text(f"{shop.read_text()}\n[server]\nport = {busy.getsockname()[1]}\n")
        assert "fail" not in told(shop)


def test_a_node_on_which_nothing_is_wrong(shop: Path) -> None:
    found = told(shop)
    assert found.keys() == {"ok", "note"}
    assert {area for area, *_ in found["ok"]} == {
        "configuration",
        "database",
        "schema",
        "tables",
        "directory",
        "standing",
    }
    notes = {area: message for area, message, _ in found["note"]}
    assert notes.keys() == {"directory", "standing"}
    assert "unauthenticated" in notes["directory"]
    assert "no `rowferry run` is active" in notes["standing"]
    shown = rowferry(shop, "doctor")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1] == "0 to fix, 0 to look at."


def test_what_stands_in_the_way_on_sqlite(shop: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("CREATE TABLE counted (id INTEGER PRIMARY KEY, note TEXT)")
    shop.write_text(shop.read_text() + '\n[tables.policy]\nnobody = "main-wins"\n')
    messages = " ".join(f"{message} {remedy}" for _, message, remedy in told(shop)["warn"])
    for words in (
        "journal_mode is delete",
        "PRAGMA journal_mode=WAL",
        "counted numbers its own keys",
        "'nobody'",
        "capture is out of date on counted",
    ):
        assert words in messages
    assert rowferry(shop, "pause", "sale").exit_code == 0
    assert any("sale is paused" in message for _, message, _ in told(shop)["warn"])
    exchange = tmp_path / "exchange"
    exchange.rename(tmp_path / "unmounted")
    ((area, message, _),) = told(shop, code=1)["fail"]
    assert area == "directory"
    assert "is not there" in message


@pytest.mark.containers
def test_keys_that_postgresql_takes_for_one_and_writes_in_two_ways_are_named(tmp_path: Path, pg_database: str) -> None:
    with application(sa.make_url(pg_database)) as connection:
        connection.exec_driver_sql("CREATE EXTENSION citext")
        connection.exec_driver_sql(
            "CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
        )
        connection.exec_driver_sql(
            "CREATE TABLE member (mail citext, k text COLLATE loose, id int, PRIMARY KEY (mail, k, id))"
        )
        connection.exec_driver_sql("CREATE TABLE plain (id text PRIMARY KEY, mail citext, k text COLLATE loose)")
        connection.commit()
    config = configured(tmp_path, pg_database)
    named = "the key of member has mail, of type citext and k under the collation loose:"
    assert named in rowferry(config, "migrate").stderr.replace("\n", " ")
    messages = [message for area, message, _ in told(config)["warn"] if area == "tables"]
    assert [message.startswith(named) for message in messages] == [True]


@pytest.mark.containers
def test_values_that_postgresql_itself_writes_in_two_ways_or_rounded_are_named(
    tmp_path: Path, pg_database: str
) -> None:
    with application(sa.make_url(pg_database)) as connection:
        connection.exec_driver_sql("CREATE SCHEMA own")
        connection.exec_driver_sql("CREATE EXTENSION seg SCHEMA own")
        connection.exec_driver_sql("CREATE TABLE price (during numrange, steps numeric[], PRIMARY KEY (during, steps))")
        connection.exec_driver_sql("CREATE TABLE probe (id int PRIMARY KEY, measured own.seg)")
        connection.commit()
    config = configured(tmp_path, pg_database)
    keys = "the key of price has during, of type numrange and steps, of type numeric[]:"
    values = "other nodes get them rounded: measured (own.seg)"
    said = " ".join(rowferry(config, "migrate").stderr.split())
    assert (keys in said, values in said) == (True, True)
    messages = [message for area, message, _ in told(config)["warn"] if area == "tables"]
    assert [message.startswith(keys) or message.endswith(values) for message in messages] == [True, True]


@pytest.mark.containers
def test_a_table_that_a_subscription_writes_is_named(tmp_path: Path, pg_database: str) -> None:
    """Triggers stay quiet for it, so nobody else would ever tell that its rows do not travel."""
    with application(sa.make_url(pg_database)) as connection:
        connection.exec_driver_sql(
            "CREATE TABLE price (id int, day int, PRIMARY KEY (id, day)) PARTITION BY LIST (day)"
        )
        connection.exec_driver_sql("CREATE TABLE price_1 PARTITION OF price FOR VALUES IN (1)")
        connection.exec_driver_sql("CREATE TABLE own (id int PRIMARY KEY)")
        connection.commit()
    config = configured(tmp_path, pg_database)
    assert "logical replication" not in rowferry(config, "migrate").stderr
    with application(sa.make_url(pg_database)) as connection:
        connection.exec_driver_sql(
            "CREATE SUBSCRIPTION feed CONNECTION 'dbname=nowhere' PUBLICATION p WITH (connect=false, slot_name=NONE)"
        )
        # As `REFRESH PUBLICATION` notes it once the other server answers.
        connection.exec_driver_sql(
            "INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate)"
            " SELECT oid, 'price_1'::regclass, 'r' FROM pg_subscription WHERE subname = 'feed'"
        )
        connection.commit()
    try:
        named = "price is written by logical replication (subscription feed)"
        messages = [message for area, message, _ in told(config)["warn"] if area == "tables"]
        assert [message.startswith(named) for message in messages] == [True]
        assert named in " ".join(rowferry(config, "migrate").stderr.split())
    finally:
        with application(sa.make_url(pg_database)) as connection:
            connection.exec_driver_sql("DROP SUBSCRIPTION feed")
            connection.commit()


@pytest.mark.containers
def test_a_schema_that_has_come_before_the_nodes_own_is_named(tmp_path: Path, pg_database: str) -> None:
    with application(sa.make_url(pg_database)) as connection:
        connection.exec_driver_sql(CREATE)
    config = configured(tmp_path, pg_database)
    assert rowferry(config, "migrate").exit_code == 0
    with application(sa.make_url(pg_database)) as connection:
        # It comes first by the search_path that everybody begins with.
        connection.exec_driver_sql("CREATE SCHEMA AUTHORIZATION CURRENT_USER")
    failed = [message for area, message, _ in told(config, code=1)["fail"] if area == "tables"]
    assert ["stand in schema public" in message for message in failed] == [True]
    refused = rowferry(config, "migrate")
    assert (refused.exit_code, "stand in schema public" in refused.stderr.replace("\n", " ")) == (2, True)


def commit_something(dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE written ()")


@pytest.mark.containers
def test_commits_that_wait_for_a_standby_are_told(tmp_path: Path, private_postgres: PostgresServer) -> None:
    config = configured(tmp_path, private_postgres.url())

    def is_told() -> bool:
        return any("synchronous standby" in message for _, message, _ in told(config, code=1)["fail"])

    with psycopg.connect(private_postgres.dsn(), autocommit=True) as admin, ThreadPoolExecutor() as beside:
        admin.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        admin.execute("SELECT pg_reload_conf()")
        wait_for(lambda: admin.execute("SHOW synchronous_standby_names").fetchone() == ("nobody",), 30, "the setting")
        written = beside.submit(commit_something, private_postgres.dsn())
        try:
            wait_for(is_told, 60, "doctor to tell of it")
        finally:
            admin.execute("ALTER SYSTEM RESET synchronous_standby_names")
            admin.execute("SELECT pg_reload_conf()")
        written.result(timeout=60)
    assert not is_told()


@pytest.mark.containers
def test_a_database_that_lets_any_bytes_be_text_is_refused(tmp_path: Path, pg_database: str) -> None:
    name = f"{sa.make_url(pg_database).database}_ascii"
    admin = sa.create_engine(pg_database, isolation_level="AUTOCOMMIT")
    with closing(admin.connect()) as connection:
        text = f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.exec_driver_sql(text)
        url = sa.make_url(pg_database).set(database=name).render_as_string(hide_password=False)
        failed = told(configured(tmp_path, url), code=1)["fail"]
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    admin.dispose()
    assert any("SQL_ASCII" in message and "stops" in message for _, message, _ in failed)


def test_a_database_that_is_no_node_and_one_that_is_not_there(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path, "fresh.db")
    with application(sa.make_url(url)) as connection:
        connection.exec_driver_sql(CREATE)
    config = configured(tmp_path, url)
    assert ("schema", "this database is not a node yet", "rowferry migrate") in told(config, code=1)["fail"]
    away = configured(tmp_path, sqlite_url(tmp_path, "away.db"))
    ((area, message, _),) = told(away, code=1)["fail"]
    assert (area, "away.db is not there" in message) == ("database", True)
    assert not (tmp_path / "away.db").exists()
    nobody = configured(tmp_path, "postgresql://nobody@127.0.0.1:1/nothing")
    ((area, message, _),) = told(nobody, code=5)["fail"]
    assert (area, "can't be reached" in message) == ("database", True)


def test_a_sqlite_file_that_somebody_holds_has_no_server_to_start(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path, "held.db")
    config = configured(tmp_path, url)
    with application(sa.make_url(url)) as connection:
        connection.exec_driver_sql(CREATE)
    held = sqlite3.connect(tmp_path / "held.db", isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    ((area, message, remedy),) = told(config, code=1)["fail"]
    held.close()
    assert (area, "another program holds the database" in message, "server" in remedy) == ("database", True, False)
    # One that can't be opened has no server either.
    (tmp_path / "folder").mkdir()
    ((area, message, remedy),) = told(configured(tmp_path, sqlite_url(tmp_path, "folder")), code=5)["fail"]
    assert (area, "can't be reached" in message, "server" in remedy) == ("database", True, False)


@pytest.mark.containers
def test_what_stands_in_the_way_on_postgresql(tmp_path: Path, pg_database: str) -> None:
    with application(sa.make_url(pg_database)) as connection:
        connection.exec_driver_sql(CREATE)
        account = connection.exec_driver_sql("SELECT current_user").scalar()
        database = connection.exec_driver_sql("SELECT current_database()").scalar()
    config = configured(tmp_path, pg_database)
    assert rowferry(config, "migrate").exit_code == 0
    assert "fail" not in told(config) or all("fsync" in message for _, message, _ in told(config, code=1)["fail"])
    with application(sa.make_url(pg_database)) as connection:
        connection.exec_driver_sql(f'ALTER ROLE "{account}" IN DATABASE "{database}" SET synchronous_commit = off')
    try:
        failed = told(config, code=1)["fail"]
    finally:
        with application(sa.make_url(pg_database)) as connection:
            connection.exec_driver_sql(f'ALTER ROLE "{account}" IN DATABASE "{database}" RESET synchronous_commit')
    assert any("synchronous_commit is off" in message for _, message, _ in failed)


def test_several_peers_of_whom_nobody_is_known_to_be_main(shop: Path, tmp_path: Path) -> None:
    peers = "".join(f'\n[peers.{name}]\nurl = "http://127.0.0.1:1"\n' for name in ("office", "depot"))
    plain = shop.read_text()
    shop.write_text(plain + peers)
    ((_, message, remedy),) = [one for one in told(shop, code=5)["warn"] if one[0] == "peers"]
    assert "whichever of office, depot claims to be can speak for any node" in message
    assert "set node.main" in remedy

    def is_silent(text: str) -> bool:
        shop.write_text(text)
        return not any(area == "peers" for area, *_ in told(shop, code=5).get("warn", []))

    assert is_silent(plain.replace('id = "shop"', 'id = "shop"\nmain = "office"') + peers)
    assert is_silent(plain + peers + "trusted_forwarder = false\n")
    assert is_silent(plain + '\n[peers.office]\nurl = "http://127.0.0.1:1"\n')
    with closing(sqlite3.connect(tmp_path / "app.db")) as connection, connection:
        row = "('office', 'main', 'i', 0, 1, 1)"
        connection.execute(
            f"INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us) VALUES {row}"
        )
    assert is_silent(plain + peers)


def test_a_broker_that_lacks_something_or_is_away(shop: Path, rabbitmq: RabbitServer, rabbitmq_url: str) -> None:
    shop.write_text(shop.read_text() + f'\n[broker]\nurl = "{rabbitmq_url}"\n')
    missing = [one for one in told(shop, code=1)["fail"] if one[0] == "broker"]
    assert any("rowferry.node.shop" in message for _, message, _ in missing)
    assert all(remedy for *_, remedy in missing)
    assert rowferry(shop, "migrate").exit_code == 0
    found = told(shop)
    assert any("exchanges, queues and bindings" in message for _, message, _ in found["ok"])
    assert any("unauthenticated" in message for area, message, _ in found["warn"] if area == "broker")
    shop.write_text(shop.read_text().replace(rabbitmq_url, "amqp://nobody:secret@127.0.0.1:1/"))
    assert any(area == "broker" and "can't be reached" in message for area, message, _ in told(shop, code=5)["fail"])


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("amq://guest:secret@localhost/", 1, "kombu can't use amq://localhost/"),
        ("redis://:secret@127.0.0.1:1/0", 5, "can't be reached"),
        ("filesystem:///no/such/share", 5, "/no/such/share is not there"),
        ("sqla+postgresql+psycopg://u:secret@127.0.0.1:1/x", 5, "can't be reached"),
    ],
)
def test_another_broker_that_can_not_be_used_is_told(shop: Path, url: str, code: int, words: str) -> None:
    shop.write_text(shop.read_text() + f'\n[broker]\nurl = "{url}"\n')
    ((area, message, _),) = told(shop, code=code)["fail"]
    assert area == "broker"
    assert words in message
    assert "secret" not in message


def test_another_broker_that_works_is_no_fault_and_stays_as_it_is(shop: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    shop.write_text(shop.read_text() + f'\n[broker]\nurl = "filesystem://{share}"\n')
    assert "fail" not in told(shop)
    assert not list(share.iterdir())


def test_a_file_in_the_place_of_the_shared_folder_is_told_as_one(shop: Path, tmp_path: Path) -> None:
    (tmp_path / "exchange").rmdir()
    (tmp_path / "exchange").touch()
    ((_, message, remedy),) = told(shop, code=1)["fail"]
    assert message.endswith("is not a folder")
    assert remedy == "correct directory.path"


def test_who_can_speak_for_others_by_a_token_is_named(shop: Path) -> None:
    """As long as it works, and not everybody must sign."""
    made = [document(shop, "token", "create", "--node", "hub", "--scope", "push,forward")["id"] for _ in range(2)]
    document(shop, "token", "create", "--node", "shop-2", "--scope", "push,pull")
    old = document(shop, "token", "create", "--node", "old", "--scope", "forward", "--expires", "1d")["id"]
    document(shop, "token", "revoke", made[0])
    with closing(sqlite3.connect(shop.parent / "app.db")) as connection, connection:
        connection.execute("UPDATE rf_token SET expires_us = 1 WHERE id = ?", (old,))
    ((area, text, remedy),) = told(shop)["warn"]
    assert area == "tokens"
    assert text == f"unauthenticated: whoever has token {made[1]} (of hub, scope forward) can speak for any node"
    assert "require_signed" in remedy
    assert f"rowferry token revoke {made[1]}" in remedy
    plain = shop.read_text()
    shop.write_text(plain.replace("[node]", "[node]\nrequire_signed = true"))
    assert "warn" not in told(shop)


def test_what_comes_over_http_alone_does_not_reach_who_is_on_the_broker_alone(shop: Path) -> None:
    document(shop, "token", "create", "--node", "shop-2")
    document(shop, "token", "create", "--node", "reader", "--scope", "pull")

    def notes(code: int) -> list[str]:
        return [text for area, text, _ in told(shop, code=code).get("note", []) if area == "broker"]

    assert notes(0) == []
    shop.write_text(shop.read_text() + '\n[broker]\nurl = "amqp://nobody:secret@127.0.0.1:1/"\n')
    assert [
        text for text in notes(5) if text.startswith("what shop-2 may push over HTTP is handed on to nodes that pull")
    ]


def test_too_many_nodes_are_told(shop: Path) -> None:
    with closing(sqlite3.connect(shop.parent / "app.db")) as connection, connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9999)"
            " INSERT INTO rf_node (node_id, role, incarnation, is_self, first_seen_us, last_seen_us, retired_us)"
            " SELECT 'made-up-' || i, 'branch', 'x', 0, 1, 1, 1 FROM n"
        )
    (told_,) = [text for area, text, _ in told(shop)["warn"] if area == "peers"]
    assert told_.startswith("10,000 nodes are known")
