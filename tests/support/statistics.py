"""What PostgreSQL counted: how many rows and blocks of which tables some work has touched."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from common.ports.dialect import Database
from tests.support.waiting import wait_for

_COUNTED = """
SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0),
       coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0) + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)
FROM pg_stat_user_tables JOIN pg_statio_user_tables USING (relid, relname)
"""
_OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
Touched = dict[str, tuple[int, int]]
"""Rows read and blocks, by table."""


def touched(database: Database, work: Callable[[], object]) -> Touched:
    """Return what `work` touches through `database`. A server process counts for all to see when it ends."""
    before = _counted(database)
    work()
    after = _counted(database)
    nothing = 0, 0
    return {name: _difference(counts, before.get(name, nothing)) for name, counts in after.items()}


def _difference(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] - other[0], one[1] - other[1]


def _counted(database: Database) -> Touched:
    url = database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    database.close()
    with psycopg.connect(url, autocommit=True) as connection:

        def alone() -> bool:
            return connection.execute(_OTHERS).fetchone() == (0,)

        wait_for(alone, 20, "no other session in the database")
        return {name: (rows, blocks) for name, rows, blocks in connection.execute(_COUNTED)}
