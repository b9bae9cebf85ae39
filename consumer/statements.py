"""Statements that each database spells in its own way, and the way of its errors out of here."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite

from common.ports.dialect import Database
from common.retry import in_transaction
from common.schema import tables as rf

T = TypeVar("T")


@contextmanager
def reading(database: Database) -> Iterator[sa.Connection]:
    """One transaction that only reads; the driver's errors come out as Rowferry's."""
    try:
        with database.engine.begin() as connection:
            yield connection
    except sa.exc.SQLAlchemyError as error:
        raise database.translate(error) from error


def writing(database: Database, work: Callable[[sa.Connection], T]) -> T:
    """Run `work` in one bookkeeping transaction and return its result; again while others hold what it needs.

    Takes SQLite's write lock first: a transaction that reads before it writes would be refused there, not made to
    wait, when another one has written in between."""

    def locked(connection: sa.Connection) -> T:
        if connection.dialect.name == "sqlite":
            connection.execute(_NOTHING)
        return work(connection)

    return in_transaction(database, locked)


_NOTHING = sa.delete(rf.attempt).where(sa.false())


def selective(dialect: str, condition: sa.ColumnElement[bool]) -> sa.ColumnElement[Any]:
    """Return a condition on the first column of an index, so that SQLite goes by that index.

    Whoever analyzed a database while it was young told SQLite that its tables are all but empty, and it does not ask
    again: it would read them from their beginning, each time."""
    return condition if dialect != "sqlite" else sa.func.likelihood(condition, sa.literal_column("0.000001"))


def by_index(connection: sa.Connection) -> None:
    """Let the rest of this transaction go by indexes, and in their order, whatever PostgreSQL takes a range to hold."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_BY_INDEX)


_BY_INDEX = (
    "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),"
    " set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)


def keyed(
    connection: sa.Connection, first: sa.Column[str], value: str, column: sa.Column[str], values: Sequence[str]
) -> sa.ColumnElement[bool]:
    """Return `first = value AND column IN values`, for an index that begins with `first`."""
    return sa.and_(selective(connection.dialect.name, first == value), _among(connection, column, values))


def _among(connection: sa.Connection, column: sa.Column[str], values: Sequence[str]) -> sa.ColumnElement[bool]:
    """Return `column IN values` with one parameter however many there are: thousands of them are slow to take apart."""
    match connection.dialect.name:
        case "sqlite":
            listed = sa.func.json_each(json.dumps(list(values))).table_valued("value")
            return column.in_(sa.select(listed.c.value))
        case "postgresql":
            return column == sa.any_(sa.literal(list(values), postgresql.ARRAY(sa.Text)))
        case _:
            return column.in_(values)


def among_given(dialect: str, column: sa.Column[str], name: str) -> sa.ColumnElement[bool]:
    """Return `column IN` the list that `as_list` gives the parameter `name`: for statements that are made once."""
    match dialect:
        case "sqlite":
            return column.in_(sa.select(sa.func.json_each(sa.bindparam(name)).table_valued("value").c.value))
        case "postgresql":
            # Not ANY of the array: as a filter that would be read from its text anew for each row.
            return column.in_(sa.select(given_list(name).c.value))
        case _:
            return column.in_(sa.bindparam(name, expanding=True))


def given_list(name: str) -> sa.TableValuedAlias:
    """Return PostgreSQL's list that `as_list` gives the parameter `name` as rows, to join from: `value`."""
    array = sa.cast(sa.bindparam(name, type_=sa.Text), postgresql.ARRAY(sa.Text))
    return sa.func.unnest(array).table_valued("value").render_derived()


def as_list(dialect: str, values: Sequence[str]) -> str | list[str]:
    """Return `values` as the parameter of `among_given`."""
    match dialect:
        case "sqlite":
            return json.dumps(list(values))
        case "postgresql":
            from common.dialects.postgresql.arrays import text_array

            return text_array(values)
        case _:
            return list(values)


def insert_many(
    connection: sa.Connection, table: sa.Table, names: Sequence[str], rows: Sequence[Sequence[Any]]
) -> None:
    """Insert rows whose values are in the order of `names`, by COPY where the database has it."""
    if not rows:
        return
    if connection.dialect.name != "postgresql":
        connection.execute(sa.insert(table), [dict(zip(names, row, strict=True)) for row in rows])
        return
    # Not at the top: a node on SQLite needs no driver of PostgreSQL.
    from common.dialects.postgresql.copying import copy_rows

    copy_rows(connection, table, names, rows)


def insert_lines(
    connection: sa.Connection, table: sa.Table, names: Sequence[str], begun: Sequence[str], last: int
) -> None:
    """Insert rows that are lines of COPY's text form but for their last value, the same for all. PostgreSQL alone.

    `begun`: of each row the values before it, escaped where they must be, with a tab behind each."""
    from common.dialects.postgresql.copying import copy_text

    end = f"{last}\n"
    copy_text(connection, table, names, end.join([*begun, ""]))


def insert_missing(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows whose primary key is not there yet. Waits for another transaction that is inserting one."""
    if rows:
        connection.execute(_insert_missing(connection.dialect.name, table), rows)


def upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows, or set the given columns where the primary key is there. All rows name the same columns."""
    if rows:
        connection.execute(upsert_of(connection.dialect.name, table, tuple(rows[0])), rows)


@cache
def _insert_missing(dialect: str, table: sa.Table) -> sa.Insert:
    match dialect:
        case "sqlite":
            return sqlite.insert(table).on_conflict_do_nothing()
        case "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        case _:
            return mysql.insert(table).prefix_with("IGNORE")


@cache
def upsert_of(dialect: str, table: sa.Table, names: tuple[str, ...]) -> sa.Insert:
    """Return the statement of `upsert` for rows that name these columns."""
    keys = [column.name for column in table.primary_key]
    given = [name for name in names if name not in keys]
    match dialect:
        case "sqlite":
            lite = sqlite.insert(table)
            return lite.on_conflict_do_update(index_elements=keys, set_={n: lite.excluded[n] for n in given})
        case "postgresql":
            post = postgresql.insert(table)
            return post.on_conflict_do_update(index_elements=keys, set_={n: post.excluded[n] for n in given})
        case _:
            maria = mysql.insert(table)
            return maria.on_duplicate_key_update({n: maria.inserted[n] for n in given})
