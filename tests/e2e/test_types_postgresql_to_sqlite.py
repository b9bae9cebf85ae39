"""Every type of PostgreSQL to SQLite and back, through the real command: as documented.

Each value stands in a row of its own. What the other database can't hold is a dead letter with reason `type`, and all
other rows still arrive.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.exact import connected, postgres_exact
from tests.support.nodes import CliNode, MakeNode, letters, sqlite_database, sync
from tests.support.postgresql_values import HOSTILE, OWN_TYPES, PG_TABLES, PG_VALUES

IN_SQLITE = {
    **dict.fromkeys(("smallint", "integer", "bigint"), "INTEGER"),
    **dict.fromkeys(("real", "double precision"), "REAL"),
    "boolean": "BOOLEAN",
    "bytea": "BLOB",
    "date": "DATE",
    **dict.fromkeys(("time", "time(3)"), "TIME"),
    **dict.fromkeys(("timestamp", "timestamp(0)"), "TIMESTAMP"),
    **dict.fromkeys(("timestamptz", "timestamptz(2)"), "TIMESTAMP WITH TIME ZONE"),
    **dict.fromkeys(("interval", "interval day to second(3)", "interval year"), "INTERVAL"),
    "uuid": "UUID",
    "json": "JSON",
    "jsonb": "TEXT",
    "numeric(20,4)": "NUMERIC",
    "positive": "DECIMAL(12,3)",
}
"""TEXT for all others, the way docs/DB_SYNC_POLICY.md has it."""
NOT_IN_SQLITE = {
    "numeric(20,4)": ("'NaN'", "1234567890123456.7891"),
    "real": ("'NaN'",),
    "double precision": ("'NaN'",),
    "json": ("'1.50'", "' 7 '"),
}


def write_one_by_one(node: CliNode, tables: dict[str, str]) -> None:
    """Insert every value in a transaction of its own, from a hostile session."""
    with connected(node.database, autocommit=True) as connection:
        for name, kind in tables.items():
            for number, value in enumerate((*PG_VALUES[kind], "NULL")):
                connection.execute(
                    f"CREATE TEMP TABLE made_{name}_{number} AS SELECT CAST({value} AS {kind}) AS v".encode()
                )
        for setting in HOSTILE:
            connection.execute(setting.encode())
        for name, kind in tables.items():
            for number in range(len(PG_VALUES[kind]) + 1):
                made = f"SELECT {number}, v, 0 FROM made_{name}_{number}"
                connection.execute(f"INSERT INTO public.{name} {made}".encode())


@pytest.mark.heavy
def test_postgresql_to_sqlite_and_back(nodes: MakeNode, pg_database: str, tmp_path: Path) -> None:
    exchange = ("--directory", str(tmp_path / "exchange"))
    office = nodes("office", pg_database, *exchange)
    office.execute(*OWN_TYPES)
    office.execute(
        *(f"CREATE TABLE {name} (id int PRIMARY KEY, v {kind}, turn int)" for name, kind in PG_TABLES.items())
    )
    create = [
        f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, v {IN_SQLITE.get(kind, 'TEXT')}, turn INTEGER)"
        for name, kind in PG_TABLES.items()
    ]
    shop = nodes("shop", sqlite_database(tmp_path, "shop.db", create), *exchange)
    for node in (office, shop):
        node.ok("migrate")
    write_one_by_one(office, PG_TABLES)
    texts = {name: f"SELECT id, v::text, turn FROM {name} ORDER BY id" for name in PG_TABLES}
    original = postgres_exact(office.database, texts)
    sync(office, shop, code=4)

    arrived = {name: [row[0] for row in shop.query(f"SELECT id FROM {name} ORDER BY id")] for name in PG_TABLES}
    missing = {
        kind: tuple(value for number, value in enumerate(PG_VALUES[kind]) if number not in arrived[name])
        for name, kind in PG_TABLES.items()
    }
    assert {kind: values for kind, values in missing.items() if values} == {k: v for k, v in NOT_IN_SQLITE.items() if v}
    refused = [(name, "type") for name, kind in PG_TABLES.items() for _ in NOT_IN_SQLITE.get(kind, ())]
    assert letters(shop) == sorted(refused)

    shop.execute(*(f"UPDATE {name} SET turn = turn + 100" for name in PG_TABLES))
    sync(shop, office)
    assert letters(office) == []
    back = postgres_exact(office.database, texts)
    bent = {}
    for name, kind in PG_TABLES.items():
        for before, after in zip(original[name], back[name], strict=True):
            came = int(before[0]) in arrived[name]
            assert int(after[2]) == (100 if came else 0), f"{kind} {before} {after}"
            if before[1] != after[1]:
                bent[kind, PG_VALUES[kind][int(before[0])]] = after[1]
    # SQLite itself writes -0.0 to a REAL column as 0: the same number, another sign.
    assert bent == {("real", "'-0'"): b"0", ("double precision", "'-0'"): b"0"}


def test_equal_numbers_that_sqlite_writes_in_another_way(nodes: MakeNode, pg_database: str, tmp_path: Path) -> None:
    """What docs/reference/types-sqlite.md says of zeros at the end, for which a TEXT column helps, and of the sign of a
    zero, for which none does."""
    exchange = ("--directory", str(tmp_path / "exchange"))
    names = "d, d2, d_text, f, f_text"
    office = nodes("office", pg_database, *exchange)
    office.execute(
        "CREATE TABLE v (id int PRIMARY KEY, d numeric, d2 numeric(10,2), d_text numeric, f float8, f_text float8,"
        " turn int)"
    )
    create = (
        "CREATE TABLE v (id INTEGER PRIMARY KEY, d NUMERIC, d2 DECIMAL(10,2), d_text TEXT, f DOUBLE, f_text TEXT,"
        " turn INTEGER)"
    )
    shop = nodes("shop", sqlite_database(tmp_path, "shop.db", [create]), *exchange)
    for node in (office, shop):
        node.ok("migrate")
    texts = f"SELECT {', '.join(f'{name}::text' for name in names.split(', '))} FROM v ORDER BY id"
    for number, (decimal, real) in enumerate((("1.50", "-0"), ("100.00", "-0"), ("-0.10", "0"))):
        given = ", ".join([f"'{decimal}'"] * 3 + [f"'{real}'"] * 2)
        office.execute(f"INSERT INTO v VALUES ({number}, {given}, 0)")
    sync(office, shop)

    assert shop.query(f"SELECT {', '.join(f'quote({name})' for name in names.split(', '))} FROM v ORDER BY id") == [
        ("1.5", "1.5", "'1.50'", "0.0", "'0.0'"),
        ("100", "100", "'100.00'", "0.0", "'0.0'"),
        ("-0.1", "-0.1", "'-0.10'", "0.0", "'0.0'"),
    ]
    # Nothing comes back by itself.
    sync(shop, office)
    assert office.query(texts) == [
        ("1.50", "1.50", "1.50", "-0", "-0"),
        ("100.00", "100.00", "100.00", "-0", "-0"),
        ("-0.10", "-0.10", "-0.10", "0", "0"),
    ]
    shop.execute("UPDATE v SET turn = turn + 1")
    sync(shop, office)
    assert office.query(texts) == [
        ("1.5", "1.50", "1.50", "0", "0"),
        ("100", "100.00", "100.00", "0", "0"),
        ("-0.1", "-0.10", "-0.10", "0", "0"),
    ]
    assert [letters(node) for node in (office, shop)] == [[], []]
    assert [node.report("conflicts", "list") for node in (office, shop)] == [[], []]
