"""Every value of SQLite in every kind of column to another SQLite and back, through the real command: bit for bit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.exact import sqlite_exact
from tests.support.nodes import CliNode, MakeNode, letters, sqlite_database, sync

SQLITE_TYPES = (
    *("INTEGER", "INT", "BIGINT", "TEXT", "VARCHAR(3)", "BLOB", "", "REAL", "DOUBLE PRECISION", "NUMERIC"),
    *("DECIMAL(10, 2)", "BOOLEAN", "DATE", "TIME", "DATETIME", "TIMESTAMP WITH TIME ZONE", "INTERVAL", "UUID", "JSON"),
    *("STRING", "ANY", "POINT", "money", "nvarchar (10)", "FLOATING POINT"),
)
SQLITE_VALUES = (
    *("NULL", "''", "x''", "0", "1", "-1", "9223372036854775807", "-9223372036854775808", "9007199254740993"),
    *("0.0", "-0.0", "0.1", "0.1 + 0.2", "1e300", "5e-324", "2.2250738585072014e-308", "9e999", "-9e999", "1e17"),
    *("9223372036854775807.0", "-9223372036854775808.0", "123456789012345678.0", "'5'", "' 5 '", "'5.50'", "'1e5'"),
    *("'-0'", "'0x10'", "'9223372036854775808'", "'1e400'", "'nan'", "'Infinity'", "'true'", "'null'", "'NULL'"),
    *("'2026-11-23'", "'2026-02-30'", "'10:20:30.123456'", "'24:00:00'", "'2026-11-23 10:20:30.5'"),
    *("'2026-11-23T10:20:30.5'", "'2026-11-23 10:20:30.5+05:45'", "'2026-11-23 10:20:30Z'", "'P1Y2M3DT4H5M6.7S'"),
    *("'0192f000-0000-7000-8000-000000000001'", "'0192F000-0000-7000-8000-000000000001'", "1763888400", "2460000.5"),
    *('\'{"a":1, "a" :2}\'', "'[1.50]'", "'\"\\u0000\"'", "'é' || char(0x301, 0x1f600, 0x10ffff, 0xfeff)"),
    *("'a' || char(0) || 'b'", "char(0)", "char(0, 0)", "CAST(x'ff' AS TEXT)", "CAST(x'61c3' AS TEXT)"),
    *("CAST(x'eda080' AS TEXT)", "CAST(x'f4908080' AS TEXT)", "CAST(x'c080' AS TEXT)", "CAST(x'00ff00' AS TEXT)"),
    *(
        f"x'{bytes(range(256)).hex()}'",
        "x'00'",
        "zeroblob(100000)",
        "printf('%.*c', 70000, 'x')",
        "char(10, 13, 9, 8, 127)",
    ),
    '\'{"$text":"AA=="}\'',
)
STRICT = {"INT": "int", "INTEGER": "int", "REAL": "real", "TEXT": "text", "BLOB": "blob", "ANY": "any"}


def sqlite_schema() -> Iterator[str]:
    """Tables of one column of each type; with the type as a key; the same STRICT and WITHOUT ROWID."""
    for number, kind in enumerate(SQLITE_TYPES):
        yield f"CREATE TABLE plain{number} (id INTEGER PRIMARY KEY, v {kind}, turn)"
        yield f"CREATE TABLE key{number} (k {kind} NOT NULL, turn, PRIMARY KEY (k))"
        yield f"CREATE TABLE pair{number} (k {kind}, l {kind}, turn, PRIMARY KEY (l, k)) WITHOUT ROWID"
    for number, kind in enumerate(STRICT):
        yield f"CREATE TABLE strict{number} (id INT PRIMARY KEY NOT NULL, v {kind}, turn INT) STRICT"
        yield f"CREATE TABLE strictkey{number} (k {kind} PRIMARY KEY, turn INT) STRICT, WITHOUT ROWID"


def sqlite_tables() -> list[str]:
    plain = [f"{kind}{number}" for number in range(len(SQLITE_TYPES)) for kind in ("plain", "key", "pair")]
    return plain + [f"{kind}{number}" for number in range(len(STRICT)) for kind in ("strict", "strictkey")]


def write_every_class(database: str) -> None:
    """Put every value into every column; what SQLite itself refuses (NULL in a key, a STRICT type) is left out."""
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"))) as connection:
        for table in sqlite_tables():
            for number, value in enumerate(SQLITE_VALUES):
                if table.startswith(("plain", "strict")) and not table.startswith("strictkey"):
                    statement = f"INSERT OR IGNORE INTO {table} VALUES ({number}, {value}, 0)"
                elif table.startswith("pair"):
                    statement = f"INSERT OR IGNORE INTO {table} VALUES ({value}, {value}, {number})"
                else:
                    statement = f"INSERT OR IGNORE INTO {table} VALUES ({value}, {number})"
                with suppress(sqlite3.IntegrityError):  # INTEGER PRIMARY KEY and STRICT take one class each
                    connection.execute(statement)
        connection.commit()


def differing(a: CliNode, b: CliNode) -> dict[str, Any]:
    ours, theirs = sqlite_exact(a.database, sqlite_tables()), sqlite_exact(b.database, sqlite_tables())
    return {
        name: (
            sorted(set(ours[name]) - set(theirs[name]), key=repr),
            sorted(set(theirs[name]) - set(ours[name]), key=repr),
        )
        for name in ours
        if ours[name] != theirs[name]
    }


@pytest.mark.heavy
def test_every_sqlite_value_in_every_column_there_and_back(nodes: MakeNode, tmp_path: Path) -> None:
    exchange = ("--directory", str(tmp_path / "exchange"))
    schema = list(sqlite_schema())
    a, b = (nodes(name, sqlite_database(tmp_path, f"{name}.db", schema), *exchange) for name in ("a", "b"))
    for node in (a, b):
        node.ok("migrate")
    write_every_class(a.database)
    original = {name: rows for name, rows in sqlite_exact(a.database, sqlite_tables()).items() if name[:5] == "plain"}
    sync(a, b)
    assert differing(a, b) == {}
    b.execute(*(f"UPDATE {name} SET turn = turn + 100" for name in sqlite_tables()))
    sync(b, a)
    assert differing(a, b) == {}
    again = sqlite_exact(a.database, list(original))
    assert {name: [row[:2] for row in rows] for name, rows in again.items()} == {
        name: [row[:2] for row in rows] for name, rows in original.items()
    }
    # Rows are found by their keys, whatever class these have.
    b.execute(*(f"DELETE FROM {name} WHERE turn % 2 = 0" for name in sqlite_tables()))
    b.execute(*(f"UPDATE {name} SET turn = 'x'" for name in sqlite_tables() if not name.startswith("strict")))
    sync(b, a)
    assert differing(a, b) == {}
    assert letters(a) == letters(b) == []
