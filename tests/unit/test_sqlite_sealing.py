"""Sealing on real files: marks, versions along a chain of transactions, several looks, large txs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import NoReturn

import pytest
import sqlalchemy as sa

from common.dialects.sqlite import backlog, looking, numbering, sealing
from common.dialects.sqlite.catalog import SchemaCache
from common.dialects.sqlite.looks import Look
from common.dialects.sqlite.net import Followers, Segment
from common.dialects.sqlite.sealing import SqliteSealer
from common.errors import OutageError, RowferryError
from common.versions import Version
from tests.support.applying import TestClock
from tests.support.sqlite_app import NODE, SqliteApp, brief, changes_of, sqlite_app

T = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT)"
U = "CREATE TABLE u (id TEXT PRIMARY KEY, t INTEGER)"
MARK = "INSERT INTO rf_mark DEFAULT VALUES"


def test_all_that_is_committed_between_two_looks_is_one_grouped_tx(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, U) as app:
        app.run("INSERT INTO t VALUES (1, 'x')")
        app.run("UPDATE t SET a = 'y'", "INSERT INTO u VALUES ('k', 1)")
        (tx,) = app.seal()
        assert tx.header.grouped
        assert brief(changes_of([tx])) == [
            ("t", "I", None, {"id": 1, "a": "y"}),
            ("u", "I", None, {"id": "k", "t": 1}),
        ]


def test_named_transactions_come_out_one_by_one(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, U) as app:
        app.run("INSERT INTO t VALUES (1, 'x')", "INSERT INTO u VALUES ('k', 1)", MARK)
        app.run("UPDATE t SET a = 'y'", MARK)
        app.run("UPDATE t SET id = 2", "DELETE FROM u", MARK)
        app.run("UPDATE t SET a = a", MARK)
        app.run("UPDATE t SET a = 'z'")
        txs = app.seal()
        assert [tx.header.grouped for tx in txs] == [False, False, False, True]
        assert [brief(changes_of([tx])) for tx in txs] == [
            [("t", "I", None, {"id": 1, "a": "x"}), ("u", "I", None, {"id": "k", "t": 1})],
            [("t", "U", {"id": 1, "a": "x"}, {"id": 1, "a": "y"})],
            [
                ("t", "D", {"id": 1, "a": "y"}, None),
                ("t", "I", None, {"id": 2, "a": "y"}),
                ("u", "D", {"id": "k", "t": 1}, None),
            ],
            [("t", "U", {"id": 2, "a": "y"}, {"id": 2, "a": "z"})],
        ]
        first, second, third, _ = (changes_of([tx]) for tx in txs)
        assert second[0].base == first[0].version
        assert third[0].base == second[0].version
        assert [tx.header.prev_lsn for tx in txs] == [0, 2, 3, 6]
        assert sorted(tx.header.tx_id for tx in txs) == [tx.header.tx_id for tx in txs]
        for table in ("rf_mark", "rf_mark_bound", "rf_log_1", "rf_log_2"):
            assert app.query(f"SELECT count(*) FROM {table}") == [(0,)]


def test_a_mark_that_is_rolled_back_names_nothing(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        with pytest.raises(sqlite3.IntegrityError):
            app.run("INSERT INTO t VALUES (1, 'x')", MARK, "INSERT INTO t VALUES (1, 'x')")
        app.run("INSERT INTO t VALUES (2, 'x')")
        (tx,) = app.seal()
        assert tx.header.grouped


def test_many_named_transactions_are_stored_in_short_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_CHANGES_A_LOCK", 15)
    with sqlite_app(tmp_path / "a.db", T) as app:
        for number in range(20):
            app.run(f"INSERT INTO t VALUES ({number}, 'x')", MARK)
        report = app.database.sealer(NODE).seal(max_changes=5)
        assert (report.txs, report.changes, report.last_lsn, report.more) == (6, 6, 6, True)
        assert len(app.seal()) == 14
        lsns = [change.lsn for change in changes_of(list(app.database.log(NODE).read(0, 2**30)))]
        assert lsns == list(range(1, 21))


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_backlog_is_read_once_and_sealed_in_several_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    monkeypatch.setattr(sealing, "_CHANGES_A_LOCK", 15)
    looks = []
    real = sealing.segments
    monkeypatch.setattr(sealing, "segments", lambda look, followers: looks.append(look) or real(look, followers))
    with sqlite_app(tmp_path / "a.db", T) as app:
        for number in range(20):
            app.run(f"INSERT INTO t VALUES ({number}, 'x')", MARK)
        sealer = app.database.sealer(NODE)
        assert sealer.seal(max_changes=5).txs > 0
        app.run("UPDATE t SET a = 'y'", MARK)
        if interrupted:
            app.database.sealer(NODE).seal(max_changes=5)
        looked = len(looks)
        reports = [sealer.seal(max_changes=5)]
        while reports[-1].more:
            reports.append(sealer.seal(max_changes=5))
        # One more look, for what came meanwhile.
        assert len(looks) == looked + 1
        found = changes_of(list(app.database.log(NODE).read(0, 2**30)))
        assert [change.lsn for change in found] == list(range(1, 41))
        rows = [(change.op, bytes(change.pk)) for change in found]
        keys = [b'{"id":%d}' % number for number in range(20)]
        assert rows == [("I", key) for key in keys] + [("U", key) for key in keys]


def test_what_comes_between_look_and_lock_is_another_tx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x')")
        real = sealing.segments

        def slow(look: Look, followers: Followers | None) -> list[Segment]:
            monkeypatch.setattr(sealing, "segments", real)
            app.run("UPDATE t SET a = 'y'", "INSERT INTO t VALUES (2, 'x')")
            return real(look, followers)

        monkeypatch.setattr(sealing, "segments", slow)
        app.database.sealer(NODE).seal()
        first, second = (brief(changes_of([tx])) for tx in (*app.database.log(NODE).read(0, 2**30), *app.seal()))
        assert first == [("t", "I", None, {"id": 1, "a": "x"})]
        assert second == [("t", "U", {"id": 1, "a": "x"}, {"id": 1, "a": "y"}), ("t", "I", None, {"id": 2, "a": "x"})]


def test_a_second_sealer_that_was_faster_makes_the_first_look_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x')")
        real = sealing.segments

        def overtaken(look: Look, followers: Followers | None) -> list[Segment]:
            monkeypatch.setattr(sealing, "segments", real)
            assert app.database.sealer(NODE).seal().txs == 1
            return real(look, followers)

        monkeypatch.setattr(sealing, "segments", overtaken)
        report = app.database.sealer(NODE).seal()
        assert (report.txs, report.more) == (0, True)
        assert len(list(app.database.log(NODE).read(0, 2**30))) == 1


def test_changes_that_cancel_out_leave_no_tx(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run(
            "INSERT INTO t VALUES (1, 'x')", "DELETE FROM t", "INSERT OR IGNORE INTO t VALUES (1, 'x')", "DELETE FROM t"
        )
        assert app.seal() == []
        assert app.query("SELECT count(*) FROM rf_log_1") == [(0,)]
        assert app.database.log(NODE).head().lsn == 0


def test_the_time_of_a_change_is_the_triggers_and_not_the_sealers(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x')")
        SqliteSealer(app.database.engine, SchemaCache(), NODE, TestClock(1_000_000)).seal()
        (tx,) = app.database.log(NODE).read(0, 2**30)
        (change,) = changes_of([tx])
        assert tx.header.exported_at == "1970-01-01T00:00:01.000000Z"
        assert (change.captured_at or "") > "2026"
        assert change.version == Version(0, change.version.hlc, "here")


def test_a_deleted_row_leaves_its_version(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x')")
        (first,) = app.changes()
        app.run("DELETE FROM t")
        (second,) = app.changes()
        rows = app.query("SELECT key, hlc, node_id, base_hlc, base_node, deleted FROM rf_row_version")
        assert rows == [("[1]", second.version.hlc, "here", first.version.hlc, "here", 1)]


def test_rows_from_before_capture_have_the_first_version_as_base(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, "INSERT INTO t VALUES (1, 'x'), (2, 'x')") as app:
        app.run("UPDATE t SET a = 'y' WHERE id = 1", "DELETE FROM t WHERE id = 2", "INSERT INTO t VALUES (3, 'x')")
        assert [(one.op, one.base) for one in app.changes()] == [
            ("U", Version(0, 0, "")), ("D", Version(0, 0, "")), ("I", None)
        ]  # fmt: skip


def test_a_reader_may_stand_in_the_middle_of_a_large_tx(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)"
                " INSERT INTO t SELECT i, hex(zeroblob(300)) FROM n")  # fmt: skip
        (tx,) = app.seal()
        assert tx.header.to_lsn == 3000
        lines = tx.lines()
        next(lines)
        app.run("DELETE FROM t WHERE id < 10")
        assert len(app.changes()) == 9
        assert sum(1 for _ in lines) == 2999


def test_other_connections_may_write_while_a_look_is_taken(tmp_path: Path) -> None:
    with (
        sqlite_app(tmp_path / "a.db", T, wal=False) as app,
        closing(sqlite3.connect(app.path, timeout=0, isolation_level=None)) as other,
    ):
        app.run("INSERT INTO t VALUES (1, 'x')")
        txs = app.database.log(NODE).read(0, 2**30)
        app.seal()
        next(txs)
        other.execute("INSERT INTO t VALUES (2, 'x')")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three touches are a backlog, and are read two by two."""
    monkeypatch.setattr(looking, "MOST_HELD", 2)
    monkeypatch.setattr(backlog, "_PAGE", 2)


def grouped_rows(app: SqliteApp) -> list[tuple[bool, int]]:
    return [(tx.header.grouped, len(changes_of([tx]))) for tx in app.database.log(NODE).read(0, 2**30)]


@pytest.mark.usefixtures("few")
def test_a_transaction_that_is_too_long_to_be_held_is_one_tx(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T, U) as app:
        app.run("INSERT INTO t VALUES (1, 'x'), (2, 'x'), (3, 'x')", "INSERT INTO u VALUES ('k', 1)", MARK)
        app.run("UPDATE t SET a = 'y'", MARK)
        app.run("UPDATE t SET a = 'z' WHERE id = 2", MARK)
        app.run("DELETE FROM t", "INSERT INTO t VALUES (1, 'again')")
        txs = app.seal()
        assert [(tx.header.grouped, len(changes_of([tx]))) for tx in txs] == [
            (False, 4), (False, 3), (False, 1), (True, 3)
        ]  # fmt: skip
        assert brief(changes_of(txs[3:])) == [
            ("t", "U", {"id": 1, "a": "y"}, {"id": 1, "a": "again"}),
            ("t", "D", {"id": 2, "a": "z"}, None),
            ("t", "D", {"id": 3, "a": "y"}, None),
        ]
        assert app.query("SELECT count(*) FROM rf_log_1") == [(0,)]


@pytest.mark.usefixtures("few")
def test_a_backlog_that_was_overtaken_is_looked_at_again(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        for number in range(4):
            app.run(f"INSERT INTO t VALUES ({number}, 'x'), ({number + 10}, 'x'), ({number + 20}, 'x')", MARK)
        slow, fast = app.database.sealer(NODE), app.database.sealer(NODE)
        assert (slow.seal(1).changes, fast.seal(1).changes) == (3, 3)
        app.run("UPDATE t SET a = 'y'")
        assert slow.seal(1).more
        app.seal()
        assert grouped_rows(app) == [(False, 3)] * 4 + [(True, 12)]


@pytest.mark.usefixtures("few")
def test_a_full_temporary_folder_is_named_and_nothing_is_half_done(tmp_path: Path) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)"
                " INSERT INTO t SELECT i, hex(zeroblob(300)) FROM n")  # fmt: skip
        full: list[int] = []

        def connect(raw: sqlite3.Connection, _: object) -> None:
            raw.execute(f"PRAGMA temp.max_page_count = {full[-1]}")

        sa.event.listen(app.database.engine, "connect", connect)
        # Room for nothing, for the copies, for some of the lines.
        for pages in (1, 100, 500):
            full.append(pages)
            app.database.engine.dispose()
            with pytest.raises(OutageError, match="SQLITE_TMPDIR"):
                app.database.sealer(NODE).seal()
            assert app.database.log(NODE).head().lsn == 0
        full.append(1_000_000)
        app.database.engine.dispose()
        app.seal()
        assert grouped_rows(app) == [(True, 2000)]


@pytest.mark.usefixtures("few")
def test_what_fails_half_way_through_a_backlog_leaves_the_connection_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite_app(tmp_path / "a.db", T) as app:
        app.run("INSERT INTO t VALUES (1, 'x'), (2, 'x'), (3, 'x'), (4, 'x'), (5, 'x')")
        real = numbering.read_bases

        def broken(*_: object) -> NoReturn:
            monkeypatch.setattr(numbering, "read_bases", real)
            raise sqlite3.OperationalError("no such luck")

        monkeypatch.setattr(numbering, "read_bases", broken)
        with pytest.raises(RowferryError, match="no such luck"):
            app.database.sealer(NODE).seal()
        with app.database.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT name FROM sqlite_temp_master").fetchall() == []
        app.seal()
        assert grouped_rows(app) == [(True, 5)]


def test_capture_is_installed_anew_between_the_pieces_of_a_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "_CHANGES_A_LOCK", 1)
    mark = "INSERT INTO rf_mark DEFAULT VALUES"
    with sqlite_app(tmp_path / "a.db", T, "CREATE TABLE u (id INTEGER PRIMARY KEY, a TEXT)") as app:
        app.run("INSERT INTO t VALUES (1, 'x')", mark)
        app.run("INSERT INTO u VALUES (1, 'x')", mark)
        sealer = app.database.sealer(NODE)
        assert sealer.seal(1).more
        app.run("ALTER TABLE t ADD COLUMN came TEXT")
        # What was captured under the old shape is sealed, so its touch log goes.
        app.capture()
        assert sealer.seal(1).changes == 1
