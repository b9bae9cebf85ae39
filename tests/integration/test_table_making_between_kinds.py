"""Tables made from descriptions of the other kind of database: such that keep every value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest

from common.errors import PreflightError
from common.ops.table_making import make
from common.ports.dialect import Database, RowWrite, TableShape
from common.versions import NEVER, Version
from tests.support.postgresql_values import OWN_TYPES
from tests.support.table_plans import (
    PG_TABLES,
    PG_VALUES,
    Fresh,
    carried,
    copied,
    rows,
    run,
    shapes,
)

pytestmark = pytest.mark.containers


def put(database: Database, name: str, source: TableShape, images: Sequence[bytes]) -> None:
    """Write rows as a batch of `source`'s node does."""
    shape = database.catalog().tables[name]
    pks = [key_of(source, image) for image in images]
    with database.apply_session() as session:
        states = session.lock(shape, source.meta, pks)
        writes = [
            RowWrite(state.key, pk, image, Version(0, 1_000, "there"), NEVER)
            for state, pk, image in zip(states, pks, images, strict=True)
        ]
        session.write(shape, source.meta, writes)


def key_of(shape: TableShape, image: bytes) -> bytes:
    fields = msgspec.json.decode(image, type=dict[str, msgspec.Raw])
    return msgspec.json.encode({name: fields[name] for name in shape.pk})


def images(database: Database, name: str, count: int) -> list[bytes]:
    shape = database.catalog().tables[name]
    pks = [msgspec.json.encode({"id": number}) for number in range(count)]
    with database.apply_session() as session:
        found = session.images(shape, pks, shape.meta)
    return [one for one in found if one is not None]


NOT_ON_SQLITE = {
    "real": ("'NaN'",),
    "double precision": ("'NaN'",),
}
"""SQLite has no NaN."""
SIGN_LOST = ("'-0'",)


def test_every_postgresql_value_goes_through_sqlite_and_back(fresh: Fresh) -> None:
    source, file, back = fresh("postgresql"), fresh("sqlite"), fresh("postgresql")
    for database in (source, back):
        run(database, *OWN_TYPES)
    values = {
        name: [one for one in PG_VALUES[kind] if one not in NOT_ON_SQLITE.get(kind, ())]
        for name, kind in PG_TABLES.items()
    }
    for name, kind in PG_TABLES.items():
        run(
            source,
            f"CREATE TABLE {name} (id int PRIMARY KEY, v {kind})",
            *(f"INSERT INTO {name} VALUES ({at}, CAST({value} AS {kind}))" for at, value in enumerate(values[name])),
        )
    plans = carried(source)
    make(file, plans)
    make(back, plans)
    bent = []
    for name, kind in PG_TABLES.items():
        count = len(values[name])
        put(file, name, source.catalog().tables[name], images(source, name, count))
        put(back, name, file.catalog().tables[name], images(file, name, count))
        query = f"SELECT id, v::text FROM {name} ORDER BY id"
        for (place, old), (_, new) in zip(rows(source, query), rows(back, query), strict=True):
            lossless = old == new or (kind in ("real", "double precision") and values[name][place] in SIGN_LOST)
            bent += [] if lossless else [(kind, old, new)]
    assert bent == []


SQLITE_VALUES: Mapping[str, tuple[str, list[object]]] = {
    "INTEGER": ("bigint", [0, -(2**63), 2**63 - 1]),
    "DECIMAL(10,2)": ("numeric", [5, 0.1, -1.5, 12345.678, 2**62]),
    "DOUBLE": ("double precision", [0.5, 1e-300, float("inf")]),
    "BOOLEAN": ("boolean", [0, 1]),
    "TEXT": ("text", ["", "ä😀", "null", "1.50"]),
    "BLOB": ("bytea", [b"", b"\x00\xff"]),
    "DATE": ("date", ["2026-01-31"]),
    "TIME": ("time without time zone", ["23:59:59.999999"]),
    "DATETIME": ("timestamp without time zone", ["2026-01-31 01:02:03.5"]),
    "TIMESTAMPTZ": ("timestamp with time zone", ["2026-01-31 01:02:03+05:45"]),
    "INTERVAL": ("interval", ["P1Y2M3DT4H5M6.789S"]),
    "UUID": ("uuid", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    "JSON": ("json", ['{"a":1, "a" :2}', "5", "null"]),
    "ENUM": ("text", ["red"]),
}


def test_sqlite_values_come_into_postgresql(fresh: Fresh) -> None:
    file, target = fresh("sqlite"), fresh("postgresql")
    for place, (declared, (_, values)) in enumerate(SQLITE_VALUES.items()):
        run(file, f"CREATE TABLE t{place} (id INTEGER PRIMARY KEY, v {declared})")
        with file.engine.begin() as connection:
            for number, value in enumerate(values):
                connection.exec_driver_sql(f"INSERT INTO t{place} VALUES (?, ?)", (number, value))
    make(target, carried(file))
    for place, (declared, (wanted, values)) in enumerate(SQLITE_VALUES.items()):
        name = f"t{place}"
        made = target.catalog().tables[name]
        assert [(one.logical, one.declared) for one in made.columns][1:] == [
            (file.catalog().tables[name].columns[1].logical, wanted)
        ], declared
        assert made.numbers_itself
        before = images(file, name, len(values))
        put(target, name, file.catalog().tables[name], before)
        after = images(target, name, len(values))
        if declared != "TIMESTAMPTZ":
            assert list(map(msgspec.json.decode, after)) == list(map(msgspec.json.decode, before))
    assert rows(target, "SELECT v = '2026-01-31 01:02:03+05:45' FROM t9") == [(True,)]


def test_keys_and_defaults_become_those_of_sqlite(fresh: Fresh) -> None:
    source, file = fresh("postgresql"), fresh("sqlite")
    run(
        source,
        "CREATE TABLE p (id bigserial PRIMARY KEY, price numeric(12,2) NOT NULL DEFAULT 1.50, exact numeric DEFAULT"
        " 1.50, ok bool DEFAULT true, word varchar DEFAULT 'it''s', day date DEFAULT '2026-01-01', n int DEFAULT -1)",
        "CREATE TABLE c (id int PRIMARY KEY, p_id bigint REFERENCES p ON DELETE CASCADE, UNIQUE (p_id, id))",
        "CREATE TABLE d (a numeric(6,2), b uuid, PRIMARY KEY (b, a))",
    )
    copied(source, file)
    made = shapes(file)
    assert {name: shape.pk for name, shape in made.items()} == {"p": ("id",), "c": ("id",), "d": ("b", "a")}
    assert [made[name].numbers_itself for name in "pcd"] == [True, False, False]
    assert made["p"].no_stride is None
    assert not any(column.nullable for column in made["d"].columns)
    assert made["c"].unique_keys == (("p_id", "id"),)
    assert [(key.columns, key.parent) for key in made["c"].foreign_keys] == [(("p_id",), "p")]
    run(file, "INSERT INTO p (id) VALUES (1)")
    assert rows(file, "SELECT price, exact, ok, word, day, n FROM p") == [(1.5, "1.50", 1, "it's", None, -1)]
    assert [(one.name, one.declared, one.logical) for one in made["p"].columns][1:3] == [
        ("price", "DECIMAL(12, 2)", "decimal"),
        ("exact", "TEXT", "text"),
    ]


def test_a_type_of_an_extension_is_told(fresh: Fresh) -> None:
    source, target = fresh("postgresql"), fresh("postgresql")
    run(source, "CREATE EXTENSION citext", "CREATE TABLE item (id int PRIMARY KEY, v citext UNIQUE, w citext[])")
    with pytest.raises(PreflightError, match=r'item, column v: there is no type "citext" here.*CREATE EXTENSION'):
        make(target, carried(source))
    run(target, "CREATE EXTENSION citext")
    copied(source, target)
    assert shapes(target) == shapes(source)


def test_settings_of_the_source_bend_no_default(fresh: Fresh) -> None:
    source, target = fresh("postgresql"), fresh("postgresql")
    for place, database in enumerate((source, target)):
        (name,) = rows(database, "SELECT current_database()")[0]
        styles = (("SQL, DMY", "Asia/Kathmandu"), ("German", "America/Lima"))[place]
        settings_ = (f"datestyle = '{styles[0]}'", f"timezone = '{styles[1]}'", "standard_conforming_strings = off")
        run(database, *(f'ALTER DATABASE "{name}" SET {one}' for one in settings_))
        database.engine.dispose()
    run(
        source,
        "CREATE TABLE item (id int PRIMARY KEY, day date DEFAULT '2026-02-01'::date, word text DEFAULT E'a\\\\b''c',"
        " at timestamptz DEFAULT '2026-02-01 00:00:00+00'::timestamptz, took interval DEFAULT '1 day 02:00'::interval)",
    )
    copied(source, target)
    for database in (source, target):
        run(database, "INSERT INTO item VALUES (1)")
    query = "SELECT day - date '2000-01-01', word, at AT TIME ZONE 'UTC', took FROM item"
    assert rows(target, query) == rows(source, query)
    assert rows(target, "SELECT word FROM item") == [("a\\b'c",)]


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE item (v JSON PRIMARY KEY)",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, v JSON UNIQUE)",
        "CREATE TABLE item (id TEXT PRIMARY KEY REFERENCES first (id))",
    ],
)
def test_what_postgresql_can_not_have_is_told(sql: str, fresh: Fresh) -> None:
    source, target = fresh("sqlite"), fresh("postgresql")
    run(source, "CREATE TABLE first (id INTEGER PRIMARY KEY)", sql)
    with pytest.raises(PreflightError, match=r"table item can't be made, and none was: .*create it first"):
        make(target, carried(source))
    assert shapes(target) == {}


def test_names_that_sqlite_takes_for_one_are_refused(fresh: Fresh) -> None:
    source, file = fresh("postgresql"), fresh("sqlite")
    run(source, 'CREATE TABLE t (id int PRIMARY KEY, a int, "A" int)')
    with pytest.raises(PreflightError, match="two of its columns for one"):
        make(file, carried(source))
    run(source, "DROP TABLE t", "CREATE TABLE t (id int PRIMARY KEY)", 'CREATE TABLE "T" (id int PRIMARY KEY)')
    with pytest.raises(PreflightError, match=r"the snapshot has T beside it|the snapshot has t beside it"):
        make(file, carried(source))
    assert shapes(file) == {}
