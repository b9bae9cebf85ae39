"""Index terms, result codes, connections, switched off triggers, urls: the small parts of the SQLite dialect."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.dialects import open_database
from common.dialects.sqlite.connection import transaction
from common.dialects.sqlite.errors import translate_driver
from common.dialects.sqlite.indexes import index_terms
from common.dialects.sqlite.triggers_off import switch_triggers_off
from common.errors import ConfigError, ContentionError, OutageError
from common.schema.migrate import upgrade
from tests.support.sqlite_app import NODE, sqlite_app


@pytest.mark.parametrize(
    ("sql", "terms", "where"),
    [
        ("CREATE UNIQUE INDEX i ON t (a, b)", ["a", "b"], None),
        ('CREATE UNIQUE INDEX "o(" ON "t(x" (lower(a) COLLATE NOCASE DESC, b||\',\')', ["lower(a)", "b||','"], None),
        ("CREATE UNIQUE INDEX i ON t(a+1 /* ( */, -- )\n [b,] ASC) where a IN (1,2)", ["a+1", "[b,]"], "a IN (1,2)"),
        ("create unique index i on t(substr(a, 1, 2) desc)WHERE b", ["substr(a, 1, 2)"], "b"),
    ],
)  # fmt: skip
def test_index_terms(sql: str, terms: list[str], where: str | None) -> None:
    assert index_terms(sql) == (terms, where)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="in-memory"):
        open_database(url)


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense"])
def test_other_databases_are_refused_with_what_is_supported(url: str) -> None:
    with pytest.raises(ConfigError, match="postgresql://"):
        open_database(url)


def test_triggers_are_quiet_on_the_applying_connection_and_nowhere_else(tmp_path: Path) -> None:
    schema = ("CREATE TABLE t (id INTEGER PRIMARY KEY, n)", "CREATE TABLE fired (n)")
    trigger = "CREATE TRIGGER loud AFTER INSERT ON t BEGIN INSERT INTO fired VALUES (NEW.id); END"
    with sqlite_app(tmp_path / "a.db", *schema, trigger, capture=False) as app:
        app.database.capture().install([app.tables["t"]])
        assert app.database.features.triggers_off
        app.put("t", b'{"id":1}', b'{"id":1,"n":null}')
        assert app.query("SELECT * FROM fired") == []
        app.run("INSERT INTO t VALUES (2, NULL)")
        assert app.query("SELECT * FROM fired") == [(2,)]


def test_switching_triggers_off_says_whether_it_worked() -> None:
    class Other(sqlite3.Connection):
        pass

    with closing(sqlite3.connect(":memory:")) as plain, closing(sqlite3.connect(":memory:", factory=Other)) as other:
        assert switch_triggers_off(plain)
        if not hasattr(other, "setconfig"):
            assert not switch_triggers_off(other)


def test_a_locked_database_is_contention(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)") as app:
        app.connection.execute("BEGIN IMMEDIATE")
        with (
            closing(sqlite3.connect(app.path, timeout=0)) as impatient,
            pytest.raises(sqlite3.OperationalError) as caught,
        ):
            impatient.execute("BEGIN IMMEDIATE")
        app.connection.execute("ROLLBACK")
        assert isinstance(translate_driver(caught.value), ContentionError)


def test_a_file_that_is_no_database_is_an_outage_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"this is a letter to grandmother" * 100)
    database = open_database(f"sqlite:///{tmp_path / 'a.db'}")
    with pytest.raises(OutageError, match=r"node\.database"):
        database.catalog()
    database.close()


def test_an_io_error_names_a_full_disk_among_its_causes() -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    found = translate_driver(error)
    assert isinstance(found, OutageError)
    assert "whether its disk is full" in str(found)


def test_a_folder_that_is_not_there_is_an_outage(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'no' / 'a.db'}")
    with pytest.raises(OutageError, match=rf"node\.database: the folder {tmp_path / 'no'} is not there"):
        database.log(NODE).head()
    database.close()


def test_a_file_that_is_not_there_is_made_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with pytest.raises(ConfigError, match="is not there"):
        open_database(f"sqlite:///{path}", create=False)
    assert not path.exists()
    with closing(open_database(f"sqlite:///{path}")) as made:
        made.catalog()
    with closing(open_database(f"sqlite:///{path}", create=False)) as database:
        path.unlink()
        with pytest.raises(OutageError, match="is gone"):
            database.catalog()
        with pytest.raises(OutageError, match="is gone"), database.apply_session():
            pass
    assert not path.exists()


def test_a_file_taken_away_under_an_open_database_is_an_outage(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", wal=False) as app:
        app.database.server_identity()
        app.path.unlink()
        with pytest.raises(OutageError, match="is gone"):
            app.database.server_identity()


def test_a_copied_file_is_another_server(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", "CREATE TABLE t (id INTEGER PRIMARY KEY)", wal=False) as app:
        (tmp_path / "b.db").write_bytes(app.path.read_bytes())
        copy = open_database(f"sqlite:///{tmp_path / 'b.db'}")
        assert copy.server_identity() != app.database.server_identity()
        copy.close()


def test_a_transaction_that_fails_at_its_commit_is_rolled_back(tmp_path: Path) -> None:
    schema = (
        "CREATE TABLE p (id INTEGER PRIMARY KEY)",
        "CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED)",
    )
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for statement in schema:
            connection.execute(statement)
        with pytest.raises(sqlite3.IntegrityError), transaction(connection):
            connection.execute("INSERT INTO c VALUES (1)")
        assert not connection.in_transaction


def test_upgrade_is_one_transaction_and_repeats(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", capture=False) as app:
        assert not upgrade(app.database.engine)
