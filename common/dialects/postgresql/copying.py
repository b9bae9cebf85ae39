"""Many rows into one table of ours by COPY: half of what an INSERT of arrays costs, on both sides."""

from collections.abc import Sequence
from typing import Any

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.connection import driver
from common.dialects.postgresql.naming import ident

_FEW = 5
"""So many rows are inserted one by one: COPY goes to the server twice and is parsed anew each time."""


def copy_text(connection: sa.Connection, table: sa.Table, names: Sequence[str], text: str) -> None:
    """Insert rows from the lines of COPY's text form, each with its newline. Raises sqlalchemy's errors."""
    statement = f"COPY {ident(table.name)} ({', '.join(map(ident, names))}) FROM STDIN"
    try:
        with driver(connection).cursor() as cursor, cursor.copy(statement.encode()) as copy:
            copy.write(text)
    except psycopg.Error as error:
        raise sa.exc.DBAPIError(statement, None, error) from error


def copy_rows(connection: sa.Connection, table: sa.Table, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Insert `rows`, whose values are in the order of `names`. Raises sqlalchemy's errors, as its own statements do."""
    columns = ", ".join(map(ident, names))
    raw = driver(connection)
    insert = f"INSERT INTO {ident(table.name)} ({columns}) VALUES ({', '.join(['%s'] * len(names))})"
    try:
        if len(rows) <= _FEW:
            for row in rows:
                raw.execute(insert.encode(), row)
            return
        with raw.cursor() as cursor, cursor.copy(f"COPY {ident(table.name)} ({columns}) FROM STDIN".encode()) as copy:
            for row in rows:
                copy.write_row(row)
    except psycopg.Error as error:
        raise sa.exc.DBAPIError(insert, None, error) from error
