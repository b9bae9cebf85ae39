"""Batches with words and numbers that no column takes: each is set aside, and what comes behind it is applied."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.dialects import open_database
from common.errors import ConfigError, PoisonError, Reason
from common.retry import in_transaction
from common.wire.records import TableMeta
from tests.support.applying import (
    SCHEMA,
    TABLES,
    Origin,
    World,
    Write,
    close_world,
    open_world,
    resealed,
    sqlite_url,
)

NUL = b"\\u0000"
HUGE = b"1" + b"0" * 30
OWN_TYPES = (
    "CREATE EXTENSION cube",
    "CREATE EXTENSION seg",
    "CREATE DOMAIN cents AS numeric(6,2)",
    "CREATE TYPE pair AS (price cents, day date)",
    "CREATE TYPE span AS RANGE (subtype = float8)",
)
SUM = b'"tx_sha256":"' + b"0" * 64 + b'","part":1,'


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({b'"item"': b'"it' + NUL + b'em"'}, Reason.UNKNOWN_TABLE),
        ({b'"item"': b'"nothing"', b'"exported_at":"': b'"exported_at":"' + NUL}, Reason.UNKNOWN_TABLE),
        ({b'"type":"batch",': b'"type":"batch","requires":["' + NUL + b'"],'}, Reason.REQUIRES),
        ({b'"changes":1': b'"changes":2147483648'}, Reason.CHECKSUM),
        ({b'"changes":1': b'"changes":' + HUGE}, Reason.CHECKSUM),
        ({b'"part":1,"parts":1': SUM + b'"parts":2147483648'}, Reason.LIMIT),
        ({b'"part":1,"parts":1': SUM + b'"parts":' + HUGE}, Reason.LIMIT),
    ],
)
def test_what_no_column_takes_stops_nothing(world: World, changed: dict[bytes, bytes], reason: Reason) -> None:
    body = Origin("a").put(1, "strange", 1).body
    for old, new in changed.items():
        body = resealed(body, old, new)
    fine = Origin("b").put(2, "fine", 1).body
    world.receive(body)
    world.receive(fine)
    assert [row[1] for row in world.rows()] == ["fine"]
    assert [letter[1] for letter in world.letters()] == [reason.value]
    assert len(world.source.acked) == 2
    # It can be tried again, and listed.
    world.receive(body)
    assert [letter[1] for letter in world.letters()] == [reason.value]


@pytest.mark.parametrize("table", ["item", "sales.item"])
@pytest.mark.parametrize(
    ("rule", "reason"),
    [("ALTER COLUMN price TYPE numeric(3, 3)", "type"), ("ADD CHECK (price > 2)", "constraint")],
)
def test_a_dead_letter_names_the_table_that_it_could_not_be_written_to(
    pg_database: str, table: str, rule: str, reason: str
) -> None:
    made = f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC(12, 2))"
    world = open_world(pg_database, ["CREATE SCHEMA sales", made, f"ALTER TABLE {table} {rule}"])
    row = {"id": 1, "name": "a", "price": "1.50"}
    world.receive(Origin("a", tables={table: TABLES["item"]}).tx(Write("I", table, row, 1)).body)
    found = world.query("SELECT table_name, reason FROM rf_dead_letter")
    close_world(world)
    assert found == [(table, reason)]


def test_a_dead_letter_names_the_table_whose_rule_it_breaks(world: World) -> None:
    world.block_codes()
    world.receive(Origin("a").tx(Write("I", "code", {"id": 1, "code": "taken"}, 1)).body)
    assert world.query("SELECT table_name, reason FROM rf_dead_letter") == [("code", "constraint")]


def test_a_dead_letter_names_the_table_whose_check_it_breaks_on_sqlite(tmp_path: Path) -> None:
    made = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price NUMERIC CHECK (price > 2))"
    world = open_world(sqlite_url(tmp_path), [made])
    world.receive(Origin("a").put(1, "one", 10).body)
    found = world.query("SELECT table_name, reason FROM rf_dead_letter")
    close_world(world)
    assert found == [("item", "constraint")]


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("CHECK (json_extract(name, '$.a') IS NULL)", "{"),
        ("AS (json_extract(name, '$.a')) STORED", "{"),
        ("AS (json_extract('{}', name)) STORED", "no path"),
        ("CHECK (date(name) IS NOT NULL)", "now"),
        ("CHECK (abs(name) > 0)", str(-(2**63))),
        ("CHECK ('a' NOT LIKE name)", "%a" * 30_000),
    ],
)
def test_a_value_that_an_expression_of_the_table_does_not_take_stops_nothing(
    tmp_path: Path, rule: str, name: str
) -> None:
    what = f", more {rule}" if rule.startswith("AS") else f", {rule}"
    made = f"CREATE TABLE item (id INTEGER PRIMARY KEY, name, price NUMERIC{what})"
    world = open_world(sqlite_url(tmp_path), [made, *SCHEMA[1:]])
    tables = {**TABLES, "item": TableMeta(pk=("id",), columns={"id": "int", "name": "text", "price": "decimal"})}
    value = {"$int": int(name)} if name.startswith("-") else name
    origin, row = Origin("a", tables=tables), {"id": 1, "name": value, "price": "1.50"}
    world.receive(
        origin.tx(Write("I", "item", row, 1)).body, origin.tx(Write("I", "parent", {"id": 1, "name": "p"}, 2)).body
    )
    found = world.query("SELECT table_name, reason FROM rf_dead_letter"), world.rows("item"), len(world.rows("parent"))
    close_world(world)
    assert found == ([("item", "type")], [], 1)


def test_a_dead_letter_names_the_change_and_the_table_of_an_impossible_version(world: World) -> None:
    world.receive(Origin("a").put(1, "one", -1).body)
    assert world.query("SELECT table_name, reason FROM rf_dead_letter") == [("item", "version")]
    assert world.query("SELECT error FROM rf_dead_letter")[0][0].startswith("lsn 1: ")


def test_a_value_that_the_driver_does_not_send_is_no_outage(pg_database: str) -> None:
    with closing(open_database(pg_database)) as database, pytest.raises(PoisonError, match="NUL") as caught:
        in_transaction(database, lambda connection: connection.exec_driver_sql("SELECT %s::text", ("a\0b",)))
    assert caught.value.reason is Reason.TYPE


def test_an_error_has_no_more_of_a_value_than_a_person_reads(world: World) -> None:
    long = "7x" * 1_000_000
    world.receive(
        Origin("a").tx(Write("I", "item", {"id": 1, "name": "one", "price": long}, 1)).body,
        resealed(Origin("b").put(1, "one", 1).body, b'"op":"I"', b'"op":"' + long.encode() + b'"'),
    )
    first, second = (error for (error,) in world.query("SELECT error FROM rf_dead_letter ORDER BY source_node"))
    assert max(len(first), len(second)) < 2_100
    assert second.startswith("lsn 1: op '7x7x")
    assert second.endswith("7x7x' is not I, U, D or DDL")


@pytest.mark.parametrize(
    ("declared", "text"),
    [("hstore", "a=>"), ("hstore", "no pairs"), ("tsquery", "!" * 200), ("ltxtquery", "!" * 20_000)],
)
def test_a_text_that_its_type_calls_an_internal_error_stops_nothing(pg_database: str, declared: str, text: str) -> None:
    assert refused(pg_database, declared, text) == [("odd", "type")]


@pytest.mark.parametrize(
    ("declared", "text"), [("tsvector", "'open"), ("ltree", "a..b"), ("regclass", "a b"), ("regtype", "not_here")]
)
def test_a_text_that_its_type_can_not_read_is_no_broken_rule(pg_database: str, declared: str, text: str) -> None:
    assert refused(pg_database, declared, text) == [("odd", "type")]


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ("regclass", "not_here"),
        ("regclass", "nowhere.not_here"),
        ("regnamespace", "nowhere"),
        ("regoperator", "===(int,int)"),
        ("regproc", "not_here"),
        ("regprocedure", "not_here(int)"),
    ],
)
def test_a_value_that_names_what_is_not_here_stops_nothing(pg_database: str, declared: str, text: str) -> None:
    assert refused(pg_database, declared, text) == [("odd", "type")]


def test_a_check_whose_function_lacks_its_table_is_waited_out(pg_database: str) -> None:
    world = open_world(pg_database)
    world.execute(
        "CREATE TABLE list (id INTEGER)",
        "CREATE FUNCTION listed(INTEGER) RETURNS BOOLEAN LANGUAGE plpgsql AS"
        " 'BEGIN RETURN NOT EXISTS (SELECT FROM list WHERE id = -$1); END'",
        "ALTER TABLE item ADD CHECK (listed(id))",
        "DROP TABLE list",
    )
    with pytest.raises(ConfigError, match='"list" does not exist'):
        world.receive(Origin("a").put(1, "one", 1).body)
    letters = world.letters()
    close_world(world)
    assert letters == []


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        ("time with time zone", "now"),
        ("date[]", "{2026-01-02,today}"),
        ("timestamp[]", '{"n\\ow"}'),
        ("daterange", "[yesterday,)"),
        ("tstzrange", "[now,infinity)"),
        ("tsmultirange", "{[2026-01-02,tomorrow)}"),
        ("daterange[]", '{"[today,)"}'),
    ],
)
def test_a_word_that_means_another_instant_on_each_node_is_refused(pg_database: str, declared: str, text: str) -> None:
    assert refused(pg_database, declared, text) == [("odd", "type")]


def test_a_text_that_its_type_would_change_is_refused(pg_database: str) -> None:
    changed = [
        ("interval", "PT0.1234567S"),
        ("interval", "0.0000004 seconds"),
        ("interval", "PT1e-7S"),
        ("interval", "P0.1Y"),
        ("interval[]", "{PT0.1234567S}"),
        ("time", "12:00:60"),
        ("timestamp", "2016-12-31T23:59:60"),
        ("timestamp", "2016-12-31T24:00:00"),
        ("timestamptz", "2016-12-31T23:59:60Z"),
        ("timestamptz", "2016-12-31T24:00:00+00:00"),
        ("time with time zone", "12:00:00.1234567+00"),
        ("time with time zone", "12:00:60+00"),
        ("timestamp[]", '{"2026-11-23 09:00:00.1234567"}'),
        ("tsrange", '["2016-12-31 24:00:00",)'),
        ("money", "0.30000000000000004"),
        ("money[]", "{$1.005}"),
        ("real[]", "{0.1234567891}"),
        ("double precision[]", "{0.12345678901234567891}"),
        ("name", "n" * 64),
        ('"char"', "no"),
        ("oid", "-1"),
        ("interval", "5"),
        ("interval", "$1.50"),
        ("interval", "1-2"),
        ("interval[]", "{5}"),
        ("time with time zone", "2026-01-02 03:04:05"),
        ("time with time zone", "1000"),
        ("time[]", "{10:00:00+02}"),
        ("time[]", '{"2026-01-02 10:00:00"}'),
        ("date[]", '{"2026-01-02 10:00:00"}'),
        ("date[]", "{02-03-04}"),
        ("daterange", '["2026-01-02 10:00:00",)'),
        ("timestamp[]", '{"2026-01-02 03:04:05+05:30"}'),
        ("tsrange", '["2026-01-02 03:04:05+05:30",)'),
        ("tsmultirange", '{["2026-01-02 03:04:05+05:30",)}'),
        ("numeric", "007"),
        ("numeric", " 7"),
        ("numeric", "infinity"),
        ("numeric", "0x10"),
        ("real", "+7"),
        ("double precision", "0x10"),
        ("double precision", "inf"),
        ("numeric[]", "{007}"),
        ("int[]", "{+1}"),
        ("money", ""),
        ("money", "1,2"),
        ("money", "(0,1)"),
        ("cidr", "5"),
        ("cidr", "1.5"),
        ("inet", "0/1"),
        ("macaddr", "2026-01-02"),
        ("macaddr", "202601021200"),
        ("macaddr8", "08:00:2b:01:02:03"),
        ("tsvector", "b a a"),
        ("tsvector", "Jan 2"),
        ("bit(4)", "xA"),
        ("bit varying", "B1010"),
        ("bit(4)", "10101"),
        ("bit varying(4)", "10101"),
        ("tid", "(1,2),(3,4)"),
        ("pg_lsn", "0/00000001"),
        ("regtype", "int"),
        ("point", "(0.12345678901234567890,1)"),
        ("polygon", "((0.12345678901234567890,1))"),
        ("cube", "9007199254740993"),
        ("seg", "1.23456789"),
        ("pair", "(1.005,2026-01-02)"),
        ("pair", '(1.00,"2026-01-02 10:00:00")'),
        ("cents[]", "{1.005}"),
        ("span", "[0.12345678901234567890,)"),
        ("jsonb", '{"a":1,"a":2}'),
        ("jsonb", '{"a":1,"a":"\\u003a"}'),
        ("jsonb", '[{"b":{"c":":","c":null}}]'),
    ]
    letters, kept = sent_to_columns(pg_database, changed)
    assert kept == []
    assert letters == [("type",)] * len(changed)


def test_a_text_that_its_type_keeps_is_taken(pg_database: str) -> None:
    kept = {
        ("interval", "PT0.1234560S"): "00:00:00.123456",
        ("interval", "P0.5Y"): "6 mons",
        ("interval", "1 year 2 mons 3 days"): "1 year 2 mons 3 days",
        ("time", "24:00:00"): "24:00:00",
        ("time", "12:00"): "12:00:00",
        ("time with time zone", "24:00:00+00"): "24:00:00+00",
        ("timestamp[]", '[1:1]={"2026-11-23 09:00:00"}'): '{"2026-11-23 09:00:00"}',
        ("tsrange", '["2026-11-23 09:00:00.123456",)'): '["2026-11-23 09:00:00.123456",)',
        ("money", "1.500"): "$1.50",
        ("money", "-$1,000.00"): "-$1,000.00",
        ("real[]", "{0.5,NaN,-Infinity,NULL}"): "{0.5,NaN,-Infinity,NULL}",
        ("name", "n" * 63): "n" * 63,
        ("oid", "4294967295"): "4294967295",
        ("interval", "1 day 02:03:00"): "1 day 02:03:00",
        ("interval", "P-1DT-2.5S"): "-1 days -00:00:02.5",
        ("time with time zone", "03:04:05.5+05:45"): "03:04:05.5+05:45",
        ("time[]", "{24:00:00,12:34:56.789,NULL}"): "{24:00:00,12:34:56.789,NULL}",
        ("daterange[]", '{"[2026-01-02,)",empty}'): '{"[2026-01-02,)",empty}',
        ("tsrange[]", '{"[\\"0044-03-15 00:00:00 BC\\",infinity)"}'): '{"[\\"0044-03-15 00:00:00 BC\\",infinity)"}',
        ("tstzmultirange", '{["2026-01-02 03:04:05+05:30",)}'): '{["2026-01-01 21:34:05+00",)}',
        ("numeric", "-0.50"): "-0.50",
        ("numeric", "NaN"): "NaN",
        ("double precision", "1e-5"): "1e-05",
        ("int[]", "{ 1 , 2 }"): "{1,2}",
        ("cidr", "10.0.0.0/8"): "10.0.0.0/8",
        ("inet", "FE80::1"): "fe80::1/128",
        ("macaddr", "08-00-2B-01-02-03"): "08:00:2b:01:02:03",
        ("macaddr8", "0800.2b01.0203.0405"): "08:00:2b:01:02:03:04:05",
        ("tsvector", "'a':1A 'b':2"): "'a':1A 'b':2",
        ("bit(4)", "1010"): "1010",
        ("point", "1.50, 2"): "(1.5,2)",
        ("cube", "(0.1,2),(3,4)"): "(0.1, 2),(3, 4)",
        ("pair", "(1.00,2026-01-02)"): "(1.00,2026-01-02)",
        ("cents[]", "{1.00,NULL}"): "{1.00,NULL}",
        ("span", "[0.5,1)"): "[0.5,1)",
        ("jsonb", '["\\u003A"]'): '[":"]',
        ("jsonb", '{"b":":\\"","a":{"b":1,"c":[{"b":1.50}]}}'): '{"a": {"b": 1, "c": [{"b": 1.50}]}, "b": ":\\""}',
    }
    letters, found = sent_to_columns(pg_database, list(kept))
    assert letters == []
    assert found == list(kept.values())


def sent_to_columns(url: str, values: list[tuple[str, str]]) -> tuple[list[tuple[Any, ...]], list[str]]:
    """Send each text to a column of its type, in a tx of its own. Return the reasons of what is set aside, and what
    stands in the rows."""
    columns = {f"v{number}": declared for number, (declared, _) in enumerate(values)}
    made = ", ".join(f"{name} {declared}" for name, declared in columns.items())
    world = open_world(url, [*OWN_TYPES, f"CREATE TABLE odd (id INTEGER PRIMARY KEY, {made})", *SCHEMA])
    for number, (_, text) in enumerate(values):
        tables = {**TABLES, "odd": TableMeta(pk=("id",), columns={"id": "int", f"v{number}": "text"})}
        origin = Origin(f"a{number}", tables=tables)
        world.receive(origin.tx(Write("I", "odd", {"id": number, f"v{number}": text}, 1)).body)
    letters = world.query("SELECT reason FROM rf_dead_letter")
    texts = ", ".join(f"{name}::text" for name in columns)
    rows = world.query(f"SELECT coalesce({texts}) FROM odd ORDER BY id")
    close_world(world)
    return letters, [row[0] for row in rows]


def refused(url: str, declared: str, text: str) -> list[tuple[Any, ...]]:
    """Return table and reason of what is set aside where a column of this type is sent this text, and one row more."""
    extensions = [f"CREATE EXTENSION {name}" for name in ("hstore", "ltree")]
    world = open_world(url, [*extensions, f"CREATE TABLE odd (id INTEGER PRIMARY KEY, value {declared})", *SCHEMA])
    tables = {**TABLES, "odd": TableMeta(pk=("id",), columns={"id": "int", "value": f"pg:{declared}"})}
    origin = Origin("a", tables=tables)
    world.receive(origin.tx(Write("I", "odd", {"id": 1, "value": text}, 1)).body, origin.put(2, "fine", 2).body)
    found = world.query("SELECT table_name, reason FROM rf_dead_letter")
    names = [row[1] for row in world.rows()]
    close_world(world)
    assert names == ["fine"]
    return found
