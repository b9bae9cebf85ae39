"""How often the sealer looks, and what a look costs where there are many tables."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.dialects.sqlite.catalog import SchemaCache
from common.dialects.sqlite.connection import borrowed, transaction
from common.dialects.sqlite.looking import Looker
from common.dialects.sqlite.looks import Look
from tests.support.sqlite_app import NODE, SqliteApp, sqlite_app

T = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)"


@pytest.mark.parametrize("journal", ["wal", "delete", "persist"])
def test_a_look_is_left_out_until_somebody_commits(tmp_path: Path, journal: str) -> None:
    file = tmp_path / "a.db"
    with sqlite_app(file, T, wal=journal == "wal") as app, closing(sqlite3.connect(file)) as other:
        assert other.execute(f"PRAGMA journal_mode = {journal}").fetchone() == (journal,)
        sealer = app.database.sealer(NODE)
        assert not sealer.is_quiet(), "it has not looked yet"
        assert sealer.seal().txs == 0
        assert sealer.is_quiet()
        assert sealer.is_quiet()
        other.execute("INSERT INTO t VALUES (1, 'x')")
        assert sealer.is_quiet(), "it is not committed"
        other.commit()
        assert not sealer.is_quiet()
        assert sealer.seal().txs == 1
        assert not sealer.is_quiet(), "its own commit may hide another one"
        assert sealer.seal().txs == 0
        assert sealer.is_quiet()


def test_what_is_committed_amid_a_look_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        sealer = app.database.sealer(NODE)
        look = Looker.look

        def overtaken(looker: Looker, connection: sqlite3.Connection, incarnation: str) -> object:
            found = look(looker, connection, incarnation)
            app.run("INSERT INTO t VALUES (1, 'x')")
            return found

        sealer.is_quiet()
        monkeypatch.setattr(Looker, "look", overtaken)
        assert sealer.seal().txs == 0
        monkeypatch.undo()
        assert not sealer.is_quiet()
        assert sealer.seal().txs == 1


def test_another_connection_s_numbers_tell_nothing(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        sealer = app.database.sealer(NODE)
        sealer.is_quiet()
        sealer.seal()
        assert sealer.is_quiet()
        app.database.close()
        assert not sealer.is_quiet()


def _statements(app: SqliteApp) -> int:
    """Return how many statements a look takes."""
    told: list[str] = []
    with borrowed(app.database.engine) as connection, transaction(connection, "BEGIN"):
        looker = Looker(SchemaCache())
        looker.look_within(connection, NODE.incarnation)
        connection.set_trace_callback(told.append)
        try:
            found = looker.look_within(connection, NODE.incarnation)
        finally:
            connection.set_trace_callback(None)
    assert isinstance(found, Look)
    assert [log.log.shape.table for log in found.logs] == ["t1"]
    return len(told)


def test_a_look_takes_no_statement_for_each_table(tmp_path: Path) -> None:
    taken = []
    for tables in (2, 150):
        made = [f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, a TEXT)" for number in range(tables)]
        with sqlite_app(tmp_path / f"{tables}.db", *made) as app:
            app.run("INSERT INTO t1 VALUES (1, 'x')")
            taken.append(_statements(app))
    assert taken[0] == taken[1]
