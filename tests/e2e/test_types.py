"""Every type there and back through the real command: between equal databases bit for bit, else as documented.

Each value stands in a row of its own. What the other database can't hold is a dead letter with reason `type`, and all
other rows still arrive.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.exact import connected, postgres_exact, sqlite_exact
from tests.support.nodes import CliNode

MakeNode = Callable[..., CliNode]

HOSTILE = (
    "SET datestyle = 'SQL, DMY'",
    "SET intervalstyle = 'sql_standard'",
    "SET timezone = 'Asia/Kathmandu'",
    "SET extra_float_digits = -15",
    "SET bytea_output = 'escape'",
    "SET lc_monetary = 'C.UTF-8'",
    "SET xmloption = document",
    "SET search_path = evil, public",
    "SET standard_conforming_strings = off",
    "SET escape_string_warning = off",
    "SET transform_null_equals = on",
)
OWN_TYPES = (
    "CREATE SCHEMA evil",
    "CREATE FUNCTION evil.to_json(anyelement) RETURNS json LANGUAGE sql AS $$ SELECT '1'::json $$",
    "CREATE FUNCTION evil.encode(bytea, text) RETURNS text LANGUAGE sql AS $$ SELECT 'bent' $$",
    "CREATE TYPE mood AS ENUM ('sad', 'O''K, \"really\"', '', 'null')",
    'CREATE TYPE "Pair of" AS (x int, "y z" text, at timestamptz)',
    'CREATE TYPE nested AS (p "Pair of", m mood[])',
    "CREATE TYPE span AS RANGE (subtype = float8)",
    "CREATE DOMAIN positive AS numeric(12,3) CHECK (VALUE > 0)",
    "CREATE DOMAIN days AS date[]",
    "CREATE DOMAIN over_domain AS positive DEFAULT 7",
)
EVERY_BYTE = "decode('" + bytes(range(256)).hex() + "', 'hex')"
UNICODE = (
    "''",
    "'null'",
    "' '",
    "U&'e\\0301 vs \\00e9'",
    "U&'\\+01F469\\200D\\+01F467 \\+10FFFF \\+020000'",
    "U&'\\FEFFbom \\2028 \\2029 \\FFFF \\FFFE \\0085'",
    "U&'\\202Ertl\\202C'",
    "E'a\\nb\\r\\n\\t\\\"\\\\ \\x01\\x1f\\x7f\\b\\f/'",
    "repeat(U&'\\+01F600', 20000)",
    '\'{"$text":"AA=="}\'',
    "'$1 %s :name ?'",
)

PG_VALUES: dict[str, tuple[str, ...]] = {
    "smallint": ("-32768", "32767", "0"),
    "integer": ("-2147483648", "2147483647"),
    "bigint": ("-9223372036854775808", "9223372036854775807", "9007199254740993"),
    "oid": ("4294967295", "0"),
    "numeric": (
        "0.1",
        "1.500",
        "0.000",
        "-0.0",
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
        f"{'9' * 1000}.{'1' * 1000}",
        "1e-1000",
        "1e130000",
        "'-12345678901234567890.12345678901234567890'",
    ),
    "numeric(20,4)": ("12345678901234.5600", "'NaN'", "-0.0001", "1234567890123456.7891"),
    "numeric(5,-2)": ("1234500",),
    "numeric(2,6)": ("0.000012",),
    "real": ("0.1", "'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "3.4028235e38", "1e-45", "16777217"),
    "double precision": (
        "0.1",
        "'NaN'",
        "'Infinity'",
        "'-Infinity'",
        "'-0'",
        "1.7976931348623157e308",
        "2.2250738585072014e-308",
        "5e-324",
        "0.1::float8 + 0.2",
        "1e22",
        "123456789012345680000",
    ),
    "boolean": ("true", "false"),
    "text": UNICODE,
    "varchar(5)": ("'abc  '", "'äöüß€'", "''", "U&'\\+01F600\\+01F600\\+01F600\\+01F600\\+01F600'"),
    "char(6)": ("'ab'", "'ab    '", "''", "'      '"),
    "bytea": ("''", EVERY_BYTE, "'\\x00'", "'\\xff0a5c22'", "decode(repeat('00fe', 60000), 'hex')"),
    "date": ("'2026-11-23'", "'0044-03-15 BC'", "'infinity'", "'-infinity'", "'5874897-12-31'", "'4714-11-24 BC'"),
    "time": ("'00:00'", "'24:00:00'", "'12:34:56.789012'", "'23:59:59.999999'"),
    "time(3)": ("'12:34:56.789'",),
    "timetz": ("'12:34:56.789012+05:45'", "'24:00-15:59:59'", "'00:00Z'"),
    "timestamp": (
        "'2026-11-23 09:00:00.000001'",
        "'infinity'",
        "'-infinity'",
        "'4713-01-01 00:00 BC'",
        "'294276-12-31 23:59:59.999999'",
        "'2026-03-29 02:30'",
    ),
    "timestamp(0)": ("'2026-11-23 09:00:00'",),
    "timestamptz": (
        "'2026-11-23 09:00:00.5+05:45'",
        "'infinity'",
        "'-infinity'",
        "'0044-03-15 12:00+00 BC'",
        "'1900-01-01 00:00:00+01:23:45'",
        "'294276-12-31 23:59:59.999999+00'",
        "'2026-10-25 02:30 Europe/Berlin'",
    ),
    "timestamptz(2)": ("'2026-11-23 09:00:00.12+00'",),
    "interval": (
        "'1 year -2 mons +3 days -04:05:06.789'",
        "'0'",
        "'-1 day'",
        "'178000000 years'",
        "'1.000001 s'",
        "'-0.000001 s'",
        "'-1 mon +1 day'",
        "'2562047788:00:54.775807'",
    ),
    "interval day to second(3)": ("'3 days 4.125 s'",),
    "interval year": ("'5 years'",),
    "uuid": ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'FFFFFFFF-ffff-ffff-ffff-ffffffffffff'"),
    "json": (
        "'null'",
        '\'{"a":1, "a" :2}\'',
        "'\"\\u0000\"'",
        "'  [1.50, 1e5, 123456789012345678901234567890.10]\n'",
        "'\"text\"'",
        "'5'",
        "'1.50'",
        "' 7 '",
        '\'{"\\ud83d\\ude00":"\\ud83d\\ude00", "\\u0065":"/\\/"}\'',
        "'\"\"'",
    ),
    "jsonb": ("'null'", '\'{"b":[1,{"c":null}],"a":1.10}\'', "'1.50'", "'\"\"'", "'true'", "('1' || repeat('0', 500))"),
    "int[]": ("'{}'", "'{1,NULL,3}'", "'[0:1][-1:0]={{1,2},{3,4}}'", "'[-5:-5]={NULL}'", "'{{{1}},{{2}}}'"),
    "text[]": ("ARRAY['', 'NULL', NULL, 'null', 'a,\"b\\', '{}', ' ', E'\\n']", "'{}'"),
    "varchar(3)[]": ('\'{abc," a",""}\'',),
    "timestamptz[]": ("ARRAY['2026-11-23 09:00+05:45'::timestamptz, 'infinity']",),
    "float8[]": ("ARRAY[0.1::float8 + 0.2, 'NaN', '-0', '-Infinity']",),
    "bytea[]": ("ARRAY['\\x00ff'::bytea, '\\x', NULL, '\\x5c22']",),
    "interval[]": ("ARRAY['-1 mon +2 days -3:04'::interval]",),
    "numeric(6,2)[]": ("'{1.50,-2}'",),
    "char(3)[]": ("'{a,bcd}'",),
    "json[]": ('ARRAY[\'null\'::json, NULL, \'{"a": 1, "a":"\\u0000"}\']',),
    "money[]": ("ARRAY['-12.34'::money, '1,234,567.89'::money]",),
    "mood[]": ("ARRAY['sad', 'O''K, \"really\"', '', 'null', NULL]::mood[]",),
    "mood": ("'sad'", "'O''K, \"really\"'", "''", "'null'"),
    '"Pair of"': ("ROW(1, NULL, NULL)", "ROW(NULL, NULL, NULL)", "ROW(2, 'a,\"(b)\\', '2026-11-23 09:00+05:45')"),
    '"Pair of"[]': ("ARRAY[ROW(1, '', 'infinity')::\"Pair of\", NULL]",),
    "nested": ("ROW(ROW(1, 'x', '2026-01-01 00:00+00')::\"Pair of\", '{sad,NULL}'::mood[])", "ROW(NULL, '{}')"),
    "span": ("'[0.1,0.30000000000000004)'", "'empty'", "'(-Infinity,]'"),
    "int4range": ("'[1,5)'", "'(,)'", "'empty'", "'[2147483646,2147483647)'"),
    "daterange": ("'[2026-11-23,infinity]'", "'[0044-03-15 BC,)'"),
    "tsrange": ("'[2026-11-23 09:00:00.000001, infinity)'",),
    "tstzrange": ("'[2026-11-23 09:00+05:45, infinity)'",),
    "nummultirange": ("'{[1.50,2),(3,)}'", "'{}'"),
    "int8multirange[]": ("ARRAY['{[1,3),[5,9)}'::int8multirange, '{}']",),
    "positive": ("12.500",),
    "over_domain": ("0.001",),
    "days": ("'[3:4]={2026-11-23,infinity}'",),
    "money": ("'-92233720368547758.08'", "12.34::numeric", "'1,234,567.89'"),
    "inet": ("'10.0.0.1'", "'10.0.0.1/8'", "'::ffff:1.2.3.4/128'", "'fe80::1/64'"),
    "cidr": ("'10.0.0.0/8'", "'::/0'"),
    "macaddr": ("'08:00:2b:01:02:03'",),
    "macaddr8": ("'08:00:2b:01:02:03:04:05'",),
    "bit(5)": ("B'10101'", "B'00000'"),
    "varbit": ("B''", "B'1011'"),
    "tsvector": ("$$a:1A 'b c':2,3 '''':4$$",),
    "tsquery": ("'a & !b <-> c:*A'",),
    "xml": ("'<a>&lt;</a>'", "xmlparse(content 'text<b/>')"),
    "point": ("'(0.1,-0)'",),
    "path": ("'[(0,0),(1,0.1)]'", "'((0,0),(1,0.30000000000000004))'"),
    "circle": ("'<(0.1,0.2),3>'",),
    "pg_lsn": ("'FFFFFFFF/1'",),
    "jsonpath": ("'$.a ? (@ > 1)'",),
    "name": ("'pg''name'",),
    '"char"': ("'x'", "'\\377'", "''"),
    "xid8": ("'18446744073709551615'",),
}
"""What `json_build_object`, a driver, or a session's settings would like to change."""
# A number of a type that was made in this database stands inside: two databases number theirs differently.
NO_BINARY = ("mood[]", '"Pair of"[]', "nested")


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[MakeNode]:
    made: list[CliNode] = []

    def make(node_id: str, database: str, *options: str) -> CliNode:
        made.append(CliNode.init(node_id, tmp_path / node_id, database, *options))
        return made[-1]

    yield make
    for node in made:
        node.close()


def sync(*way: CliNode, code: int = 0) -> None:
    """Each node of `way` in turn sends and takes what there is; the last one may set things aside."""
    for node in way[:-1]:
        node.ok("run", "--once")
    way[-1].ok("run", "--once", code=code)


def letters(node: CliNode) -> list[tuple[str, str]]:
    """Table and reason of every dead letter."""
    return sorted((str(one["table_name"]), one["reason"]) for one in node.report("dlq", "list", "--all"))


def sqlite_database(tmp_path: Path, name: str, statements: Sequence[str]) -> str:
    with closing(sqlite3.connect(tmp_path / name)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{tmp_path / name}"


# PostgreSQL to PostgreSQL ---------------------------------------------------------------------------------------------

PG_TABLES = {f"t{number}": kind for number, kind in enumerate(PG_VALUES)}
PG_KEYS = (
    *("bigint", "real", "double precision", "boolean", "text", "varchar(5)", "char(6)"),
    *("bytea", "date", "time", "timetz", "timestamp", "timestamptz", "uuid", "jsonb", "int[]", "text[]", "bytea[]"),
    *("mood", '"Pair of"', "int4range", "span", "tstzrange", "nummultirange", "money", "inet", "cidr"),
    *("macaddr", "bit(5)", "varbit", "oid", "pg_lsn", "name", '"char"', "xid8", "tsvector"),
)
KEY_TABLES = {f"k{number}": kind for number, kind in enumerate(PG_KEYS)}


def pg_schema() -> Iterator[str]:
    yield from OWN_TYPES
    for name, kind in PG_TABLES.items():
        yield f"CREATE TABLE {name} (id int PRIMARY KEY, v {kind}, turn int)"
    for name, kind in KEY_TABLES.items():
        yield f"CREATE TABLE {name} (k {kind} PRIMARY KEY, turn int)"


def write_everything(node: CliNode) -> None:
    """Insert every value, and NULL, from a session whose settings bend all that settings can bend."""
    with connected(node.database) as connection:
        for name, kind in {**PG_TABLES, **KEY_TABLES}.items():
            # Made under plain settings, so that the literal means what stands above; written under hostile ones.
            for number, value in enumerate((*PG_VALUES[kind], "NULL")):
                made = f"CREATE TEMP TABLE made_{name}_{number} AS SELECT CAST({value} AS {kind}) AS v"
                connection.execute(made.encode())
        for setting in HOSTILE:
            connection.execute(setting.encode())
        for name, kind in PG_TABLES.items():
            for number in range(len(PG_VALUES[kind]) + 1):
                connection.execute(
                    f"INSERT INTO public.{name} SELECT {number}, v, 0 FROM made_{name}_{number}".encode()
                )
        for name, kind in KEY_TABLES.items():
            for number in range(len(PG_VALUES[kind])):
                statement = f"INSERT INTO public.{name} SELECT v, {number} FROM made_{name}_{number}"
                connection.execute(f"{statement} ON CONFLICT DO NOTHING".encode())


def pg_contents(node: CliNode) -> dict[str, list[tuple[object, ...]]]:
    """Every value's text and binary form."""
    texts = {name: f"SELECT id, v::text, turn FROM {name} ORDER BY id" for name in PG_TABLES}
    whole = {
        f"{name} itself": f"SELECT id, v FROM {name} ORDER BY id"
        for name, kind in PG_TABLES.items()
        if kind not in NO_BINARY
    }
    keys = {name: f"SELECT * FROM {name} ORDER BY k::text" for name, kind in KEY_TABLES.items()}
    return postgres_exact(node.database, {**texts, **whole, **keys})


def same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    kinds = {**PG_TABLES, **KEY_TABLES}
    different = {f"{kinds.get(name.split()[0], '')} ({name})" for name in wanted if found[name] != wanted[name]}
    assert not different, "\n".join(
        f"{name}: {kinds[name.split()[0]]}\n  is {found[name]}\n  not {wanted[name]}"
        for name in wanted
        if found[name] != wanted[name]
    )[:8000]


def there_and_back(a: CliNode, b: CliNode) -> None:
    """A's values go to B, B's programs touch each row, and all comes back to A unbent."""
    write_everything(a)
    original = pg_contents(a)
    sync(a, b)
    same(pg_contents(b), original)
    tables = {**PG_TABLES, **KEY_TABLES}
    with connected(b.database) as connection:
        for setting in HOSTILE:
            connection.execute(setting.encode())
        for name in tables:
            connection.execute(f"UPDATE public.{name} SET turn = turn + 100".encode())
    touched = pg_contents(b)
    sync(b, a)
    same(pg_contents(a), touched)
    shown = {name: f"SELECT v::text FROM {name} ORDER BY id" for name in PG_TABLES}
    a_now = postgres_exact(a.database, shown)
    assert a_now == {name: [(row[1], row[4]) for row in original[name]] for name in PG_TABLES}

    # Rows are found by their keys: half of them go, the rest move to NULL.
    with connected(a.database) as connection:
        for setting in HOSTILE:
            connection.execute(setting.encode())
        for name in KEY_TABLES:
            connection.execute(f"DELETE FROM public.{name} WHERE turn % 2 = 0".encode())
            connection.execute(f"UPDATE public.{name} SET turn = NULL".encode())
    sync(a, b)
    same(pg_contents(b), pg_contents(a))
    assert letters(a) == letters(b) == []
    assert b.query("SELECT count(*) FROM rf_conflict") == a.query("SELECT count(*) FROM rf_conflict") == [(0,)]


def pg_pair(nodes: MakeNode, databases: Any, *options: str) -> tuple[CliNode, CliNode]:
    a, b = nodes("a", databases(), *options), nodes("b", databases(), *options)
    for node in (a, b):
        node.execute(*(statement.replace("%", "%%") for statement in pg_schema()))
        node.ok("migrate")
    return a, b


@pytest.mark.heavy
def test_every_postgresql_type_there_and_back(nodes: MakeNode, pg_database_factory: Any, tmp_path: Path) -> None:
    a, b = pg_pair(nodes, pg_database_factory, "--directory", str(tmp_path / "exchange"))
    there_and_back(a, b)


@pytest.mark.heavy
def test_every_postgresql_type_through_rabbitmq(nodes: MakeNode, pg_database_factory: Any, rabbitmq_url: str) -> None:
    a, b = pg_pair(nodes, pg_database_factory, "--broker", rabbitmq_url)
    write_everything(a)
    sync(a, b)
    same(pg_contents(b), pg_contents(a))


# SQLite to SQLite -----------------------------------------------------------------------------------------------------

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


# PostgreSQL to SQLite and back ----------------------------------------------------------------------------------------

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


# SQLite to PostgreSQL and back ----------------------------------------------------------------------------------------

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
    ("UUID", "uuid"): {"'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "5": REFUSED},
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
    ("UUID", "uuid", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'"): ("text", b"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
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
