"""Connections: engines with real transactions, and the plain sqlite3 connection under them."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import sqlalchemy as sa

from common.dialects.sqlite.errors import translating
from common.dialects.sqlite.values import read_text
from common.errors import ConfigError, OutageError

BUSY_TIMEOUT_MS = 5_000
OLDEST = (3, 37, 0)
"""`PRAGMA table_list` and STRICT tables came with it."""


def check_url(url: sa.URL) -> str:
    """Return the file a URL names. Raises ConfigError for databases that only one connection can see."""
    if sqlite3.sqlite_version_info < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old: Rowferry needs {wanted} or newer")
    path = url.database
    if not path or path == ":memory:" or "mode=memory" in path:
        raise ConfigError("node.database: an in-memory database can't be shared; give a file, sqlite:///store.db")
    return path


def is_there(path: str) -> bool:
    """Tell whether a URL's file exists; of one that is a URI itself, SQLite says so."""
    return path.startswith("file:") or os.path.exists(path)


def make_engine(
    url: sa.URL,
    begin: str = "BEGIN",
    prepare: Callable[[sqlite3.Connection], None] | None = None,
    *,
    create: bool = True,
    alone: bool = False,
) -> sa.Engine:
    """Return an engine whose transactions are SQLite's own, each opened with the statement `begin`.

    Python's sqlite3 would begin late and commit before DDL, so that is switched off (`isolation_level`).
    `prepare` is called on each new connection. Without `create` a file that is not there is an OutageError.
    `alone`: one connection, which all borrowers get in turn."""
    path = check_url(url)
    pool = {"pool_size": 1, "max_overflow": 0} if alone else {}
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000}, **pool)

    def before_connect(*_: object) -> None:
        if not create and not is_there(path):
            raise OutageError(f"node.database: {path} is gone; restore it, or check its mount")
        # SQLite says that it can't open the file, and not which.
        if create and not is_there(folder := os.path.dirname(path) or "."):
            raise OutageError(f"node.database: the folder {folder} is not there; check the path and its mount")

    def on_connect(raw: Any, _record: object) -> None:
        connection = cast(sqlite3.Connection, raw)
        connection.isolation_level = None
        connection.text_factory = read_text
        if prepare is not None:
            prepare(connection)

    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    sa.event.listen(engine, "do_connect", before_connect)
    sa.event.listen(engine, "connect", on_connect)
    sa.event.listen(engine, "begin", on_begin)
    return engine


@contextmanager
def borrowed(engine: sa.Engine) -> Iterator[sqlite3.Connection]:
    """Lend a plain sqlite3 connection of the engine's pool. Driver errors come out as RowferryErrors."""
    with translating():
        proxied = engine.raw_connection()
        try:
            yield cast(sqlite3.Connection, proxied.driver_connection)
        finally:
            proxied.close()


@contextmanager
def transaction(connection: sqlite3.Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """Run the body in one transaction; anything that goes wrong, the commit too, rolls back."""
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def fetched(connection: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    """Return all rows, values as `values.Value`. The module's own decoder is several times as fast, and fails on text
    that is not UTF-8: then, and only then, everything is read again."""
    connection.text_factory = str
    try:
        return connection.execute(query).fetchall()
    except sqlite3.OperationalError as error:
        if "decode to UTF-8" not in str(error):
            raise
    finally:
        connection.text_factory = read_text
    return connection.execute(query).fetchall()
