"""A SQLite database's schema without its rows, in a file of its own: what would run is found out there."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from common.dialects import open_database
from common.ports.dialect import Database

_SCHEMA = """
SELECT sql FROM sqlite_schema
WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite!_%' ESCAPE '!' AND sql NOT LIKE 'CREATE VIRTUAL%'
  AND tbl_name NOT IN (SELECT name FROM pragma_table_list WHERE schema = 'main' AND type IN ('shadow', 'virtual'))
ORDER BY rowid
"""


@contextmanager
def empty_copy(database: Database) -> Iterator[Database]:
    """Give a database with the same tables, indexes, views and triggers, and no rows. Virtual tables stay out."""
    with database.engine.connect() as connection:
        statements = [row[0] for row in connection.exec_driver_sql(_SCHEMA)]
    with filled(statements) as copy:
        yield copy


@contextmanager
def filled(statements: list[str]) -> Iterator[Database]:
    """Give a database of its own that these statements were run on."""
    with tempfile.TemporaryDirectory(prefix="rowferry-") as folder:
        url = f"sqlite:///{Path(folder) / 'rehearsal.db'}"
        _fill(url, statements)
        copy = open_database(url)
        try:
            yield copy
        finally:
            copy.close()


def _fill(url: str, statements: list[str]) -> None:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)
    engine.dispose()
