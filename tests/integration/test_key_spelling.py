"""One row has one key on all nodes, however each kind of database writes it: else an update would make a second row."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.nodes import CliNode

pytestmark = pytest.mark.containers

UPPER = "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"
LOWER = "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"
THE_SAME = [
    ("TEXT", "uuid", LOWER),
    ("UUID", "uuid", LOWER),
    ("TEXT", "bigint", "'7'"),
    ("TEXT", "numeric", "'1.5'"),
    ("", "numeric", "'-1.5'"),
    ("", "bigint", "5"),
    ("", "boolean", "1"),
    ("", "double precision", "2.0"),
    ("", "double precision", "0.5"),
    ("", "text", "'5'"),
    ("", "date", "'2026-01-01'"),
    ("", "inet", "'10.0.0.1/32'"),
    ("", "timestamp", "'2026-01-01 00:00:00'"),
    ("NUMERIC", "numeric(9,2)", "1.50"),
    ("INTEGER", "boolean", "1"),
    ("BOOLEAN", "boolean", "0"),
    ("TEXT", "boolean", "'1'"),
    ("REAL", "numeric", "2.0"),
    ("REAL", "real", "0.1"),
    ("INTEGER", "numeric", "2"),
    ("INTEGER", "double precision", "2"),
    ("TEXT", "char(2)", "'ab'"),
    ("TEXT", "text", "'x '"),
    ("BLOB", "text", "'x'"),
    ("BLOB", "bytea", "x'00ff'"),
    ("TEXT", "date", "'2026-01-01'"),
    ("DATETIME", "date", "'2026-01-01'"),
    ("TEXT", "timestamp", "'2026-01-01 00:00:00'"),
    ("DATETIME", "timestamp", "'2026-01-01 00:00:00.5'"),
    ("DATETIME", "timestamptz", "'2026-01-01 00:00:00+00:00'"),
    ("TEXT", "timestamptz", "'2026-01-01 00:00:00+00:00'"),
    ("TEXT", "time", "'12:00:00'"),
    ("TIME", "time", "'12:00:00.5'"),
    ("TEXT", "interval", "'P7D'"),
    ("TEXT", "inet", "'10.0.0.1/32'"),
    ("TEXT", "text[]", "'{a,b}'"),
]
REFUSED = [
    ("TEXT", "uuid", UPPER),
    ("TEXT", "uuid", "'a0eebc999c0b4ef8bb6d6bb9bd380a12'"),
    ("UUID", "uuid", UPPER),
    ("TEXT", "bigint", "'007'"),
    ("TEXT", "integer", "' 7'"),
    ("TEXT", "integer", "'+5'"),
    ("TEXT", "integer", "'-0'"),
    ("TEXT", "numeric", "'1.50'"),
    ("TEXT", "numeric", "'1e2'"),
    ("", "numeric", "'1.50'"),
    ("", "numeric", "5"),
    ("", "numeric", "2.5"),
    ("", "bigint", "'5'"),
    ("", "double precision", "2"),
    ("", "double precision", "'2'"),
    ("", "boolean", "'1'"),
    ("", "text", "5"),
    ("", "text", "x'61'"),
    ("", "timestamp", "'2026-01-01T00:00:00'"),
    ("TEXT", "double precision", "'1.50'"),
    ("TEXT", "char(6)", "'ab'"),
    ("TEXT", "timestamp", "'2026-01-01T00:00:00'"),
    ("DATETIME", "timestamp", "'2026-01-01T00:00:00'"),
    ("DATETIME", "timestamp", "'2026-01-01 00:00:00.500'"),
    ("DATETIME", "timestamptz", "'2026-01-01 00:00:00'"),
    ("DATETIME", "text", "'2026-01-01 00:00:00'"),
    ("TEXT", "timestamptz", "'2026-01-01 01:00:00+01:00'"),
    ("TIMESTAMPTZ", "timestamptz", "'2026-01-01 01:00:00+01:00'"),
    ("TEXT", "boolean", "'t'"),
    ("BOOLEAN", "text", "1"),
    ("BOOLEAN", "integer", "1"),
    ("REAL", "bigint", "2.0"),
    ("INTERVAL", "interval", "'P1W'"),
    ("TEXT", "interval", "'1 week'"),
    ("INTEGER", "interval", "5"),
    ("TEXT", "time", "'12:00'"),
    ("TIME", "time", "'12:00:00.500'"),
    ("TEXT", "inet", "'010.0.0.1'"),
    ("TEXT", "text[]", "'{a, b}'"),
]


def two_nodes(main_url: str, folder: Path) -> tuple[CliNode, CliNode]:
    """A main node, and a shop on SQLite in `app.db`; without tables yet."""
    exchange = str(folder / "exchange")
    main = CliNode.init("main", folder / "main", main_url, "--directory", exchange, "--role", "main")
    return main, CliNode.init("shop", folder / "shop", f"sqlite:///{folder / 'app.db'}", "--directory", exchange)


def sync(*nodes: CliNode) -> None:
    """Each in turn, twice; any may set things aside."""
    for node in (*nodes, *nodes):
        assert node.call("run", "--once").returncode in (0, 4)


def test_a_row_that_both_kinds_write_stays_one(pg_database: str, tmp_path: Path) -> None:
    file = tmp_path / "app.db"
    names = [f"same{n}" for n in range(len(THE_SAME))] + [f"refused{n}" for n in range(len(REFUSED))]
    cases = dict(zip(names, THE_SAME + REFUSED, strict=True))
    engine = sa.create_engine(pg_database, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with closing(sqlite3.connect(file)) as raw, engine.connect() as connection:
        for name, (lite, typed, _) in cases.items():
            raw.execute(f"CREATE TABLE {name} (id {lite} NOT NULL, v TEXT, PRIMARY KEY (id))")
            connection.exec_driver_sql(f"CREATE TABLE {name} (id {typed} PRIMARY KEY, v text)")
    main, shop = two_nodes(pg_database, tmp_path)
    for node in (main, shop):
        node.ok("migrate")
    for name, (_, _, value) in cases.items():
        with closing(sqlite3.connect(file)) as raw, raw:
            raw.execute(f"INSERT INTO {name} VALUES ({value}, 'shop')")
            raw.execute("INSERT INTO rf_mark DEFAULT VALUES")
    sync(shop, main)
    with engine.connect() as connection:
        for name in cases:
            connection.exec_driver_sql(f"UPDATE {name} SET v = 'main'")
    sync(main, shop)
    found = {name: (main.query(f"SELECT v FROM {name}"), shop.query(f"SELECT v FROM {name}")) for name in cases}
    wrong = {
        (name, *cases[name]): rows
        for name, rows in found.items()
        if rows != (([("main",)], [("main",)]) if name.startswith("same") else ([], [("shop",)]))
    }
    assert wrong == {}
    letters = main.report("dlq", "list")
    assert {(one["reason"], one["state"]) for one in letters} == {("type", "dead")}
    assert len(letters) == len(REFUSED)
    told = {one["error"] for one in letters}
    assert any("would be another key in column id uuid" in error for error in told), told


def test_text_keeps_its_letters_or_is_refused(pg_database: str, tmp_path: Path) -> None:
    """Beside the key too: the next update from PostgreSQL would bring it back without them."""
    typed = "CREATE TABLE item (id bigint PRIMARY KEY, code integer, ref uuid, v text)"
    loose = "CREATE TABLE item (id INTEGER PRIMARY KEY, code TEXT, ref, v TEXT)"
    main, shop = two_nodes(pg_database, tmp_path)
    for node, ddl in ((main, typed), (shop, loose)):
        node.execute(ddl)
        node.ok("migrate")
    values = [("'7'", LOWER), ("'007'", LOWER), ("' 7'", LOWER), ("'-0'", LOWER), ("'7'", UPPER)]
    for number, (code, ref) in enumerate(values):
        shop.execute(f"INSERT INTO item VALUES ({number}, {code}, {ref}, 'shop')", "INSERT INTO rf_mark DEFAULT VALUES")
    sync(shop, main)
    main.execute("UPDATE item SET v = 'main'")
    sync(main, shop)
    assert shop.query("SELECT v, count(*), min(id) FROM item GROUP BY v ORDER BY v") == [("main", 1, 0), ("shop", 4, 1)]
    errors = [one["error"] for one in main.report("dlq", "list")]
    assert all("does not fit column" in error for error in errors), errors
    assert len(errors) == 4
