"""Capture on real files: odd tables, changed shapes, and what can't be captured."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from common.wire.compress import decompress
from tests.support.sqlite_app import brief, changes_of, sqlite_app

T = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)"


def test_odd_names_are_captured_and_applied(tmp_path: Path) -> None:
    schema = (
        'CREATE TABLE "select ""it""" ("the key" TEXT, "group" INTEGER, "ключ.☃" BLOB,'
        ' PRIMARY KEY ("the key", "group"))',
        "CREATE TABLE 'a.b''c' (rowid TEXT PRIMARY KEY, oid, _rowid_, new, old, at, kind, seq, c0)",
        "CREATE TABLE [new] (old INTEGER PRIMARY KEY, [order by] UNIQUE)",
    )
    with sqlite_app(tmp_path / "a.db", *schema) as app:
        assert set(app.tables) == {'select "it"', "a..b'c", "new"}
        app.run(
            'INSERT INTO "select ""it""" VALUES (\'k\', 1, x\'00\')',
            "INSERT INTO \"a.b'c\" (rowid, oid, c0) VALUES ('r', 1, 2)",
            "INSERT INTO new VALUES (1, 'x')",
            "INSERT OR REPLACE INTO new VALUES (2, 'x')",
        )
        found = {(table, op): after for table, op, _, after in brief(app.changes())}
        assert found['select "it"', "I"] == {"the key": "k", "group": 1, "ключ.☃": "AA=="}
        assert found["a..b'c", "I"]["rowid"] == "r"
        assert found["new", "I"] == {"old": 2, "order by": {"$text": "eA=="}}
        app.put('select "it"', b'{"the key":"z","group":1}', b'{"the key":"z","group":1}')
        app.put("a..b'c", b'{"rowid":"z"}', b'{"rowid":"z","kind":null}')
        assert app.query('SELECT count(*) FROM "select ""it"""') == [(2,)]
        assert app.changes() == []


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    schema = (
        T,
        "CREATE TABLE heap (a)",
        "CREATE VIEW v AS SELECT 1 AS one",
        "CREATE VIRTUAL TABLE words USING fts5 (body)",
        "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE backwards (id INTEGER PRIMARY KEY DESC)",
    )
    with sqlite_app(tmp_path / "a.db", *schema, capture=False) as app:
        catalog = app.database.catalog()
        assert set(catalog.tables) == {"t", "counted", "backwards"}
        assert catalog.keyless == ("heap",)
        assert catalog.left_out["v"] == "view"
        assert catalog.left_out["words"] == "virtual table"
        assert catalog.left_out["words_data"].startswith("shadow table")
        assert [name for name, table in catalog.tables.items() if table.numbers_itself] == ["counted", "t"]


def test_a_table_of_as_many_columns_as_its_log_can_have_is_captured(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(1_996)]
    wide, wider = (f"id INTEGER PRIMARY KEY, {', '.join([*names, *more])}" for more in ([], ["c1996"]))
    with sqlite_app(
        tmp_path / "a.db", f"CREATE TABLE wide ({wide}, UNIQUE (c7))", f"CREATE TABLE wider ({wider})"
    ) as app:
        assert set(app.tables) == {"wide"}
        assert "more than 1997 columns" in app.database.catalog().left_out["wider"]
        row = {"id": 1} | dict.fromkeys(names) | {"c7": {"$text": "eA=="}}
        app.run("INSERT INTO wide (id, c7) VALUES (1, 'x')")
        assert brief(app.changes()) == [("wide", "I", None, row)]
        app.run("UPDATE wide SET c1995 = 3")
        assert brief(app.changes()) == [("wide", "U", row, row | {"c1995": {"$int": 3}})]
        app.run("REPLACE INTO wide (id, c7) VALUES (2, 'x')")
        assert [op for _, op, *_ in brief(app.changes())] == ["D", "I"]
        app.put("wide", b'{"id":5}', b'{"id":5,"c1995":{"$int":7}}')
        assert app.query("SELECT id, c1995 FROM wide") == [(2, None), (5, 7)]


def test_a_key_under_a_collation_that_only_the_application_knows_is_left_out_by_name(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as application:
        application.create_collation("mine", lambda left, right: (left > right) - (left < right))
        application.execute("CREATE TABLE k (k TEXT COLLATE mine PRIMARY KEY, v)")
        application.execute("CREATE TABLE w (a INT, k TEXT COLLATE mine, PRIMARY KEY (a, k)) WITHOUT ROWID")
        application.execute("CREATE TABLE u (id INTEGER PRIMARY KEY, a TEXT COLLATE mine UNIQUE)")
        application.execute("INSERT INTO k VALUES ('a', 1)")
        with sqlite_app(tmp_path / "a.db") as app:
            assert set(app.tables) == {"u"}
            assert set(app.database.catalog().left_out) == {"k", "w"}
            assert "collation MINE" in app.database.catalog().left_out["k"]
            application.execute("INSERT INTO k VALUES ('b', 2)")
            application.execute("INSERT INTO u VALUES (1, 'a')")
            application.execute("REPLACE INTO u VALUES (2, 'a')")
            assert [(table, op) for table, op, *_ in brief(app.changes())] == [("u", "I")]


def test_rows_with_null_in_their_key_stay_as_a_dead_letter(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", "CREATE TABLE n (k TEXT PRIMARY KEY, v)") as app:
        app.run("INSERT INTO n VALUES (NULL, 1)", "INSERT INTO n VALUES ('k', 2)", "INSERT INTO n VALUES (NULL, 3)")
        assert brief(app.changes()) == [("n", "I", None, {"k": "k", "v": {"$int": 2}})]
        app.run(
            "UPDATE n SET k = NULL WHERE k = 'k'", "UPDATE n SET k = 'one' WHERE v = 1", "DELETE FROM n WHERE v = 3"
        )
        assert [(op, after and after["k"]) for _, op, _, after in brief(app.changes())] == [("D", None), ("I", "one")]
        letters = app.query(
            "SELECT source_node, state, reason, table_name, changes, body, to_lsn FROM rf_dead_letter ORDER BY tx_id"
        )
    assert [letter[:5] + letter[6:] for letter in letters] == [
        ("here", "dead", "null-key", "n", 2, None),
        ("here", "dead", "null-key", "n", 1, None),
    ]
    assert decompress(letters[0][5], "zstd").splitlines() == [
        b'{"table":"n","row":{"k":null,"v":{"$int":1}}}',
        b'{"table":"n","row":{"k":null,"v":{"$int":3}}}',
    ]


def test_touches_of_an_older_shape_are_sealed_under_it(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x', 'y'), (2, 'x', 'y')")
        app.run("ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'new'")
        app.capture()
        app.run("UPDATE t SET c = 'set' WHERE id = 1")
        first, second = app.seal()
        assert list(first.header.tables["t"].columns) == ["id", "a", "b"]
        assert list(second.header.tables["t"].columns) == ["id", "a", "b", "c"]
        assert b'"after":{"id":1,"a":"x","b":"y"}' in next(first.lines())
        assert b'"after":{"id":1,"a":"x","b":"y","c":"set"}' in next(second.lines())
        assert any("DROP TABLE rf_log_1" in statement for statement in app.capture())
        assert app.database.capture().plan(list(app.tables.values())) == []


def test_renaming_a_column_goes_through_and_is_noticed(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("ALTER TABLE t RENAME COLUMN b TO renamed")
        app.run("INSERT INTO t VALUES (1, 'x', 'y')")
        assert app.database.capture().drifted(list(app.tables.values())) == ["t"]
        app.capture()
        app.run("UPDATE t SET a = 'z'")
        assert brief(app.changes())[-1][3] == {"id": 1, "a": "z", "renamed": "y"}


def test_dropping_a_column_names_the_command_that_helps(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        with pytest.raises(sqlite3.OperationalError, match="rowferry pause t"):
            app.run("ALTER TABLE t DROP COLUMN b")
        app.run("INSERT INTO t VALUES (1, 'x', 'y')")
        app.database.capture().install([])
        app.run("ALTER TABLE t DROP COLUMN b")
        app.capture()
        assert brief(app.changes()) == [("t", "I", None, {"id": 1, "a": "x"})]


def test_a_table_rebuilt_by_create_copy_drop_rename_is_noticed(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x', 'y'), (2, 'x', 'y')")
        app.run(
            "CREATE TABLE t_new (id INTEGER PRIMARY KEY, a TEXT, b INTEGER)",
            "INSERT INTO t_new SELECT id, a, NULL FROM t WHERE id = 1",
            "DROP TABLE t",
            "ALTER TABLE t_new RENAME TO t",
        )
        assert app.database.capture().drifted(list(app.tables.values())) == ["t"]
        app.capture()
        app.run("UPDATE t SET b = 7")
        assert [(op, after and after["b"]) for _, op, _, after in brief(app.changes())] == [("I", None), ("U", 7)]


def test_a_new_unique_key_is_noticed(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("CREATE UNIQUE INDEX t_a ON t (a)")
        assert app.database.capture().drifted(list(app.tables.values())) == ["t"]
        app.capture()
        app.run("INSERT INTO t VALUES (1, 'x', 'y')")
        app.changes()
        app.run("INSERT OR REPLACE INTO t VALUES (2, 'x', 'z')")
        assert sorted(op for _, op, _, _ in brief(app.changes())) == ["D", "I"]


def test_changes_of_a_table_that_was_dropped_are_set_aside(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, "CREATE TABLE u (id INTEGER PRIMARY KEY)") as app:
        app.run("INSERT INTO t VALUES (1, 'x', 'y')")
        app.changes()
        app.run("UPDATE t SET a = 'z'", "INSERT INTO u VALUES (1)", "DROP TABLE t")
        assert brief(app.changes()) == [("u", "I", None, {"id": 1})]
        ((reason, body),) = app.query("SELECT reason, body FROM rf_dead_letter")
        assert reason == "unknown-table"
        assert decompress(body, "zstd") == b'{"table":"t","row":{"id":1,"a":"x","b":"y"}}\n'
        assert app.changes() == []


def test_a_row_that_was_new_in_a_table_that_was_dropped_is_named_by_its_key(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x', 'y')", "DROP TABLE t")
        assert app.changes() == []
        ((body,),) = app.query("SELECT body FROM rf_dead_letter")
        assert decompress(body, "zstd") == b'{"table":"t","row":{"id":1}}\n'


def test_named_transactions_of_a_table_without_a_column_of_theirs_are_one(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x', 'y')", "INSERT INTO rf_mark DEFAULT VALUES")
        app.run("UPDATE t SET b = 'z'", "INSERT INTO rf_mark DEFAULT VALUES")
        app.run("ALTER TABLE t RENAME COLUMN b TO renamed")
        app.run("UPDATE t SET a = 'last'")
        (tx,) = app.seal()
        assert (tx.header.grouped, list(tx.header.tables["t"].columns)) == (True, ["id", "a", "renamed"])
        assert brief(changes_of([tx])) == [("t", "I", None, {"id": 1, "a": "last", "renamed": "z"})]
        assert app.query("SELECT count(*) FROM rf_mark") == [(0,)]
        app.capture()
        assert [(one.op, one.base) for one in app.changes()] == [("I", changes_of([tx])[0].version)]
        assert app.changes() == []


def test_a_renamed_table_is_known_under_its_new_name(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x', 'y')")
        (first,) = app.changes()
        app.run("ALTER TABLE t RENAME TO u")
        app.put("u", b'{"id":2}', b'{"id":2,"a":"theirs","b":"b"}')
        app.run("UPDATE u SET a = 'mine' WHERE id = 1")
        app.capture()
        app.run("UPDATE u SET b = 'last' WHERE id = 1")
        changes = app.changes()
        assert {(one.table, bytes(one.pk)) for one in changes} <= {("u", b'{"id":1}'), ("u", b'{"id":2}')}
        mine = [one for one in changes if bytes(one.pk) == b'{"id":1}']
        assert mine[0].base == first.version
        assert app.query("SELECT name FROM rf_table") == [("u",)]
        # Another table under the old name is another table.
        app.run("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)")
        app.capture()
        app.run("INSERT INTO t VALUES (1, 'other')")
        assert brief(app.changes()) == [("t", "I", None, {"id": 1, "a": "other"})]


def test_capture_keeps_what_an_application_sees(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        cursor = app.connection.execute("INSERT INTO t (a) VALUES ('x'), ('y')")
        assert (cursor.lastrowid, cursor.rowcount) == (2, 2)
        assert app.connection.execute("UPDATE t SET a = 'z'").rowcount == 2
        assert app.query("SELECT changes(), last_insert_rowid()") == [(2, 2)]
        assert app.query("DELETE FROM t WHERE id = 1 RETURNING id, a") == [(1, "z")]


def test_wal_is_never_switched_on_unasked(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, wal=False) as app:
        app.run("INSERT INTO t VALUES (1, 'x', 'y')")
        assert len(app.changes()) == 1
        app.put("t", b'{"id":2}', b'{"id":2}')
        assert app.query("PRAGMA journal_mode") == [("delete",)]


def test_a_utf16_database_is_captured(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16'")
        connection.execute(T)
    with sqlite_app(tmp_path / "a.db") as app:
        app.run("INSERT INTO t VALUES (1, 'Zoë ☃ 𝄞', char(0))")
        assert brief(app.changes()) == [("t", "I", None, {"id": 1, "a": "Zoë ☃ 𝄞", "b": "\0"})]
