"""Every type of SQLite to PostgreSQL and back, through the real command: as documented.

Each value stands in a row of its own. What the other database can't hold is a dead letter with reason `type`, and all
other rows still arrive.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.exact import postgres_exact, sqlite_exact
from tests.support.nodes import MakeNode, letters, sqlite_database, sync
from tests.support.postgresql_values import OWN_TYPES

REFUSED = None
IN_POSTGRESQL: dict[tuple[str, str], dict[str, str | None]] = {
    ("INTEGER", "bigint"): {
        "9223372036854775807": "9223372036854775807",
        "-9223372036854775808": "-9223372036854775808",
        "'abc'": REFUSED,
        "1.5": REFUSED,
        "9e999": REFUSED,
        "x'31'": REFUSED,
        "''": REFUSED,
    },
    ("INT", "smallint"): {"32767": "32767", "32768": REFUSED},
    ("INTEGER", "boolean"): {"1": "true", "0": "false", "2": REFUSED},
    ("INTEGER", "numeric(5,2)"): {"123": "123.00", "1000": REFUSED, "1.25": "1.25", "1.255": REFUSED},
    ("REAL", "double precision"): {
        "0.1 + 0.2": "0.30000000000000004",
        "5e-324": "5e-324",
        "1e300": "1e+300",
        "9e999": "Infinity",
        "-9e999": "-Infinity",
        "3": "3",
        "'abc'": REFUSED,
        "x'00'": REFUSED,
    },
    ("REAL", "real"): {"0.5": "0.5", "0.1 + 0.2": REFUSED, "1e300": REFUSED},
    ("REAL", "numeric"): {"0.1": "0.1", "5e-324": f"0.{'0' * 323}5", "9e999": "Infinity"},
    ("", "double precision"): {"x'00'": REFUSED},
    ("", "bytea"): {"x'00'": "\\x00", "'a'": REFUSED},
    ("NUMERIC", "numeric(12,4)"): {
        "1.5": "1.5000",
        "'2.50'": "2.5000",
        "0.1 + 0.2": REFUSED,
        "123456789": REFUSED,
        "'abc'": REFUSED,
        "9e999": REFUSED,
    },
    ("DECIMAL(10,2)", "money"): {"1.5": "$1.50"},
    ("TEXT", "text"): {
        "''": "",
        "'null'": "null",
        "12": "12",
        "1.5": "1.5",
        "'e' || char(0x301, 0x1f600, 0x10ffff, 0xfeff, 0x2028)": "e\u0301\U0001f600\U0010ffff\ufeff\u2028",
        "'a' || char(0) || 'b'": REFUSED,
        "CAST(x'ff61' AS TEXT)": REFUSED,
        "CAST(x'eda080' AS TEXT)": REFUSED,
        "x'61'": REFUSED,
        "x''": REFUSED,
    },
    ("TEXT", "varchar(3)"): {"'abc'": "abc", "'abcd'": REFUSED, "'ab  '": REFUSED, "'äöü'": "äöü"},
    ("TEXT", "char(3)"): {"'ab'": "ab", "'abcd'": REFUSED},
    ("TEXT", "numeric"): {f"'{'1' * 1000}.{'9' * 1000}'": f"{'1' * 1000}.{'9' * 1000}", "'x'": REFUSED},
    ("TEXT", "uuid"): {
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "'x'": REFUSED,
    },
    ("TEXT", "inet"): {"'10.0.0.1/8'": "10.0.0.1/8", "'10.0.0.1/33'": REFUSED},
    ("TEXT", "mood"): {"'sad'": "sad", "'glad'": REFUSED},
    ("TEXT", "int[]"): {"'{1,NULL}'": "{1,NULL}", "'1,2'": REFUSED},
    ("TEXT", "int4range"): {"'[1,5)'": "[1,5)"},
    ("TEXT", "positive"): {"'1.5'": "1.500", "'-1'": REFUSED, "'1.2345'": REFUSED},
    ("TEXT", '"char"'): {"'a'": "a"},
    ("TEXT", "name"): {"'abc'": "abc"},
    ("TEXT", "date[]"): {"'{2026-11-23}'": "{2026-11-23}"},
    ("TEXT", "tsrange"): {"'[2026-11-23 10:00,)'": '["2026-11-23 10:00:00",)'},
    ("TEXT", "varchar(2)[]"): {"'{ab}'": "{ab}", "'{abc}'": REFUSED},
    ("TEXT", "numeric(4,1)[]"): {"'{1.5}'": "{1.5}", "'{1.25}'": REFUSED},
    ("TEXT", "real[]"): {"'{0.5}'": "{0.5}"},
    ("TEXT", "point"): {"'(1,2)'": "(1,2)"},
    ("TEXT", "bit(3)"): {"'101'": "101", "'1011'": REFUSED},
    ("TEXT", "double precision"): {"'0.5'": "0.5", "'0.12345678901234567891'": REFUSED, "'1e-400'": REFUSED},
    ("TEXT", "bigint"): {"'5'": "5", "'5.0'": REFUSED},
    ("TEXT", "boolean"): {"'true'": "true", "'t'": "true", "'yes'": REFUSED, "'on'": REFUSED},
    ("TEXT", "interval"): {"'P1D'": "P1D", "'1 day'": "P1D"},
    ("TEXT", "bytea"): {"'abc'": REFUSED, "''": REFUSED},
    ("BLOB", "bytea"): {"x''": "\\x", "x'00ff5c27'": "\\x00ff5c27", "'abc'": REFUSED, "5": REFUSED, "1.5": REFUSED},
    ("BOOLEAN", "boolean"): {
        "1": "true",
        "0": "false",
        "2": REFUSED,
        "'true'": "true",
        "'maybe'": REFUSED,
        "0.5": REFUSED,
    },
    ("DATE", "date"): {
        "'2026-11-23'": "2026-11-23",
        "'2026-02-30'": REFUSED,
        "'23.11.2026'": REFUSED,
        "'today'": REFUSED,
        "'2026-11-23 00:00:00'": REFUSED,
        "'infinity'": "infinity",
        "1763888400": REFUSED,
        "20261123": REFUSED,
        "''": REFUSED,
    },
    ("TIME", "time"): {"'10:20:30.123456'": "10:20:30.123456", "'10:20:30.1234567'": REFUSED, "'25:00:00'": REFUSED},
    ("DATETIME", "timestamp"): {
        "'2026-11-23 10:20:30.000001'": "2026-11-23 10:20:30.000001",
        "'2026-11-23T10:20:30'": "2026-11-23 10:20:30",
        "'2026-11-23 10:20:30+02:00'": REFUSED,
        "'now'": REFUSED,
        "1763888400": REFUSED,
        "2460000.5": REFUSED,
    },
    ("DATETIME", "timestamptz"): {
        "'2026-11-23 10:20:30'": "2026-11-23 10:20:30+00",
        "'2026-11-23 10:20:30+05:45'": "2026-11-23 04:35:30+00",
    },
    ("TIMESTAMP WITH TIME ZONE", "timestamptz"): {
        "'2026-11-23 10:20:30.5+05:45'": "2026-11-23 04:35:30.5+00",
        "'2026-11-23 10:20:30Z'": "2026-11-23 10:20:30+00",
    },
    ("TIMESTAMP WITH TIME ZONE", "timestamp"): {"'2026-11-23 10:20:30+02:00'": REFUSED},
    ("INTERVAL", "interval"): {"'P1Y2M3DT4H5M6.7S'": "P1Y2M3DT4H5M6.7S", "'x'": REFUSED},
    ("UUID", "uuid"): {
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'": REFUSED,
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "5": REFUSED,
    },
    ("JSON", "json"): {
        '\'{"a":1, "a" :2}\'': '{"a":1, "a" :2}',
        "'null'": "null",
        "5": "5",
        "'\"\\u0000\"'": '"\\u0000"',
        "'{'": REFUSED,
        "x'7b7d'": REFUSED,
    },
    ("JSON", "jsonb"): {"'null'": "null", "'{\"b\":1}'": '{"b": 1}', "'\"\\u0000\"'": REFUSED},
}
"""What a SQLite column and a PostgreSQL column of one name make of a value."""
SHOWN_ANEW: dict[tuple[str, str, str], object] = {
    ("DECIMAL(10,2)", "money", "1.5"): ("text", b"$1.50"),
    ("TEXT", "char(3)", "'ab'"): ("text", b"ab "),
    ("TEXT", "positive", "'1.5'"): ("text", b"1.500"),
    ("TEXT", "tsrange", "'[2026-11-23 10:00,)'"): ("text", b'["2026-11-23 10:00:00",)'),
    ("TEXT", "boolean", "'true'"): ("text", b"1"),
    ("TEXT", "boolean", "'t'"): ("text", b"1"),
    ("TEXT", "interval", "'1 day'"): ("text", b"P1D"),
    ("BOOLEAN", "boolean", "'true'"): ("integer", 1),
    ("DATETIME", "timestamp", "'2026-11-23T10:20:30'"): ("text", b"2026-11-23 10:20:30"),
    ("DATETIME", "timestamptz", "'2026-11-23 10:20:30'"): ("text", b"2026-11-23 10:20:30+00:00"),
    ("DATETIME", "timestamptz", "'2026-11-23 10:20:30+05:45'"): ("text", b"2026-11-23 04:35:30+00:00"),
    ("TIMESTAMP WITH TIME ZONE", "timestamptz", "'2026-11-23 10:20:30.5+05:45'"): (
        "text",
        b"2026-11-23 04:35:30.5+00:00",
    ),
    ("TIMESTAMP WITH TIME ZONE", "timestamptz", "'2026-11-23 10:20:30Z'"): ("text", b"2026-11-23 10:20:30+00:00"),
    ("JSON", "jsonb", "'{\"b\":1}'"): ("text", b'{"b": 1}'),
}
"""The same value in the form PostgreSQL writes it, once a program there has changed the row."""


@pytest.mark.heavy
def test_sqlite_to_postgresql_and_back(nodes: MakeNode, pg_database: str, tmp_path: Path) -> None:
    exchange = ("--directory", str(tmp_path / "exchange"))
    tables = {f"t{number}": pair for number, pair in enumerate(IN_POSTGRESQL)}
    create = [
        f"CREATE TABLE {name} (id INTEGER PRIMARY KEY, v {pair[0]}, turn INTEGER)" for name, pair in tables.items()
    ]
    shop = nodes("shop", sqlite_database(tmp_path, "shop.db", create), *exchange)
    office = nodes("office", pg_database, *exchange)
    office.execute(*OWN_TYPES)
    office.execute(
        *(f"CREATE TABLE {name} (id int PRIMARY KEY, v {pair[1]}, turn int)" for name, pair in tables.items())
    )
    for node in (shop, office):
        node.ok("migrate")
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        for name, pair in tables.items():
            for number, value in enumerate((*IN_POSTGRESQL[pair], "NULL")):
                connection.execute(f"INSERT INTO {name} VALUES ({number}, {value}, 0)")
                connection.execute("INSERT INTO rf_mark DEFAULT VALUES")
                connection.commit()
    original = sqlite_exact(shop.database, list(tables))
    sync(shop, office, code=4)

    found = postgres_exact(office.database, {name: f"SELECT id, v::text FROM {name} ORDER BY id" for name in tables})
    wrong = {}
    for name, pair in tables.items():
        wanted: dict[str, str | None] = {**IN_POSTGRESQL[pair], "NULL": "<NULL>"}
        there = {int(row[0]): "<NULL>" if row[1] is None else bytes(row[1]).decode() for row in found[name]}
        is_there = {value: there.get(number) for number, value in enumerate(wanted)}
        wrong |= {(*pair, value): (is_there[value], text) for value, text in wanted.items() if is_there[value] != text}
    assert not wrong, "\n".join(f"{key}: (is, should be) {value}" for key, value in wrong.items())
    refused = [text for pair in tables.values() for text in IN_POSTGRESQL[pair].values() if text is None]
    # A domain's CHECK is a rule of that database.
    reasons = Counter(reason for _, reason in letters(office))
    assert reasons == {"type": len(refused) - 1, "constraint": 1}

    office.execute(*(f"UPDATE {name} SET turn = turn + 100" for name in tables))
    sync(office, shop)
    assert letters(shop) == []
    bent = {}
    for name, rows in sqlite_exact(shop.database, list(tables)).items():
        literals = [*IN_POSTGRESQL[tables[name]], "NULL"]
        for before, after in zip(original[name], rows, strict=True):
            if before[1] != after[1]:
                bent[(*tables[name], literals[int(str(before[0][1]))])] = after[1]
    assert bent == SHOWN_ANEW, "\n".join(f"{key}: {value}" for key, value in bent.items())
