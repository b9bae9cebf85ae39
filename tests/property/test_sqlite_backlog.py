"""A backlog that is sealed in pieces is what it would be in one go: same txs, same changes, same versions.

The pieces are as small as they can be, so that a few touches are a backlog.
`ROWFERRY_SEEDS=100:200` runs those seeds."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.dialects import open_database
from common.dialects.sqlite import backlog, looking
from common.dialects.sqlite.catalog import SchemaCache
from common.dialects.sqlite.sealing import SqliteSealer
from common.schema.migrate import upgrade
from tests.support.applying import TestClock
from tests.support.sqlite_app import NODE, changes_of
from tests.support.sqlite_oracle import APPLICATION_TRIGGERS, SCHEMA, RandomSql, run_transaction

_SEEDS = range(*map(int, os.environ.get("ROWFERRY_SEEDS", "0:4").split(":")))
_ODD = (
    "CREATE TABLE odd (k BLOB, j, a, PRIMARY KEY (k, j)) WITHOUT ROWID",
    "CREATE TABLE loose (k PRIMARY KEY COLLATE NOCASE, a TEXT)",
)
_LOG_OF_ODD = "SELECT shape_id FROM rf_table WHERE name = 'odd'"
_VALUES = ("1", "1.0", "'a'", "'A'", "x'61'", "CAST(x'ff' AS TEXT)", "9007199254740993", "9007199254740992.0", "-0.0")


@pytest.fixture(params=_SEEDS)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A captured database with many transactions, some of them named, that nobody has sealed."""
    dice, path = random.Random(request.param), tmp_path / "a.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as application:
        application.text_factory = bytes
        application.execute("PRAGMA journal_mode = WAL")
        for statement in (*SCHEMA, *_ODD):
            application.execute(statement)
        for trigger in dice.sample(APPLICATION_TRIGGERS, dice.randrange(len(APPLICATION_TRIGGERS))):
            application.execute(trigger)
        database = open_database(f"sqlite:///{path}")
        upgrade(database.engine)
        sql, names = RandomSql(dice), dice.random() < 0.7
        # Some rows are older than capture, some were sealed before.
        for _ in range(3):
            run_transaction(application, sql, 3)
        database.capture().install(list(database.catalog().tables.values()))
        for _ in range(3):
            run_transaction(application, sql, 3)
        while database.sealer(NODE).seal().more:
            pass
        for _ in range(40):
            run_transaction(application, sql, dice.choice((1, 2, 3)))
            for statement in odd_statements(dice):
                application.execute(statement)
            if dice.random() < 0.3:
                # As comparing notes a row that was written while capture was off.
                (log,) = application.execute(_LOG_OF_ODD).fetchone()
                key = f"{dice.choice(_VALUES)}, {dice.choice(_VALUES)}"
                application.execute(
                    f"INSERT INTO rf_log_{log} (kind, at, c0, c1) VALUES ('B', julianday('now'), {key})"
                )
            if names and dice.random() < 0.4:
                application.execute("INSERT INTO rf_mark DEFAULT VALUES")
        application.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
    return path


def odd_statements(dice: random.Random) -> list[str]:
    k, j, other = (dice.choice(_VALUES) for _ in range(3))
    return dice.sample(
        [
            f"INSERT OR REPLACE INTO odd VALUES ({k}, {j}, {other})",
            f"UPDATE OR IGNORE odd SET k = {other} WHERE k = {k}",
            f"DELETE FROM odd WHERE k = {k} AND j = {j}",
            f"INSERT OR REPLACE INTO loose VALUES ({k}, {dice.randrange(9)})",
            f"UPDATE OR IGNORE loose SET k = {other} WHERE k = {k}",
            "INSERT OR IGNORE INTO loose VALUES (NULL, 'nameless')",
            f"DELETE FROM loose WHERE k = {k}",
        ],
        3,
    )


def sealed(path: Path, target: Path) -> dict[str, Any]:
    """Seal a copy of the database, and return what came of it: whatever order a tx has inside."""
    shutil.copyfile(path, target)
    database = open_database(f"sqlite:///{target}")
    try:
        sealer = SqliteSealer(database.engine, SchemaCache(), NODE, TestClock(1_900_000_000_000_000))
        while sealer.seal(20).more:
            pass
        txs = []
        for tx in database.log(NODE).read(0, 2**40):
            changes = changes_of([tx])
            assert [one.lsn for one in changes] == list(range(tx.header.from_lsn, tx.header.to_lsn + 1))
            assert {one.tx_id for one in changes} == {tx.header.tx_id}
            rows = [
                (one.table, bytes(one.pk), one.op, bytes(one.before), bytes(one.after), one.version, one.base)
                for one in changes
            ]
            assert len({row[:2] for row in rows}) == len(rows), "one change a row and tx"
            txs.append(
                (
                    tx.header.grouped,
                    tx.header.from_lsn,
                    tx.header.to_lsn,
                    set(tx.header.tables),
                    sorted(map(repr, rows)),
                )
            )
        with database.engine.connect() as connection:
            tables = ("rf_row_version", "rf_mark", "rf_mark_bound", "rf_seal")
            stored = {
                name: sorted(map(repr, connection.exec_driver_sql(f"SELECT * FROM {name}"))) for name in tables[:3]
            }
            logs = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name LIKE 'rf!_log!_%' ESCAPE '!'")
            left = [connection.exec_driver_sql(f"SELECT count(*) FROM {name}").scalar() for (name,) in logs.fetchall()]
            letters = connection.exec_driver_sql(
                "SELECT table_name, reason, changes, sha256 FROM rf_dead_letter ORDER BY tx_id"
            ).fetchall()
            aside = connection.exec_driver_sql("SELECT name FROM sqlite_temp_master").fetchall()
    finally:
        database.close()
    assert not any(left), "touches are left"
    assert aside == [], "copies are left"
    return {"txs": txs, "stored": stored, "letters": sum(one[2] for one in letters)}


@pytest.mark.parametrize(("most", "page"), [(1, 1), (1, 7), (30, 3), (200, 50)])
def test_in_pieces_as_in_one_go(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, page: int
) -> None:
    whole = sealed(written, tmp_path / "whole.db")
    assert whole["txs"], "a backlog of nothing proves nothing"
    monkeypatch.setattr(looking, "MOST_HELD", most)
    monkeypatch.setattr(backlog, "_PAGE", page)
    assert sealed(written, tmp_path / "pieces.db") == whole
