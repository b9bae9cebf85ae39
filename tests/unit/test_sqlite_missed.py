"""What was written while capture was off or did not fit is found by digests, and sealed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.dialects import open_database
from common.schema.migrate import upgrade
from tests.support.sqlite_app import NODE, SqliteApp, brief, sqlite_app

T = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b TEXT)"
OLD = "INSERT INTO t VALUES (1, 'old', 'y'), (2, 'old', 'y'), (3, 'old', 'y')"
REBUILD = (
    "CREATE TABLE t_new (id INTEGER PRIMARY KEY, a TEXT, b TEXT)",
    "INSERT INTO t_new SELECT * FROM t",
    "DROP TABLE t",
    "ALTER TABLE t_new RENAME TO t",
)


def capture_off(app: SqliteApp) -> None:
    for (name,) in app.query("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 't'"):
        app.run(f'DROP TRIGGER "{name}"')


def found(app: SqliteApp) -> list[tuple[str, Any]]:
    """Return op and image of each change, in the order of keys."""
    return sorted(
        ((op, after or before) for _, op, before, after in brief(app.changes())), key=lambda one: (one[0], one[1]["id"])
    )


def key(change: tuple[str, Any]) -> Any:
    return change[1]["id"]


def test_rows_written_while_capture_was_gone(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run("INSERT INTO t VALUES (4, 'sealed', 'y'), (5, 'sealed', 'y'), (6, 'sealed', 'y')")
        app.put("t", b'{"id":7}', b'{"id":7,"a":"theirs"}')
        app.put("t", b'{"id":8}', b'{"id":8,"a":"theirs","b":"y"}')
        app.put("t", b'{"id":9}', b'{"id":9,"a":"theirs","b":"y"}')
        app.changes()
        app.run(*REBUILD)
        app.run("UPDATE t SET a = 'missed' WHERE id IN (1, 4, 7)", "DELETE FROM t WHERE id IN (2, 5, 8)")
        app.run("INSERT INTO t VALUES (10, 'missed', NULL)")
        assert app.database.capture().drifted(list(app.tables.values())) == ["t"]
        app.capture()
        assert [(op, image.get("id"), image.get("a")) for op, image in found(app)] == [
            ("D", 2, None), ("D", 5, None), ("D", 8, None),
            ("I", 1, "missed"), ("I", 4, "missed"), ("I", 7, "missed"), ("I", 10, "missed"),
        ]  # fmt: skip
        assert app.changes() == []
        app.capture()
        assert app.changes() == []


def test_a_missed_write_builds_on_what_was_known(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run("UPDATE t SET a = 'x' WHERE id = 1")
        (first,) = app.changes()
        capture_off(app)
        app.run("UPDATE t SET a = 'y' WHERE id = 1")
        app.capture()
        (missed,) = app.changes()
        assert missed.base == first.version
        assert missed.version > first.version


@pytest.mark.parametrize(
    ("alter", "write", "column", "value"),
    [
        ("ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'd'", "UPDATE t SET c = 'set' WHERE id = 2", "c", "set"),
        ("ALTER TABLE t ADD COLUMN c INT", "UPDATE t SET c = 5 WHERE id = 2", "c", 5),
        ("ALTER TABLE t RENAME COLUMN b TO renamed", "UPDATE t SET renamed = 'set' WHERE id = 2", "renamed", "set"),
        (
            "ALTER TABLE t RENAME COLUMN b TO renamed",
            "UPDATE t SET a = 'n', renamed = 's' WHERE id = 2",
            "renamed",
            "s",
        ),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_changed_column_written_before_capture_knows_it(
    tmp_path: Path, alter: str, write: str, column: str, value: object, sealed: bool
) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run(alter)
        app.run(write)
        changes = app.changes() if sealed else []
        app.capture()
        changes += app.changes()
        assert {change.table for change in changes} == {"t"}
        last = brief(changes)[-1][3]
        assert (last["id"], last[column]) == (2, value)
        assert {image["id"] for *_, image in brief(changes)} == {2}


def test_a_default_that_came_back_before_capture_knew_the_column(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run("ALTER TABLE t ADD COLUMN c TEXT DEFAULT 'd'")
        app.put("t", b'{"id":1}', b'{"id":1,"a":"theirs","b":"y","c":"set"}')
        # Under the shape that capture knows it travels without the column.
        app.run("REPLACE INTO t (id, a, b) VALUES (1, 'again', 'y')")
        assert [image for _, image in found(app)] == [{"id": 1, "a": "again", "b": "y"}]
        app.run("UPDATE t SET a = 'once more' WHERE id = 1")
        assert [image for _, image in found(app)] == [{"id": 1, "a": "once more", "b": "y"}]
        app.capture()
        assert [image for _, image in found(app)] == [{"id": 1, "a": "once more", "b": "y", "c": "d"}]
        assert found(app) == []


def test_a_changed_shape_alone_is_no_change_of_rows(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run("INSERT INTO t VALUES (4, NULL, 'y')")
        app.put("t", b'{"id":7}', b'{"id":7,"a":"theirs"}')
        app.changes()
        # What this node wrote itself under a name that is gone is sent again: another may have dropped it before.
        for alter, again in (
            ("ALTER TABLE t ADD COLUMN c NUMERIC NOT NULL DEFAULT '7'", []),
            ("ALTER TABLE t RENAME COLUMN b TO renamed", [4]),
            ("CREATE UNIQUE INDEX t_key ON t (id, a)", []),
        ):
            app.run(alter)
            app.capture()
            assert [image["id"] for _, image in found(app)] == again
        app.run(
            "CREATE TABLE u (id INTEGER PRIMARY KEY, c NUMERIC, a TEXT)",
            "INSERT INTO u SELECT id, c, a FROM t",
            "DROP TABLE t",
            "ALTER TABLE u RENAME TO t",
        )
        app.capture()
        assert found(app) == [("I", {"id": 4, "c": "7", "a": None})]


def test_a_retyped_column_is_sealed_where_its_values_changed(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, "INSERT INTO t VALUES (1, 'x', '7'), (2, 'x', 'seven')") as app:
        app.run(
            "CREATE TABLE u (id INTEGER PRIMARY KEY, a TEXT, b INTEGER)",
            "INSERT INTO u SELECT * FROM t",
            "DROP TABLE t",
            "ALTER TABLE u RENAME TO t",
        )
        app.capture()
        assert found(app) == [("I", {"id": 1, "a": "x", "b": 7})]


ODD = (
    "CREATE TABLE n (k TEXT COLLATE NOCASE, l BLOB, v, PRIMARY KEY (k, l)) WITHOUT ROWID",
    "CREATE TABLE o (rowid TEXT, oid INT, _rowid_ REAL, PRIMARY KEY (rowid, oid))",
    "CREATE TABLE f (k PRIMARY KEY, v REAL, w AS (v * 2))",
)
ODD_ROWS = (
    "INSERT INTO n VALUES ('a', x'00', 1), ('B', x'', -0.0), ('b', x'ff', 'x'), (CAST(x'ff' AS TEXT), x'01', 9e999)",
    "INSERT INTO o VALUES ('a', 1, 1), ('a', 2, 2), ('b', -9223372036854775808, NULL)",
    "INSERT INTO f VALUES (1, 1), (2.5, -0.0), ('2', NULL), (x'', 1e300), (CAST(x'fe' AS TEXT), 2)",
)


@pytest.mark.parametrize("before_migrate", [True, False])
def test_odd_keys_and_values(tmp_path: Path, before_migrate: bool) -> None:
    with sqlite_app(tmp_path / "a.db", *ODD, *(ODD_ROWS if before_migrate else ())) as app:
        if not before_migrate:
            app.run(*ODD_ROWS)
            app.changes()
        app.database.capture().install([])
        app.capture()
        assert app.changes() == []
        app.database.capture().install([])
        app.run(
            "UPDATE n SET k = 'A' WHERE k = 'a'",
            "UPDATE o SET _rowid_ = 3 WHERE oid = 2",
            "DELETE FROM o WHERE oid = 1",
        )
        app.run("DELETE FROM f WHERE k = CAST(x'fe' AS TEXT)", "UPDATE f SET v = 0.0", "INSERT INTO f VALUES (NULL, 1)")
        app.capture()
        changes = [(table, op) for table, op, *_ in brief(app.changes())]
        assert sorted(changes) == [
            ("f", "D"), ("f", "I"), ("f", "I"), ("f", "I"), ("n", "D"), ("n", "I"), ("o", "D"), ("o", "I"),
        ]  # fmt: skip


def test_many_rows_are_compared_in_steps_that_another_process_can_finish(tmp_path: Path) -> None:
    numbers = "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)"
    with sqlite_app(tmp_path / "a.db", T, f"{numbers} INSERT INTO t SELECT i, 'old', i FROM n") as app:
        capture_off(app)
        app.run("UPDATE t SET a = 'missed' WHERE id % 10 = 0", "DELETE FROM t WHERE id > 4990")
        app.capture()
        with closing(open_database(f"sqlite:///{app.path}")) as other:
            other.sealer(NODE).seal(max_changes=10)
        ops = [op for _, op, *_ in brief(app.changes())]
        sealed = app.query("SELECT op, count(*) FROM rf_change_log GROUP BY op")
        assert sealed == [("D", 10), ("I", 499)]
        assert len(ops) <= 509


def test_a_row_written_again_after_capture_came_back_is_sealed_once(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        capture_off(app)
        app.run("UPDATE t SET a = 'missed'")
        app.capture()
        app.run("UPDATE t SET b = 'seen' WHERE id = 1", "DELETE FROM t WHERE id = 2")
        assert sorted((op, key((op, before or after))) for _, op, before, after in brief(app.changes())) == [
            ("D", 2), ("I", 3), ("U", 1),
        ]  # fmt: skip
        assert app.changes() == []


@pytest.mark.parametrize("off", ["paused", "gone"])
def test_a_missed_write_counts_as_unsealed_until_it_is_found(tmp_path: Path, off: str) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        capture, shapes = app.database.capture(), list(app.tables.values())
        app.run("UPDATE t SET a = 'sealed' WHERE id = 3")
        app.changes()
        capture.pause(shapes, 1, "test") if off == "paused" else capture_off(app)
        app.run("UPDATE t SET a = 'missed' WHERE id = 1", "INSERT INTO t VALUES (4, 'missed', 'y')")
        app.run("DELETE FROM t WHERE id = 3")
        capture.resume(["t"], shapes) if off == "paused" else app.capture()
        # Whoever applies a batch now must not write over what no other node has heard of.
        assert unsealed(app) == [True, False, True, True]
        app.changes()
        assert unsealed(app) == [False] * 4


def unsealed(app: SqliteApp) -> list[bool]:
    shape = app.tables["t"]
    with app.database.apply_session() as session:
        states = session.lock(shape, shape.meta, [b'{"id":%d}' % key for key in (1, 2, 3, 4)])
        return [session.unsealed(shape, [state.key]) for state in states]


def test_a_table_with_another_key_begins_anew(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run("UPDATE t SET a = id")
        app.changes()
        app.run(
            "CREATE TABLE u (id INTEGER, a TEXT, b TEXT, PRIMARY KEY (a))",
            "INSERT INTO u SELECT * FROM t",
            "DROP TABLE t",
            "ALTER TABLE u RENAME TO t",
        )
        app.capture()
        assert app.changes() == []


def test_the_digests_of_migrate_may_be_taken_by_whoever_comes_next(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute(T)
        connection.execute(OLD)
        connection.commit()
    with closing(open_database(f"sqlite:///{tmp_path / 'a.db'}")) as database:
        upgrade(database.engine)
        tables = list(database.catalog().tables.values())
        database.capture().install(tables)
        assert database.capture().drifted(tables) == []


def test_what_a_migration_gave_to_rows_beats_nothing_that_somebody_wrote(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run("UPDATE t SET a = 'x' WHERE id = 1")
        app.put("t", b'{"id":7}', b'{"id":7,"a":"theirs","b":"b"}', hlc=5_000)
        (first,) = app.changes()
        app.run(
            "CREATE TABLE u (id INTEGER PRIMARY KEY, a TEXT, stock INTEGER NOT NULL, b BLOB)",
            "INSERT INTO u SELECT id, a, 7, b FROM t",
            "DROP TABLE t",
            "ALTER TABLE u RENAME TO t",
            "UPDATE t SET a = 'missed' WHERE id = 2",
        )
        app.capture()
        sent = {bytes(one.pk): one for one in app.changes()}
        assert sorted(sent) == [b'{"id":1}', b'{"id":2}', b'{"id":3}', b'{"id":7}']
        assert sent[b'{"id":1}'].version == first.version._replace(hlc=first.version.hlc + 1)
        assert sent[b'{"id":3}'].version.hlc == 1
        assert sent[b'{"id":7}'].version.hlc == 5_001
        # This one was written meanwhile, and is as young as what was found.
        assert sent[b'{"id":2}'].version.hlc > first.version.hlc


def test_what_was_sent_under_a_name_that_is_gone_is_sent_again_deletes_too(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, OLD) as app:
        app.run("UPDATE t SET a = 'x' WHERE id = 1", "DELETE FROM t WHERE id = 2")
        app.put("t", b'{"id":7}', b'{"id":7,"a":"theirs","b":"b"}')
        versions = {bytes(one.pk): one.version for one in app.changes()}
        app.run("ALTER TABLE t RENAME TO u")
        app.capture()
        sent = app.changes()
        assert [(one.table, one.op, bytes(one.pk)) for one in sent] == [
            ("u", "I", b'{"id":1}'),
            ("u", "D", b'{"id":2}'),
        ]
        # As if nobody had written meanwhile: whoever did wins.
        assert [one.version.hlc for one in sent] == [versions[bytes(one.pk)].hlc + 1 for one in sent]
        app.run("CREATE UNIQUE INDEX u_key ON u (id, a)")
        app.capture()
        assert [one.op for one in app.changes()] == ["D"]
        app.run("UPDATE rf_row_version SET hlc = hlc - 86400000000")
        app.run("ALTER TABLE u RENAME TO t")
        app.capture()
        assert app.changes() == []
