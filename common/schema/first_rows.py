"""Rows that stood in a table before capture did: nobody sends them."""

from collections.abc import Collection, Sequence

import sqlalchemy as sa

from common.errors import OutageError
from common.ports.dialect import Database, TableShape

_NAMES = sa.select(sa.column("name", sa.Text)).select_from(sa.table("rf_table"))
_VERSIONED = sa.text(
    "SELECT EXISTS (SELECT 1 FROM rf_row_version v JOIN rf_table t ON t.table_id = v.table_id"
    " WHERE t.name = :name AND v.hlc > 0)"
)


def with_rows(database: Database, tables: Sequence[TableShape], *, briefly: bool = False) -> tuple[str, ...]:
    """Name the tables that were never captured and have rows. Ask before capture is installed.

    `briefly`: of a table that somebody holds, or that may not be read, nothing is said."""
    try:
        with database.engine.connect() as connection:
            known = set(connection.scalars(_NAMES))
        fresh = [shape for shape in tables if shape.name not in known]
        return tuple(shape.name for shape in fresh if _has_rows(database, shape, briefly=briefly))
    except sa.exc.SQLAlchemyError as error:
        raise database.translate(error) from error


def _has_rows(database: Database, shape: TableShape, *, briefly: bool) -> bool:
    with database.engine.connect() as connection:
        if not briefly:
            return bool(connection.scalar(any_row(shape)))
        try:
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL lock_timeout = '500ms'")
            return bool(connection.scalar(any_row(shape)))
        except sa.exc.SQLAlchemyError as error:
            if isinstance(database.translate(error), OutageError):
                raise
            return False


def never_sent(database: Database, names: Collection[str]) -> tuple[str, ...]:
    """Return those of which nothing is known, once capture is installed: the others were renamed while captured."""
    try:
        with database.engine.connect() as connection:
            return tuple(name for name in names if not connection.scalar(_VERSIONED, {"name": name}))
    except sa.exc.SQLAlchemyError as error:
        raise database.translate(error) from error


def any_row(shape: TableShape) -> sa.Select[tuple[bool]]:
    """Return the query that tells whether a table has rows."""
    table = sa.table(sa.sql.quoted_name(shape.bare, True), schema=shape.schema)
    return sa.select(sa.exists(sa.select(sa.literal(1)).select_from(table)))
