"""What a database holds, bit for bit, read by the driver alone and never through Rowferry."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

import psycopg

Exact = tuple[str, object]
"""A value's class and its bytes."""

FIXED = (
    "SET datestyle = 'ISO, YMD'",
    "SET intervalstyle = 'iso_8601'",
    "SET timezone = 'UTC'",
    "SET extra_float_digits = 3",
    "SET bytea_output = 'hex'",
    "SET lc_monetary = 'C'",
)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def sqlite_exact(database: str, tables: Sequence[str]) -> dict[str, list[tuple[Exact, ...]]]:
    """Return the rows of `tables` in an order of their own; a REAL by its bits, all else by class and bytes."""
    found = {}
    with closing(sqlite3.connect(database.removeprefix("sqlite:///"), timeout=30)) as connection:
        connection.text_factory = bytes
        for table in tables:
            columns = [row[1].decode() for row in connection.execute(f"PRAGMA table_xinfo({quoted(table)})")]
            shown = ", ".join(f"typeof({quoted(name)}), {quoted(name)}" for name in columns)
            rows = connection.execute(f"SELECT {shown} FROM {quoted(table)}").fetchall()
            found[table] = sorted(
                (tuple(_exact(*row[place : place + 2]) for place in range(0, len(row), 2)) for row in rows), key=repr
            )
    return found


def _exact(kind: bytes, value: object) -> Exact:
    name = kind.decode()
    return name, struct.pack(">d", value).hex() if name == "real" else value


def postgres_exact(database: str, queries: Mapping[str, str]) -> dict[str, list[tuple[object, ...]]]:
    """Return what each query gives, twice: the text form under fixed settings, and the server's binary form."""
    with connected(database) as connection:
        for setting in FIXED:
            connection.execute(setting.encode())
        return {name: _both_forms(connection, query) for name, query in queries.items()}


def _both_forms(connection: psycopg.Connection[Any], query: str) -> list[tuple[object, ...]]:
    rows: list[list[object]] = []
    for binary in (False, True):
        with connection.cursor(binary=binary) as cursor:
            cursor.execute(query.encode())
            result = cursor.pgresult
            assert result is not None
            if not rows:
                rows = [[] for _ in range(result.ntuples)]
            for number, row in enumerate(rows):
                row += [result.get_value(number, column) for column in range(result.nfields)]
    return [tuple(row) for row in rows]


def connected(database: str, **options: Any) -> psycopg.Connection[Any]:
    """Connect as an application does, without SQLAlchemy between."""
    return psycopg.connect(database.replace("postgresql+psycopg", "postgresql"), **options)
