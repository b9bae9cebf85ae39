"""Descriptions of tables, what is made of them, and the shapes that come out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import sqlalchemy as sa

from common.errors import PreflightError
from common.ops.table_making import describe, make, statements
from common.ports.dialect import Database, TableShape
from common.ports.table_making import ColumnPlan, TablePlan
from tests.support.postgresql_values import PG_VALUES as SOME_VALUES

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
