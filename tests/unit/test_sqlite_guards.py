"""Guards on SQLite: rows that REPLACE displaces, and what only looks as if it displaced one."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.ports.rules import Rules
from tests.support.sqlite_app import SqliteApp

Open = Callable[..., SqliteApp]

TABLES = {
    "rowid": "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b, n TEXT NOT NULL DEFAULT 'none')",
    "numbered": "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT UNIQUE, b, n NOT NULL DEFAULT 'none')",
    "text": "CREATE TABLE t (id TEXT PRIMARY KEY NOT NULL, a TEXT UNIQUE, b, n TEXT NOT NULL DEFAULT 'none')",
    "without": "CREATE TABLE t (id INT PRIMARY KEY, a TEXT UNIQUE, b, n TEXT NOT NULL DEFAULT 'none') WITHOUT ROWID",
    "folded": "CREATE TABLE t (id TEXT COLLATE NOCASE PRIMARY KEY, a UNIQUE COLLATE NOCASE, b, n DEFAULT 'none')",
}
FIRST = "INSERT INTO t VALUES (1, 'one', NULL, 'first')"


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    apps: list[SqliteApp] = []

    def open_(*schema: str) -> SqliteApp:
        app = SqliteApp(tmp_path / f"{len(apps)}.db", *schema, capture=False)
        apps.append(app)
        app.database.capture(Rules(append_only=frozenset({"t"}))).install(list(app.tables.values()))
        app.run(*([FIRST] if schema[0] in TABLES.values() else []))
        return app

    yield open_
    for app in apps:
        app.close()


def refused(app: SqliteApp, statement: str) -> None:
    before = app.query("SELECT * FROM t ORDER BY 1")
    app.seal()
    with pytest.raises(sqlite3.IntegrityError, match="t is append-only"):
        app.run(statement)
    assert app.query("SELECT * FROM t ORDER BY 1") == before
    assert app.seal() == []


@pytest.mark.parametrize("recursive", ["ON", "OFF"])
@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(
    "statement",
    [
        "INSERT OR REPLACE INTO t VALUES (1, 'other', NULL, 'x')",
        "INSERT OR REPLACE INTO t VALUES (2, 'one', NULL, 'x')",
        "INSERT OR REPLACE INTO t VALUES (2, 'two', NULL, 'x'), (1, 'three', NULL, 'x')",
        "INSERT OR REPLACE INTO t VALUES (2, 'two', NULL, NULL), (3, 'two', NULL, NULL)",
        "REPLACE INTO t SELECT * FROM t",
        "UPDATE OR REPLACE t SET a = 'new'",
        "UPDATE OR IGNORE t SET a = 'new'",
        "INSERT INTO t VALUES (1, 'one', NULL, 'x') ON CONFLICT DO UPDATE SET b = 1",
    ],
)
def test_a_displaced_row_is_refused(opened: Open, kind: str, statement: str, recursive: str) -> None:
    app = opened(TABLES[kind])
    app.connection.execute(f"PRAGMA recursive_triggers = {recursive}")
    refused(app, statement)


@pytest.mark.parametrize("kind", TABLES)
def test_an_insert_that_is_ignored_passes_and_says_nothing_of_the_next(opened: Open, kind: str) -> None:
    app = opened(TABLES[kind])
    app.run(
        "INSERT OR IGNORE INTO t VALUES (1, 'new', NULL, 'x')",
        "INSERT OR IGNORE INTO t VALUES (2, 'one', NULL, 'x')",
        "INSERT INTO t VALUES (2, 'one', NULL, 'x') ON CONFLICT DO NOTHING",
        "INSERT OR REPLACE INTO t VALUES (2, 'new', NULL, 'x')",
        "INSERT OR REPLACE INTO t VALUES (3, NULL, NULL, NULL), (4, NULL, NULL, NULL)",
    )

    rows = [(str(key), a, n or "none") for key, a, n in app.query("SELECT id, a, n FROM t ORDER BY id")]
    assert rows == [("1", "one", "first"), ("2", "new", "x"), ("3", None, "none"), ("4", None, "none")]
    refused(app, "INSERT OR REPLACE INTO t VALUES (5, 'new', NULL, 'x')")


@pytest.mark.parametrize("kind", TABLES)
def test_the_applications_own_error_for_a_key_that_is_taken_stays(opened: Open, kind: str) -> None:
    app = opened(TABLES[kind])
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed"):
        app.run("INSERT INTO t VALUES (1, 'new', NULL, 'x')")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed"):
        app.run("INSERT OR FAIL INTO t VALUES (2, 'one', NULL, 'x')")


def test_rows_that_got_their_number_from_sqlite(opened: Open) -> None:
    app = opened("CREATE TABLE t (id INTEGER PRIMARY KEY, a)")
    app.run(
        "INSERT INTO t VALUES (-1, 'below')", "INSERT INTO t (a) VALUES ('x'), ('y')", "REPLACE INTO t (a) VALUES (1)"
    )
    assert len(app.query("SELECT * FROM t")) == 4
    refused(app, "REPLACE INTO t VALUES (-1, 'z')")


def test_partial_and_expression_indexes(opened: Open) -> None:
    app = opened(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, live INT)",
        "CREATE UNIQUE INDEX one_live ON t (a) WHERE live",
        "CREATE UNIQUE INDEX folded ON t (lower(a), live)",
    )
    app.run("INSERT INTO t VALUES (1, 'a', 1)")

    # given a new row that is not in the partial index: it displaces nobody
    app.run("INSERT OR REPLACE INTO t VALUES (2, 'a', 0)", "INSERT OR REPLACE INTO t VALUES (3, 'a', NULL)")
    refused(app, "INSERT OR REPLACE INTO t VALUES (4, 'a', 1)")
    refused(app, "INSERT OR REPLACE INTO t VALUES (4, 'A', 0)")


def test_a_table_that_replaces_by_itself(opened: Open) -> None:
    app = opened("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE ON CONFLICT REPLACE)")
    app.run("INSERT INTO t VALUES (1, 'a')")
    refused(app, "INSERT INTO t VALUES (2, 'a')")


def test_an_applications_trigger_that_writes_the_table_again(opened: Open) -> None:
    app = opened(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE)",
        "CREATE TRIGGER twin BEFORE INSERT ON t WHEN NEW.a NOT LIKE 'twin%' BEGIN"
        " INSERT OR IGNORE INTO t VALUES (NEW.id + 100, 'twin of ' || NEW.a); END",
    )
    app.connection.execute(
        "CREATE TRIGGER later BEFORE INSERT ON t WHEN NEW.a NOT LIKE 'twin%' BEGIN"
        " INSERT OR IGNORE INTO t VALUES (NEW.id + 200, 'twins of ' || NEW.a); END"
    )
    app.run("INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, 'b')")
    refused(app, "INSERT OR REPLACE INTO t VALUES (3, 'a')")
    refused(app, "INSERT OR REPLACE INTO t VALUES (1, 'c')")


def test_what_was_noted_of_ignored_inserts_goes_with_sealing(opened: Open) -> None:
    app = opened(TABLES["rowid"])
    app.run("INSERT OR IGNORE INTO t VALUES (1, 'new', NULL, 'x')")
    assert app.query("SELECT count(*) FROM rf_displacing") == [(1,)]
    app.seal()
    assert app.query("SELECT count(*) FROM rf_displacing") == [(0,)]


def test_a_row_that_went_under_pause_is_not_held_against_a_new_one(opened: Open) -> None:
    app = opened(TABLES["rowid"])
    rules = Rules(append_only=frozenset({"t"}))
    app.run("INSERT OR IGNORE INTO t VALUES (1, 'new', NULL, 'x')")
    app.database.capture(rules).pause([app.tables["t"]], 1, "owner")
    app.run("DELETE FROM t")
    app.database.capture(rules).resume(["t"], list(app.tables.values()))
    app.run("INSERT INTO t (a) VALUES ('first again')")
    assert app.query("SELECT id FROM t") == [(1,)]
