"""A driver's error to the error that says what to do, by SQLSTATE."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.naming import ident, relation_of
from common.dialects.postgresql.shapes import relation
from common.errors import (
    ConfigError,
    ContentionError,
    NoValueError,
    OutageError,
    PoisonError,
    Reason,
    RightsError,
    RowferryError,
)
from common.ports.dialect import TableShape

_OUTAGE_CLASSES = ("08", "53", "57P", "58", "F0", "XX")
"""Connections, resources, shutdown, files and the server's own faults: nothing of it is the batch's doing."""
_OUTAGE_STATES = frozenset({"25006", "55006"})
"""A server that is read-only (a standby took the place), a database that is in use by DROP or CREATE."""
_CONTENTION_STATES = frozenset({"40001", "40P01", "55P03", "57014"})
"""Serialization, deadlock, lock timeout, statement timeout."""
_STALE_PLAN = ("0A000", "RevalidateCachedQuery")
"""A plan whose table changed meanwhile; anything else that the server does not support stays so."""
_CONFIG_STATES = frozenset({"42501", "42P01", "42703", "42883", "55000", "3D000", "3F000", "28000", "28P01"})
"""Rights, relations, columns that are missing or unfit: the schema or the accounts must be mended first."""

_ROW_SECURITY = ("check_enable_rls", "ExecWithCheckOptions")
"""Where the server finds that a policy stands in the way; the state is the one of a missing right."""


def translate(error: BaseException) -> Exception:
    """Return the RowferryError that `error` of psycopg or SQLAlchemy calls for."""
    if isinstance(error, RowferryError):
        return error
    driver_error = error.orig if isinstance(error, sa.exc.DBAPIError) else error
    if isinstance(driver_error, psycopg.Error):
        return _by_state(driver_error)
    if isinstance(error, sa.exc.TimeoutError):
        return OutageError(f"no connection of the pool came free: {error}")
    return OutageError(str(error))


@contextmanager
def translated_for(table: TableShape, account: str) -> Iterator[None]:
    """The same as `translated` while rows of `table` are read and written: a right that is missing says what to run."""
    try:
        yield
    except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            raise RightsError(f"{_message(error)}; {_remedy(error, table, account)}", table=table.name) from error
        raise translate(error) from error


@contextmanager
def translated() -> Iterator[None]:
    """Raise errors of the driver as Rowferry's own."""
    try:
        yield
    except (psycopg.Error, sa.exc.SQLAlchemyError) as error:
        raise translate(error) from error


def _by_state(error: psycopg.Error) -> Exception:
    state = error.sqlstate or ""
    message = _message(error)
    if state in _CONTENTION_STATES or (state, error.diag.source_function) == _STALE_PLAN:
        return ContentionError(message)
    if not state and message.startswith("connection failed"):
        return OutageError(f"{message}: check [node] database, and whether its server is up")
    if not state or state.startswith(_OUTAGE_CLASSES) or state in _OUTAGE_STATES:
        return OutageError(message)
    if state in _CONFIG_STATES:
        return ConfigError(f"{message}; docs/README_M2.md lists the rights, `rowferry migrate` makes the tables")
    return _poison(error, state, message)


def _remedy(error: psycopg.Error, table: TableShape, account: str) -> str:
    if error.diag.source_function in _ROW_SECURITY:
        return f"as a superuser run: ALTER ROLE {ident(account)} BYPASSRLS"
    parents = dict.fromkeys(key.parent for key in table.foreign_keys if key.parent != table.name)
    grants = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {relation(table)} TO {ident(account)}"]
    grants += [f"GRANT SELECT, UPDATE ON {relation_of(parent)} TO {ident(account)}" for parent in parents]
    return f"as the owner run what is missing of: {'; '.join(grants)}"


def _poison(error: psycopg.Error, state: str, message: str) -> PoisonError:
    table = error.diag.table_name
    # 54: nested too deep, too large for an index or for a row; the value is at fault, and stays so.
    if state.startswith(("22", "54")):
        return PoisonError(Reason.TYPE, message, table=table)
    if state == "23502":
        return NoValueError(message, table=table, column=error.diag.column_name)
    if state == "23503":
        return PoisonError(Reason.FOREIGN_KEY, message, table=table)
    return PoisonError(Reason.CONSTRAINT, message, table=table)


def _message(error: psycopg.Error) -> str:
    diag = error.diag
    primary = diag.message_primary or " ".join(str(error).split())
    detail = f" ({diag.message_detail})" if diag.message_detail else ""
    named = f" [constraint {diag.constraint_name}]" if diag.constraint_name else ""
    return f"{primary}{detail}{named} [SQLSTATE {error.sqlstate}]" if error.sqlstate else primary
