"""Rows that travelled between kinds of databases are equal there, however each writes its values."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.applying import sqlite_url
from tests.support.cli import call
from tests.support.verifying import Pair, made_pair

POSTGRESQL = (
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE TABLE thing (id bigint PRIMARY KEY, flag boolean, price numeric(12, 4), ratio double precision, small real,"
    " name text, code char(6), raw bytea, day date, clock time, stamp timestamp, at timestamptz, span interval,"
    " ref uuid, doc json, docb jsonb, mood mood, tags text[])",
    "CREATE TABLE named (key numeric(9, 2), word text, value text, PRIMARY KEY (key, word))",
)
SQLITE = (
    "CREATE TABLE thing (id INTEGER PRIMARY KEY, flag BOOLEAN, price NUMERIC, ratio REAL, small REAL,"
    " name TEXT, code TEXT, raw BLOB, day DATE, clock TIME, stamp DATETIME, at TIMESTAMPTZ, span INTERVAL,"
    " ref UUID, doc JSON, docb JSON, mood TEXT, tags TEXT)",
    "CREATE TABLE named (key NUMERIC, word TEXT, value TEXT, PRIMARY KEY (key, word))",
)
_COLUMNS = 17


@pytest.mark.containers
@pytest.mark.parametrize("main_is", ["sqlite", "postgresql"])
def test_values_of_all_types_are_equal_after_their_way(
    main_is: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    urls = sqlite_url(tmp_path, "app.db"), request.getfixturevalue("pg_database")
    if main_is == "postgresql":
        with made_pair(tmp_path, urls[1], urls[0], POSTGRESQL, SQLITE) as pair:
            _compare(pair, pair.main.world.execute, pair.branch.execute)
        return
    with made_pair(tmp_path, urls[0], urls[1], SQLITE, POSTGRESQL) as pair:
        _compare(pair, pair.branch.execute, pair.main.world.execute)


def _compare(pair: Pair, on_postgresql: object, on_sqlite: object) -> None:
    on_postgresql(  # type: ignore[operator]
        "INSERT INTO thing VALUES (1, true, 1.5000, 0.1, 0.1, 'ä', 'ab', '\\x0001', '2026-11-23', '12:00:00.50',"
        " '2026-11-23 09:00:00.100', '2026-11-23 09:00:00+02', '1 year 2 days 90 minutes',"
        ' \'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11\', \'{"b": 1.0,  "a": [1e2]}\', \'{"b": 1.50, "a": null}\','
        " 'ok', '{a,\"b c\"}')",
        "INSERT INTO thing (id) VALUES (2)",
        "INSERT INTO thing (id, flag, price, ratio) VALUES (9007199254740993, false, 0, '-Infinity')",
        "INSERT INTO named VALUES (1.50, '1.50', '1.50'), (2, 'é', NULL)",
    )
    on_sqlite(  # type: ignore[operator]
        "INSERT INTO thing VALUES (11, 0, 2.5, 2, 0.25, 'x', 'cd', x'ff', '2026-01-01', '01:02:03.500',"
        " '2026-01-01 00:00:00.120000', '2026-01-01 00:00:00+01:00', 'P1W',"
        " 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{\"z\":1, \"y\":2.50}', '{\"z\":1, \"y\":2.50}', 'sad', '{q}')",
        "INSERT INTO named VALUES (3.25, 'w', '3.250')",
    )
    pair.sync()
    found = pair.verify()
    assert (found["rows"], found["equal"]) == ([], True)
    assert {one["table"]: (one["rows_here"], one["rows_there"]) for one in found["tables"]} == {
        "thing": (4, 4),
        "named": (3, 3),
    }
    # Each column counts.
    for column, value in (
        ("flag", "1=0"),
        ("price", "1.5001"),
        ("name", "'a'"),
        ("code", "'abc'"),
        ("clock", "'12:00:00.51'"),
    ):
        pair.damage_branch(f"UPDATE thing SET {column} = {value} WHERE id = 1")
        assert [one["pk"]["id"] for one in pair.verify(code=4)["rows"]] == [1], column
        assert pair.verify("--repair")["equal"], column


@pytest.mark.containers
@pytest.mark.parametrize("main_is", ["sqlite", "postgresql"])
def test_columns_that_take_anything_beside_columns_of_a_type(
    main_is: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A SQLite column without a type counts as bytes, and mostly holds something else: that is what comes."""
    urls = sqlite_url(tmp_path, "app.db"), request.getfixturevalue("pg_database")
    typed = ("CREATE TABLE loose (id text PRIMARY KEY, name text, stock bigint, price numeric, made date)",)
    loose = ("CREATE TABLE loose (id PRIMARY KEY, name, stock, price, made)",)
    is_sqlite = main_is == "sqlite"
    with made_pair(
        tmp_path, *(urls if is_sqlite else urls[::-1]), *((loose, typed) if is_sqlite else (typed, loose))
    ) as pair:
        on_main, on_branch = pair.main.world, pair.branch
        on_sqlite, on_typed = (on_main, on_branch) if is_sqlite else (on_branch, on_main)
        on_sqlite.execute(
            "INSERT INTO loose VALUES ('a', 'tea', 5, 1.25, '2026-11-29'), ('YWJj', 'YWJj', -7, 2, NULL),"
            " ('n', NULL, NULL, '1.50', NULL), ('ü', '😀', 9007199254740993, NULL, NULL)"
        )
        on_typed.execute("INSERT INTO loose VALUES ('p', 'YWJj', 6, 0.10, '2026-01-01')")
        pair.sync()
        shown = "SELECT id, name, stock, CAST(price AS text), CAST(made AS text) FROM loose ORDER BY id"
        assert sorted(on_typed.query(shown)) == [
            ("YWJj", "YWJj", -7, "2", None),
            ("a", "tea", 5, "1.25", "2026-11-29"),
            ("n", None, None, "1.50", None),
            ("p", "YWJj", 6, "0.10", "2026-01-01"),
            ("ü", "😀", 9007199254740993, None, None),
        ]
        assert pair.verify()["equal"]
        for change in ("name = x'616263' WHERE id = 'a'", "made = 'one day' WHERE id = 'n'"):
            on_sqlite.execute(f"UPDATE loose SET {change}")
            for _ in range(2):
                call(pair.branch, "run", "--once")
        errors = [error for (error,) in on_typed.query("SELECT error FROM rf_dead_letter ORDER BY tx_id")]
        assert errors == [
            "column 'name' of table 'loose' can't hold the bytes \"YWJj\"",
            "value one day does not fit column made date [SQLSTATE 22P02]",
        ]
