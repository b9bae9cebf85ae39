"""A database with many tables: what a node looks at again and again takes time by their number, not by its square."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from common.dialects.sqlite.catalog import SchemaCache, read_schema
from common.dialects.sqlite.renamed import renamed_tables
from common.dialects.sqlite.shapes import touch_logs
from common.dialects.sqlite.triggers import guards_by_table, table_of_trigger
from tests.support.applying import application, close_world, open_world, sqlite_url
from tests.support.cli import rowferry

FEW, MANY = 100, 400
_LOOKS: dict[str, Callable[[sqlite3.Connection], object]] = {
    "schema": read_schema,
    "touch logs": touch_logs,
    "renamed tables": renamed_tables,
}


def steps_of_looks(folder: Path, tables: int) -> dict[str, int]:
    """Return how many steps of SQLite's machine each look takes, in thousands."""
    ddl = [f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY, v TEXT UNIQUE)" for number in range(tables)]
    url = sqlite_url(folder, f"{tables}.db")
    close_world(open_world(url, ddl))
    found = {}
    with closing(sqlite3.connect(str(sa.make_url(url).database))) as connection:
        for name, look in _LOOKS.items():
            steps = 0

            def step() -> None:
                nonlocal steps
                steps += 1

            look(connection)
            connection.set_progress_handler(step, 10)
            look(connection)
            connection.set_progress_handler(None, 0)
            found[name] = steps
    return found


def test_looks_take_time_by_the_number_of_tables(tmp_path: Path) -> None:
    few, many = steps_of_looks(tmp_path, FEW), steps_of_looks(tmp_path, MANY)
    for name, steps in few.items():
        assert 0 < many[name] < 1.5 * MANY / FEW * steps, (name, few, many)


def test_triggers_are_told_apart_by_their_number() -> None:
    names = ["rf_1_guard_insert (x)", "rf_11_guard_update (y)", "rf_1_after_insert (x)", "rf_mark", "rf_x_1"]
    assert guards_by_table(names) == {1: [names[0]], 11: [names[1]]}
    assert [table_of_trigger(name) for name in names] == [1, 11, 1, None, None]


def test_of_many_tables_the_first_are_named(tmp_path: Path) -> None:
    url = sqlite_url(tmp_path, "app.db")
    with application(sa.make_url(url)) as connection:
        for number in range(10, 40):
            connection.exec_driver_sql(f"CREATE TABLE t{number} (id INTEGER PRIMARY KEY)")
            connection.exec_driver_sql(f"INSERT INTO t{number} VALUES (1)")
    config = tmp_path / "rowferry.toml"
    config.write_text(f'[node]\nid = "shop"\ndatabase = "{url}"\n')
    told = rowferry(config, "migrate")
    assert told.exit_code == 0, told.output
    for output in (told.stderr, rowferry(config, "status").stderr):
        assert "t10, t11, t12, t13, t14, t15, t16, t17, t18, t19 and 20 more number their own keys" in output
    assert "t19 and 20 more have rows already" in told.stderr
    assert SchemaCache().read(sqlite3.connect(tmp_path / "app.db")).catalog.tables["t39"].numbers_itself
