"""The guard of an append-only table on SQLite against a twin without one: it refuses what would touch a row that
stands, and nothing else.

`ROWFERRY_SEEDS=100:200` runs those seeds; failures name theirs.
"""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.ports.rules import Rules
from tests.support.sqlite_app import SqliteApp

_SEEDS = range(*map(int, os.environ.get("ROWFERRY_SEEDS", "0:10").split(":")))
_STEPS = 100
_MOST_ROWS = 12
TABLES = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT UNIQUE, b INT, c TEXT NOT NULL DEFAULT 'x')",
    "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, a TEXT COLLATE NOCASE UNIQUE, b INT, c, UNIQUE (b, c))",
    "CREATE TABLE t (id, a UNIQUE ON CONFLICT REPLACE, b INT, c, PRIMARY KEY (id, b))",
    "CREATE TABLE t (id TEXT PRIMARY KEY, a UNIQUE, b INT, c TEXT NOT NULL DEFAULT '1' UNIQUE) WITHOUT ROWID",
    "CREATE TABLE t (id NUMERIC PRIMARY KEY NOT NULL, a REAL UNIQUE, b INT UNIQUE ON CONFLICT IGNORE, c)",
)
INDEXES = (
    "CREATE UNIQUE INDEX part ON t (c) WHERE b > 1",
    "CREATE UNIQUE INDEX odd ON t (lower(c) || b, a)",
    "CREATE INDEX plain ON t (b)",
)
WATCHED = (
    "CREATE TABLE touched (n)",
    "CREATE TRIGGER touched_update AFTER UPDATE ON t BEGIN INSERT INTO touched VALUES (1); END",
    "CREATE TRIGGER touched_delete AFTER DELETE ON t BEGIN INSERT INTO touched VALUES (1); END",
)
"""With `recursive_triggers` on, a row that `REPLACE` displaces runs the second one: that is the truth."""
VALUES = ("NULL", "NULL", "1", "2", "3", "4", "'a'", "'A'", "'b'", "'1'", "1.0", "-1", "'x'", "x'61'", "random() % 50")
CLAUSES = ("", "", " OR REPLACE", " OR REPLACE", " OR REPLACE", " OR IGNORE", " OR FAIL", " OR ABORT", " OR ROLLBACK")
ENDINGS = ("", "", "", " ON CONFLICT DO NOTHING", " ON CONFLICT DO UPDATE SET c = 'up'")


def one_insert(dice: random.Random, db: sqlite3.Connection) -> str:
    """An insert of a row or a few, its values known: the same on both sides."""
    rows = []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        values = ", ".join(f"quote({dice.choice(VALUES)})" for _ in range(4))
        rows.append(f"({', '.join(db.execute(f'SELECT {values}').fetchone())})")
    return f"INSERT{dice.choice(CLAUSES)} INTO t VALUES {', '.join(rows)}{dice.choice(ENDINGS)}"


def run(db: sqlite3.Connection, statement: str) -> str | None:
    """Run a statement; return its error."""
    try:
        db.execute(statement)
    except sqlite3.Error as error:
        return str(error)
    return None


def rows(db: sqlite3.Connection) -> list[tuple[object, ...]]:
    """The rows with the classes of their values."""
    found = db.execute("SELECT id, typeof(id), a, typeof(a), b, typeof(b), c, typeof(c) FROM t").fetchall()
    return sorted(found, key=repr)


@pytest.mark.parametrize("seed", _SEEDS)
def test_the_guard_refuses_what_would_touch_a_row_and_nothing_else(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    schema = (TABLES[seed % len(TABLES)], *dice.sample(INDEXES, dice.randint(0, len(INDEXES))))
    refusals = passed = 0
    app = SqliteApp(tmp_path / "guarded.db", *schema, capture=False)
    app.database.capture(Rules(append_only=frozenset({"t"}))).install(list(app.tables.values()))
    with closing(sqlite3.connect(tmp_path / "free.db", isolation_level=None)) as free:
        free.execute("PRAGMA recursive_triggers = ON")
        for statement in (*schema, *WATCHED):
            free.execute(statement)
        for _ in range(_STEPS):
            statement = one_insert(dice, free)
            free.execute("BEGIN")
            error = run(free, statement)
            is_touched = bool(free.in_transaction and free.execute("SELECT count(*) FROM touched").fetchone()[0])
            refused = run(app.connection, statement)
            if is_touched:
                assert refused is not None, statement
                assert "append-only" in refused, statement
                refusals += 1
            else:
                # What it touched before it failed was taken back again, and may have been refused first.
                assert (refused is None) == (error is None), f"{statement}: {refused}, {error}"
                passed += error is None
            if free.in_transaction:
                # Of a statement with OR IGNORE that fails for its key's type SQLite keeps a part; none, with a guard.
                free.execute("ROLLBACK" if is_touched or error == "datatype mismatch" else "COMMIT")
            assert rows(app.connection) == rows(free), statement
            if len(rows(free)) > _MOST_ROWS:
                # What an owner does under `pause`, here without a guard for a moment.
                app.database.capture().install(list(app.tables.values()))
                for db in (app.connection, free):
                    db.execute("DELETE FROM t")
                free.execute("DELETE FROM touched")
                app.database.capture(Rules(append_only=frozenset({"t"}))).install(list(app.tables.values()))
    app.close()
    assert refusals
    assert passed
