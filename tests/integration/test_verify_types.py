"""Rows that travelled between kinds of databases are equal there, however each writes its values."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.applying import sqlite_url
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
