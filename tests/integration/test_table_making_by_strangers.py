"""A description is a stranger's text: what it says is carried out as it stands, or nothing is."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
import pytest

from common.errors import PreflightError
from common.ops.table_making import make
from common.ports.table_making import Action, Checked, ColumnPlan, KeyPlan, Kind, Literal, ReferencePlan
from tests.support.applying import DATABASES
from tests.support.table_plans import (
    Fresh,
    carried,
    plan_of,
    refused,
    rows,
    run,
    shapes,
    table,
    with_column,
)

pytestmark = pytest.mark.containers


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
