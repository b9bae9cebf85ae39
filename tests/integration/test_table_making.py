"""Tables made from descriptions: the same ones on the same kind of database, such that keep every value on the other.

A description is a stranger's text: what it says is carried out as it stands, or nothing is."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.dialects import open_database
from common.errors import PreflightError
from common.ops.table_making import describe, make, statements
from common.ports.dialect import Database, RowWrite, TableShape
from common.ports.table_making import Action, Checked, ColumnPlan, KeyPlan, Kind, Literal, ReferencePlan, TablePlan
from common.schema.migrate import upgrade
from common.versions import NEVER, Version
from tests.support.applying import DATABASES
from tests.support.postgresql_values import OWN_TYPES
from tests.support.postgresql_values import PG_VALUES as SOME_VALUES

pytestmark = pytest.mark.containers

PG_VALUES = SOME_VALUES | {
    "numeric(15,2)": ("9999999999999.99", "-9999999999999.98", "1.50", "0", "-0.01", "1234567890123.45"),
    "numeric(15,15)": ("0.123456789012345", "-0.999999999999999"),
    "numeric(15)": ("999999999999999",),
    "numeric(16,1)": ("999999999999999.9", "953170170192502.7"),
}
PG_TABLES = {f"t{number}": kind for number, kind in enumerate(PG_VALUES)}

Fresh = Callable[[str], Database]
Plans = dict[str, TablePlan]

SQLITE_TYPES = (
    *("BOOL", "BOOLEAN", "DATE", "TIME", "DATETIME", "TIMESTAMP", "TIMESTAMP WITHOUT TIME ZONE", "TIMESTAMPTZ"),
    *(
        "DATETIMETZ",
        "TIMESTAMP WITH TIME ZONE",
        "INTERVAL",
        "UUID",
        "GUID",
        "JSON",
        "JSONB",
        "NUMERIC",
        "DECIMAL(10,2)",
    ),
    *("DEC", "NUMBER", "MONEY", "INT", "INTEGER", "BIGINT", "UNSIGNED  BIG INT", "CHAR(20)", "VARCHAR ( 10 , -5 )"),
    *("CLOB", "TEXT", "", "BLOB", "REAL", "FLOAT", "DOUBLE PRECISION", "STRING", "ENUM", "LÄNGE", "x$y", "PRIMARY KEY"),
    *("weird ; type", "a, b TEXT", "INT) --", "NOT NULL", "x CHECK (1)", "a.b", "numeric(10,2) "),
)


@pytest.fixture
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fresh]:
    """Callable that returns an empty database of a kind."""
    opened: list[Database] = []

    def one(kind: str) -> Database:
        url = f"sqlite:///{tmp_path / f'{len(opened)}.db'}"
        if kind == "postgresql":
            url = request.getfixturevalue("pg_database_factory")()
        opened.append(open_database(url))
        upgrade(opened[-1].engine)
        return opened[-1]

    yield one
    for database in opened:
        database.close()


def run(database: Database, *script: str) -> None:
    with database.engine.begin() as connection:
        for statement in script:
            connection.execute(sa.text(statement.replace(":", "\\:")))


def rows(database: Database, query: str) -> list[tuple[Any, ...]]:
    with database.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query.replace(":", "\\:")))]


def carried(source: Database) -> Plans:
    """The plans of all tables, as they come out of a file."""
    plans = describe(source, [shape for name, shape in source.catalog().tables.items() if ".rf_" not in name])
    return msgspec.json.decode(msgspec.json.encode(plans), type=Plans)


def plain(shape: TableShape) -> TableShape:
    """A shape without what no other database can have or should: names and numbers of things."""
    keys = tuple(sorted((replace(key, name="") for key in map(as_port, shape.foreign_keys)), key=repr))
    columns = tuple(
        replace(as_port(column), identity_always=False, nullable=column.nullable) for column in shape.columns
    )
    unique = tuple(sorted(set(shape.unique_keys)))
    return replace(as_port(shape), columns=columns, foreign_keys=keys, unique_keys=unique)


def as_port(thing: Any) -> Any:
    """The thing as the port's class has it."""
    kind = type(thing)
    while kind.__module__ != "common.ports.dialect":
        kind = kind.__mro__[1]
    return kind(**{name: getattr(thing, name) for name in kind.__dataclass_fields__})


def shapes(database: Database) -> dict[str, TableShape]:
    return {name: plain(shape) for name, shape in database.catalog().tables.items()}


def copied(source: Database, target: Database) -> list[str]:
    plans = carried(source)
    wanted = statements(target, plans)
    ran = make(target, plans)
    assert ran == wanted
    assert statements(target, plans) == make(target, plans) == []
    return ran


def table(dialect: str = "sqlite", /, **changes: Any) -> TablePlan:
    kinds = {"sqlite": ("INTEGER", "TEXT"), "postgresql": ("integer", "text")}[dialect]
    columns = (
        ColumnPlan("id", "int", kinds[0], nullable=dialect == "sqlite", counts=True),
        ColumnPlan("name", "text", kinds[1]),
    )
    return msgspec.structs.replace(TablePlan("item", dialect, columns, ("id",)), **changes)


def with_column(dialect: str, name: str = "v", declared: str = "text", **rest: Any) -> TablePlan:
    made = table(dialect)
    column = ColumnPlan(name, rest.pop("logical", "text"), declared, **rest)
    return msgspec.structs.replace(made, columns=(*made.columns, column))


def plan_of(*plans: TablePlan) -> Plans:
    return {plan.name: plan for plan in plans}


def refused(database: Database, *plans: TablePlan) -> str | None:
    """What is said against these plans; None where they were carried out."""
    try:
        make(database, plan_of(*plans))
    except PreflightError as error:
        return str(error)
    return None


# The same kind of database


def test_every_postgresql_type_comes_back_the_same(fresh: Fresh) -> None:
    source, target = fresh("postgresql"), fresh("postgresql")
    for database in (source, target):
        run(database, *OWN_TYPES)
    run(source, *(f"CREATE TABLE {name} (id bigint PRIMARY KEY, v {kind})" for name, kind in PG_TABLES.items()))

    copied(source, target)

    assert shapes(target) == shapes(source)
    query = """SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a
        JOIN pg_class c ON c.oid = a.attrelid AND c.relname ~ '^t[0-9]+$' WHERE a.attnum > 0 ORDER BY 1, 2"""
    assert rows(target, query) == rows(source, query)


def test_every_sqlite_type_comes_back_the_same(fresh: Fresh) -> None:
    source, target = fresh("sqlite"), fresh("sqlite")
    quoted = {*SQLITE_TYPES[SQLITE_TYPES.index("x$y") :]}
    columns = [
        f'c{place} "{declared}"' if declared in quoted else f"c{place} {declared}"
        for place, declared in enumerate(SQLITE_TYPES)
    ]
    run(
        source,
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, {', '.join(columns)})",
        "CREATE TABLE s (id INT NOT NULL PRIMARY KEY, a INTEGER, b REAL NOT NULL, c TEXT, d BLOB, e ANY) STRICT",
        "CREATE TABLE w (a TEXT, b INT, c, PRIMARY KEY (b, a)) WITHOUT ROWID",
        "CREATE TABLE both (a TEXT PRIMARY KEY, c ANY) STRICT, WITHOUT ROWID",
    )

    copied(source, target)

    assert shapes(target) == shapes(source)
    options = "SELECT name, wr, strict FROM pragma_table_list WHERE name IN ('t', 's', 'w', 'both') ORDER BY name"
    assert rows(target, options) == rows(source, options)


def test_what_counts_goes_on_counting(fresh: Fresh) -> None:
    source, target = fresh("sqlite"), fresh("sqlite")
    run(
        source,
        "CREATE TABLE a (id INTEGER PRIMARY KEY)",
        "CREATE TABLE b (id INTEGER PRIMARY KEY AUTOINCREMENT)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY DESC)",
        "CREATE TABLE d (id INT PRIMARY KEY)",
        "CREATE TABLE e (id INTEGER, n INTEGER, PRIMARY KEY (id, n))",
    )
    copied(source, target)
    assert shapes(target) == shapes(source)
    assert {name for name, shape in shapes(target).items() if shape.numbers_itself} == {"a", "b"}
    assert shapes(target)["b"].no_stride is None


def test_identity_lets_rows_keep_their_keys(fresh: Fresh) -> None:
    source, target = fresh("postgresql"), fresh("postgresql")
    run(
        source,
        "CREATE TABLE a (id serial PRIMARY KEY, n bigserial)",
        "CREATE TABLE b (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY)",
        "CREATE TABLE c (id smallint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY)",
    )
    copied(source, target)
    assert shapes(target) == shapes(source)
    run(target, "INSERT INTO a (id) VALUES (7)", "INSERT INTO b VALUES (7)", "INSERT INTO b DEFAULT VALUES")
    assert rows(target, "SELECT id, n FROM a") == [(7, 1)]
    assert rows(target, "SELECT id FROM b ORDER BY id") == [(1,), (7,)]


@pytest.mark.parametrize("kind", DATABASES)
def test_defaults_that_are_constants_are_carried(kind: str, fresh: Fresh) -> None:
    source, target = fresh(kind), fresh(kind)
    constants = ["1", "-1.50", "'it''s \\ \"x\"'", "''", "NULL", "1e3"]
    expressions = ["CURRENT_TIMESTAMP", "(1 + 1)"]
    if kind == "postgresql":
        constants += ["true", "'{}'::text[]", "'2026-01-01'::date", "interval '1 day'", "'sad'::mood", "'NaN'::float8"]
        run(source, *OWN_TYPES)
        run(target, *OWN_TYPES)
        types = ["int", "numeric(10,2)", "text", "varchar(9)", "int", "real", "bool", "text[]", "date", "interval"]
        types += ["mood", "float8", "timestamptz", "int"]
        # PostgreSQL adds up what it can while it is told of the default.
        expressions[1] = "abs(-1)"
    else:
        constants += ["TRUE", "x'00FF'", '"double"', "+.5"]
        types = ["INT", "NUMERIC", "TEXT", "TEXT", "TEXT", "REAL", "BOOL", "BLOB", "TEXT", "TEXT", "TEXT", "INT"]
    columns = [
        f"c{place} {declared} DEFAULT {default}"
        for place, (declared, default) in enumerate(zip(types, constants + expressions, strict=True))
    ]
    run(source, f"CREATE TABLE item (id INTEGER PRIMARY KEY, {', '.join(columns)})")

    (plan,) = carried(source).values()
    copied(source, target)

    for database in (source, target):
        run(database, "INSERT INTO item (id) VALUES (1)")
    kept = ", ".join(f"c{place}" for place in range(len(constants)))
    as_text = "::text" if kind == "postgresql" else ""
    query = f"SELECT {', '.join(f'{name}{as_text}' for name in kept.split(', '))} FROM item"
    assert rows(target, query) == rows(source, query)
    lost = rows(target, f"SELECT c{len(constants)}, c{len(constants) + 1} FROM item")
    assert lost == [(None, None)]
    assert sum("the default of" in one for one in plan.left_out) == 2


def test_collations_of_keys_are_carried_on_sqlite(fresh: Fresh) -> None:
    source, target = fresh("sqlite"), fresh("sqlite")
    run(
        source,
        "CREATE TABLE p (code TEXT PRIMARY KEY COLLATE NOCASE, other TEXT COLLATE RTRIM UNIQUE)",
        "CREATE TABLE c (id INTEGER PRIMARY KEY, code TEXT REFERENCES p (code))",
    )
    copied(source, target)
    run(target, "INSERT INTO p VALUES ('a', 'x')", "PRAGMA foreign_keys = ON")
    for clash in ("('A', 'y')", "('b', 'x  ')"):
        with pytest.raises(sa.exc.IntegrityError):
            run(target, f"INSERT INTO p VALUES {clash}")
    run(target, "INSERT INTO c VALUES (1, 'A')")


@pytest.mark.parametrize("kind", DATABASES)
def test_references_are_carried_with_their_actions(kind: str, fresh: Fresh) -> None:
    source, target = fresh(kind), fresh(kind)
    late = "DEFERRABLE INITIALLY DEFERRED"
    run(
        source,
        # Children stand before parents by name.
        'CREATE TABLE "Z Parent" (a INTEGER, "b ""q""" TEXT, c TEXT UNIQUE, PRIMARY KEY (a, "b ""q"""))',
        'CREATE TABLE "a.child" (id INTEGER PRIMARY KEY, x INTEGER, y TEXT, up INTEGER REFERENCES "a.child" (id),'
        ' code TEXT REFERENCES "Z Parent" (c) ON UPDATE CASCADE,'
        ' FOREIGN KEY (x, y) REFERENCES "Z Parent" ON DELETE SET NULL)',
        f'CREATE TABLE "Grand" (id INTEGER PRIMARY KEY REFERENCES "a.child" (id) ON DELETE CASCADE {late})',
        "CREATE TABLE egg (id INTEGER PRIMARY KEY, hen_id INTEGER)",
        f"CREATE TABLE hen (id INTEGER PRIMARY KEY, egg_id INTEGER NOT NULL REFERENCES egg (id) {late})",
    )
    circle = "ALTER TABLE egg ADD FOREIGN KEY (hen_id) REFERENCES hen (id)"
    if kind == "sqlite":
        run(source, "DROP TABLE egg", "CREATE TABLE egg (id INTEGER PRIMARY KEY, hen_id INTEGER REFERENCES hen (id))")
    else:
        run(source, circle)

    ran = copied(source, target)

    assert set(shapes(source)) == {"Z Parent", "a..child", "Grand", "egg", "hen"}
    assert shapes(target) == shapes(source)
    assert carried(target) == carried(source)
    places = {sql.split("(")[0].split('"')[-2]: place for place, sql in enumerate(ran) if sql.startswith("CREATE")}
    assert places["Z Parent"] < places["a.child"] < places["Grand"]
    if kind == "postgresql":
        assert [sql for sql in ran if not sql.startswith("CREATE")] == [ran[-1]]


def test_a_table_of_another_schema_needs_it(fresh: Fresh) -> None:
    source, target, file = fresh("postgresql"), fresh("postgresql"), fresh("sqlite")
    run(
        source,
        "CREATE SCHEMA shop",
        "CREATE TYPE shop.size AS ENUM ('s')",
        "CREATE TABLE shop.item (id int PRIMARY KEY, size shop.size DEFAULT 's', sizes shop.size[])",
    )
    with pytest.raises(PreflightError, match=r"shop\.item.*no schema shop.*CREATE SCHEMA"):
        make(target, carried(source))
    run(target, "CREATE SCHEMA shop")
    with pytest.raises(PreflightError, match=r'shop\.item, column size: there is no type "shop"\."size".*CREATE TYPE'):
        make(target, carried(source))
    assert shapes(target) == {}
    run(target, "CREATE TYPE shop.size AS ENUM ('s')")
    copied(source, target)
    assert shapes(target) == shapes(source)
    assert carried(target) == carried(source)
    with pytest.raises(PreflightError, match=r"shop\.item stands in a schema"):
        make(file, carried(source))


def test_a_partitioned_table_becomes_a_plain_one(fresh: Fresh) -> None:
    source, target = fresh("postgresql"), fresh("postgresql")
    run(
        source,
        "CREATE TABLE part (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
    )
    plans = carried(source)
    assert plans["part"].left_out == ("its partitions",)
    copied(source, target)
    assert shapes(target) == shapes(source)
    run(target, "INSERT INTO part VALUES (1, '1999-01-01')")


def test_what_is_not_carried_is_named(fresh: Fresh) -> None:
    source = fresh("postgresql")
    run(
        source,
        "CREATE TABLE other (id int PRIMARY KEY)",
        "CREATE TABLE item (id int PRIMARY KEY, n int CONSTRAINT few CHECK (n < 9), o int REFERENCES other,"
        " s int DEFAULT random() * 3)",
        "CREATE INDEX by_n ON item (n)",
        "CREATE UNIQUE INDEX half ON item (n) WHERE n > 3",
    )
    (plan,) = describe(source, [source.catalog().tables["item"]]).values()
    told = " | ".join(plan.left_out)
    for what in ("the index by_n", "the unique index half", "the CHECK few", "the default of s", "o to other"):
        assert what in told
    file = fresh("sqlite")
    run(
        file,
        "CREATE TABLE other (id INTEGER PRIMARY KEY)",
        "CREATE TABLE item (id INTEGER PRIMARY KEY, n INT CHECK (n < 9), o INT REFERENCES other, s DEFAULT (random()))",
        "CREATE INDEX by_n ON item (n)",
        "CREATE UNIQUE INDEX half ON item (n) WHERE n > 3",
        "CREATE TRIGGER chime AFTER INSERT ON item BEGIN SELECT 1; END",
    )
    (plan,) = describe(file, [file.catalog().tables["item"]]).values()
    told = " | ".join(plan.left_out)
    for what in ("index by_n", "unique index half", "CHECK", "the default of s", "o to other", "trigger chime"):
        assert what in told


@pytest.mark.parametrize("kind", DATABASES)
def test_what_rowferry_adds_is_not_told(kind: str, fresh: Fresh) -> None:
    source = fresh(kind)
    run(source, "CREATE TABLE item (id int PRIMARY KEY, word varchar(9) DEFAULT '', note text)")
    if kind == "postgresql":
        run(
            source,
            "ALTER TABLE item ALTER word SET DEFAULT 'a'::text, ALTER note SET DEFAULT 'b'::character varying",
        )
    source.capture().install(list(source.catalog().tables.values()))
    assert carried(source)["item"].left_out == ()


def test_the_default_schema_may_be_another(fresh: Fresh) -> None:
    source, target = fresh("postgresql"), fresh("postgresql")
    (name,) = rows(source, "SELECT current_database()")[0]
    run(source, "CREATE SCHEMA shop", f'ALTER DATABASE "{name}" SET search_path = shop, public')
    source.engine.dispose()
    for database in (source, target):
        run(database, "CREATE TYPE public.mood AS ENUM ('sad')")
    run(
        source,
        "CREATE TYPE shop.size AS ENUM ('s')",
        "CREATE TABLE shop.item (id int PRIMARY KEY, m mood DEFAULT 'sad', s size, n int)",
    )
    plans = carried(source)
    run(target, "CREATE TYPE size AS ENUM ('s')")
    make(target, plans)
    assert [(one.name, one.schema) for one in shapes(target).values()] == [("item", "public")]
    # Where `public` is in no search_path, its type is found all the same.
    third = fresh("postgresql")
    (name,) = rows(third, "SELECT current_database()")[0]
    run(third, "CREATE TYPE mood AS ENUM ('sad')", "CREATE SCHEMA stock", "CREATE TYPE stock.size AS ENUM ('s')")
    run(third, f'ALTER DATABASE "{name}" SET search_path = stock')
    third.engine.dispose()
    make(third, plans)
    assert shapes(third)["item"].schema == "stock"
    # By the other's name of it no node could ask for a table of the default schema.
    run(source, "CREATE TABLE public.other (id int PRIMARY KEY)")
    with pytest.raises(PreflightError, match=r"table public\.other.*'other'"):
        make(target, carried(source))


def test_an_action_on_some_columns_is_not_made_one_on_all(fresh: Fresh) -> None:
    source, target = fresh("postgresql"), fresh("postgresql")
    run(
        source,
        "CREATE TABLE p (a int, b int, PRIMARY KEY (a, b))",
        "CREATE TABLE c (id int PRIMARY KEY, a int, b int, FOREIGN KEY (a, b) REFERENCES p ON DELETE SET NULL (b))",
    )
    plan = carried(source)["c"]
    assert [key.on_delete for key in plan.foreign_keys] == [Action.NO_ACTION]
    assert plan.left_out == ("ON DELETE SET NULL of some columns in c_a_b_fkey",)
    copied(source, target)


@pytest.mark.parametrize("meddling", ["ADD extra int", "ADD UNIQUE (name)", "ADD FOREIGN KEY (id) REFERENCES item"])
def test_a_table_that_the_database_itself_makes_otherwise_is_taken_back(meddling: str, fresh: Fresh) -> None:
    database = fresh("postgresql")
    run(
        database,
        "CREATE FUNCTION meddle() RETURNS event_trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN ALTER TABLE item {meddling}; END $$",
        "CREATE EVENT TRIGGER meddle ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION meddle()",
    )
    with pytest.raises(PreflightError, match=r"would not be as the snapshot describes it: its .* are others"):
        make(database, plan_of(table("postgresql")))
    assert shapes(database) == {}


# The other kind


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


# Strangers' text


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize(
    "declared",
    [
        "int); DROP TABLE victim; --",
        "text, injected text",
        "text DEFAULT (select 1)",
        "text REFERENCES victim",
        "text PRIMARY KEY",
        "text NOT NULL",
        "text UNIQUE",
        "text CHECK (1)",
        "text COLLATE NOCASE",
        "text GENERATED ALWAYS AS (1)",
        "text GENERATED ALWAYS",
        "text /* */",
        "text -- ",
        'text"',
        "text\n;",
        "text\0",
        "text[][]",
        "no_such_type",
        "rf_node",
        "victim",
        "anyelement",
        "serial",
        "numeric(0,0)",
        "text(3)",
        "varchar(",
        "pg_catalog.int4; x",
        "t" * 100_000,
    ],
)
def test_hostile_types_are_refused_or_only_a_name(kind: str, declared: str, fresh: Fresh) -> None:
    database = fresh(kind)
    run(database, "CREATE TABLE victim (id int PRIMARY KEY)", "INSERT INTO victim VALUES (1)")
    before = shapes(database)
    for given_ in (declared, f"{declared}[]"):
        for logical in ("text", "pg:x", "int"):
            plan = with_column(kind, declared=given_, logical=logical)
            refusal = refused(database, table(kind, name="first"), plan)
            if refusal is not None:
                assert "item" in refusal
                assert shapes(database) == before
                continue
            # SQLite takes any text for a type's name.
            made = shapes(database)
            assert set(made) == {*before, "first", "item"}
            assert [one.name for one in made["item"].columns] == ["id", "name", "v"]
            assert kind == "sqlite"
            assert made["item"].columns[2].declared.upper() == given_.upper()
            assert made["item"].columns[2].nullable
            run(database, "DROP TABLE item", "DROP TABLE first")
    assert rows(database, "SELECT * FROM victim") == [(1,)]


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("source", DATABASES)
@pytest.mark.parametrize("text", ["1); DELETE FROM victim; --", "x' || (select 1) || '", "\\'; x", "%s :a $1 ${x}", ""])
def test_hostile_defaults_are_constants_or_refused(kind: str, source: str, text: str, fresh: Fresh) -> None:
    database = fresh(kind)
    run(database, "CREATE TABLE victim (id int PRIMARY KEY)")
    plan = with_column(source, default=Literal(Kind.TEXT, text))
    make(database, plan_of(plan))
    run(database, "INSERT INTO item (id) VALUES (1)")
    assert rows(database, "SELECT v FROM item") == [(text,)]
    for kind_of in (Kind.NUMBER, Kind.BOOL, Kind.BYTES):
        bad = msgspec.structs.replace(with_column(source, default=Literal(kind_of, text)), name="bad")
        refusal = refused(database, bad)
        if refusal is not None:
            assert "bad" in refusal
            continue
        # An empty text is no bytes, and what another kind of database writes in another way is left out.
        run(database, "INSERT INTO bad (id) VALUES (1)")
        assert rows(database, "SELECT v FROM bad")[0][0] in (None, "", b"", "\\x")
        run(database, "DROP TABLE bad")
    assert set(shapes(database)) == {"victim", "item"}


HOSTILE_NAMES = ['a"b', "'; DROP TABLE victim; --", "x\ny", "%s", ":name", "select", "ä ß", "A.B", "[x]", "`", "\\"]


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_names_whatever_stands_in_them(kind: str, name: str, fresh: Fresh) -> None:
    database = fresh(kind)
    plan = with_column(kind, name, {"sqlite": "TEXT", "postgresql": "text"}[kind])
    key = KeyPlan((name, "id"))
    child = msgspec.structs.replace(
        plan, name="child", foreign_keys=(ReferencePlan((name, "id"), "item", key.columns),)
    )
    parent = msgspec.structs.replace(plan, unique_keys=(key,))
    odd = msgspec.structs.replace(plan, name=name.replace(".", ".."))
    make(database, plan_of(child, odd, parent))
    made = shapes(database)
    assert set(made) == {"child", "item", name.replace(".", "..")}
    assert [one.name for one in made["item"].columns] == ["id", "name", name]
    assert made["item"].unique_keys == (key.columns,)


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize(
    "changes",
    [
        {"pk": ()},
        {"pk": ("no",)},
        {"pk": ("id", "id")},
        {"columns": ()},
        {"unique_keys": (KeyPlan(("no",)),)},
        {"unique_keys": (KeyPlan(()),)},
        {"foreign_keys": (ReferencePlan(("id",), "nowhere", ("id",)),)},
        {"foreign_keys": (ReferencePlan(("id",), "item", ("name",)),)},
        {"foreign_keys": (ReferencePlan(("id",), "item", ("id", "name")),)},
        {"foreign_keys": (ReferencePlan(("id",), "rf_node", ("id",)),)},
        {"name": ""},
        {"name": "a\0"},
        {"name": "rf_node"},
        {"name": "RF_x"},
        {"name": "sqlite_x"},
        {"name": "pg_catalog.x"},
        {"name": "a.b.c"},
        {"name": "."},
        {"dialect": "oracle"},
    ],
)
def test_descriptions_that_no_database_gives_are_refused(kind: str, changes: dict[str, Any], fresh: Fresh) -> None:
    database = fresh(kind)
    plan = table(kind, **changes)
    with pytest.raises(PreflightError):
        make(database, plan_of(table(kind, name="first"), plan))
    with pytest.raises(PreflightError):
        make(database, {"another": table(kind)})
    assert shapes(database) == {}


@pytest.mark.parametrize("kind", DATABASES)
def test_odd_columns_are_refused(kind: str, fresh: Fresh) -> None:
    database = fresh(kind)
    for column in (
        ColumnPlan("v", "text", "text", generated=True),
        ColumnPlan("v", "no", "text"),
        # The type is there, and is another one than the description says.
        ColumnPlan("v", "int", "text"),
        ColumnPlan("id", "text", "text"),
        ColumnPlan("", "text", "text"),
        ColumnPlan("v\0", "text", "text"),
        ColumnPlan("v", "text", "text", default=Literal(Kind.TEXT, "\0")),
    ):
        plan = table(kind)
        with pytest.raises(PreflightError, match="item"):
            make(database, plan_of(msgspec.structs.replace(plan, columns=(*plan.columns, column))))
    assert shapes(database) == {}


def test_a_generated_column_says_what_to_do(fresh: Fresh) -> None:
    for kind, declared in (("sqlite", "INT AS (id + 1)"), ("postgresql", "int GENERATED ALWAYS AS (id + 1) STORED")):
        source, target = fresh(kind), fresh(kind)
        run(source, f"CREATE TABLE item (id int PRIMARY KEY, next {declared})")
        with pytest.raises(PreflightError, match=r"item.*next is generated.*create the table first"):
            make(target, carried(source))
        run(target, f"CREATE TABLE item (id int PRIMARY KEY, next {declared})")
        assert make(target, carried(source)) == []


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("source", DATABASES)
def test_a_thousand_columns(kind: str, source: str, fresh: Fresh) -> None:
    database = fresh(kind)
    plan = table(source)
    declared = plan.columns[1].declared
    more = tuple(ColumnPlan(f"column {number}", "text", declared) for number in range(1_000))
    make(database, plan_of(msgspec.structs.replace(plan, columns=plan.columns + more)))
    assert len(shapes(database)["item"].columns) == 1_002
    many = tuple(ColumnPlan(f"c{number}", "text", declared) for number in range(3_000))
    wide = msgspec.structs.replace(plan, name="wide", columns=plan.columns + many)
    assert "wide" in (refused(database, wide) or "")


def test_a_long_name_is_not_cut(fresh: Fresh) -> None:
    database = fresh("postgresql")
    for plan in (table("postgresql", name="n" * 64), with_column("postgresql", "ä" * 32)):
        with pytest.raises(PreflightError, match="longer than PostgreSQL keeps"):
            make(database, plan_of(plan))


@pytest.mark.parametrize("kind", DATABASES)
def test_a_name_that_is_taken_is_told(kind: str, fresh: Fresh) -> None:
    database = fresh(kind)
    run(database, "CREATE VIEW item AS SELECT 1 AS id")
    with pytest.raises(PreflightError, match=r"item.*view"):
        make(database, plan_of(table(kind)))
    run(database, "DROP VIEW item", "CREATE TABLE item (id int)")
    with pytest.raises(PreflightError, match=r"item.*no primary key"):
        make(database, plan_of(table(kind)))


@pytest.mark.parametrize("kind", DATABASES)
def test_a_parent_may_stand_already(kind: str, fresh: Fresh) -> None:
    database = fresh(kind)
    run(database, "CREATE TABLE parent (id integer PRIMARY KEY)", "INSERT INTO parent VALUES (1)")
    keys = (ReferencePlan(("id",), "parent", ("id",), Action.CASCADE, Action.RESTRICT, Checked.DEFERRABLE),)
    make(database, plan_of(table(kind, name="parent"), table(kind, foreign_keys=keys)))
    assert rows(database, "SELECT * FROM parent") == [(1,)]
    assert [key.parent for key in shapes(database)["item"].foreign_keys] == ["parent"]


@pytest.mark.parametrize("kind", DATABASES)
def test_a_statement_is_one_statement(kind: str, fresh: Fresh) -> None:
    database = fresh(kind)
    two = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)"
    # Python 3.11 has a warning for it, which is no error of the driver.
    with pytest.raises((PreflightError, sqlite3.Warning)):
        database.table_making().run([("first", "CREATE TABLE first (id int PRIMARY KEY)"), ("a", two)], lambda _: None)
    assert shapes(database) == {}


def test_a_stranger_action_does_not_decode() -> None:
    text = b'{"columns":["id"],"parent":"p","parent_columns":["id"],"on_delete":"CASCADE; DROP"}'
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=ReferencePlan)


# Any shape


_NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: not name.lower().startswith(("rf_", "sqlite_", "pg_"))
)


@st.composite
def tables(draw: st.DrawFn) -> str:
    names = draw(st.lists(_NAMES, min_size=1, max_size=6, unique_by=str.lower))
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    plain_types = [one for one in SQLITE_TYPES if all(letter.isalnum() or letter in " (),-" for letter in one)]
    plain_types = plain_types[: plain_types.index("LÄNGE")]
    columns = [
        f"{name} {draw(st.sampled_from(plain_types))} {draw(st.sampled_from(('', 'NOT NULL', 'DEFAULT 3')))}"
        for name in quoted
    ]
    keys = draw(st.lists(st.lists(st.sampled_from(quoted), min_size=1, unique=True), max_size=3))
    pk = draw(st.lists(st.sampled_from(quoted), min_size=1, unique=True))
    parts = [*columns, f"PRIMARY KEY ({', '.join(pk)})", *(f"UNIQUE ({', '.join(key)})" for key in keys)]
    option = draw(st.sampled_from(("", " WITHOUT ROWID")))
    return f'CREATE TABLE "the table" ({", ".join(parts)}){option}'


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sql=tables())
def test_any_sqlite_table_comes_back_the_same(sql: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("made")
    source, target = (open_database(f"sqlite:///{folder / name}") for name in ("source.db", "target.db"))
    with closing(source), closing(target):
        with source.engine.begin() as connection:
            connection.exec_driver_sql(sql)
        make(target, carried(source))
        assert shapes(target) == shapes(source)
        assert carried(target) == carried(source)
