"""SQLite's result codes as decisions."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from common.errors import ContentionError, NoValueError, OutageError, PoisonError, Reason, RowferryError

_PRIMARY = 0xFF
"""The low byte of an extended result code."""
_CONSTRAINT_DATATYPE = sqlite3.SQLITE_CONSTRAINT | 12 << 8
"""A STRICT table refused a value's class; Python has no name for it."""
_OF_THE_APPLICATION = ("no such function: ", "unknown function: ", "no such collation sequence: ")
"""How SQLite begins to say that a CHECK, an index or a column needs what only the application's connections have."""
_OF_A_VALUE = (
    "JSON cannot hold BLOB values",
    "JSON path error",
    "LIKE or GLOB pattern too complex",
    "bad JSON path",
    "integer overflow",
    "malformed JSON",
    "non-deterministic use of ",
)
"""How it begins to say that a CHECK, an index or a column has an expression that can't be worked out for a value."""
_REMEDY = {
    sqlite3.SQLITE_FULL: "free space on its disk",
    sqlite3.SQLITE_IOERR: "check whether its disk is full or broken, and whether it is mounted",
    sqlite3.SQLITE_READONLY: "give this account write permission on the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "check the path, and permissions on the file and its folder",
    sqlite3.SQLITE_PERM: "give this account permission on the file",
    sqlite3.SQLITE_NOTADB: "the file is not a SQLite database: check node.database",
    sqlite3.SQLITE_CORRUPT: "the file is damaged: restore an earlier copy",
    sqlite3.SQLITE_PROTOCOL: "the locks of its WAL could not be taken; try again",
    sqlite3.SQLITE_NOMEM: "the machine is out of memory",
}


def translate(error: sa.exc.SQLAlchemyError) -> Exception:
    """Return the RowferryError for what SQLAlchemy raised."""
    if isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, sqlite3.Error):
        return translate_driver(error.orig)
    return RowferryError(f"database: {error}")


def translate_driver(error: sqlite3.Error) -> RowferryError:
    """Return the RowferryError for what the sqlite3 module raised."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return RowferryError(f"database: {error}")
    primary = code & _PRIMARY
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return ContentionError(f"another program holds the database: {error}")
    if primary in _REMEDY:
        return OutageError(f"database: {error}; {_REMEDY[primary]}")
    if code == _CONSTRAINT_DATATYPE or primary in (sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG):
        return PoisonError(Reason.TYPE, f"a value does not fit its column: {error}")
    if code == sqlite3.SQLITE_CONSTRAINT_NOTNULL:
        return NoValueError(str(error), table=None, column=str(error).partition(": ")[2] or None)
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return PoisonError(Reason.CONSTRAINT, str(error))
    if str(error).startswith(_OF_THE_APPLICATION):
        return PoisonError(Reason.CONSTRAINT, f"the table needs what only its application has: {error}")
    if str(error).startswith(_OF_A_VALUE):
        return PoisonError(Reason.TYPE, f"an expression of the table does not take a value: {error}")
    return RowferryError(f"database: {error}")


@contextmanager
def translating() -> Iterator[None]:
    """Let driver errors of the body out as RowferryErrors."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate_driver(error) from error
    except sa.exc.SQLAlchemyError as error:
        raise translate(error) from error
