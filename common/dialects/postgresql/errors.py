"""A driver's error to the error that says what to do, by SQLSTATE."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import assert_never

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.naming import ident, relation_of
from common.dialects.postgresql.shapes import relation
from common.dialects.postgresql.sqlstates import Kind, kind_of
from common.errors import (
    AccountError,
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

_NO_RIGHT = "42501"
"""Of a captured table it is told as that (`translated_for`); all else is Rowferry's own."""
_NOT_NULL = "23502"
_LOCK_TIMEOUT = "55P03"
_POOLED = "a connection pooler is in between: point node.database to the server itself"
_REMEDIES = {
    "25006": "if it is a standby, name the primary in node.database; else end default_transaction_read_only there",
    "26000": _POOLED,
    "42P05": _POOLED,
    "53100": "free space on the disks of the database's server",
}
"""What ends an outage, where the server's own words do not say it."""
_GO_AND_SEE = "check [node] database, and whether its server is up"
_LET_IN = (
    (
        re.compile("too many (connections|clients)|remaining connection slots"),
        "end connections there, or raise max_connections or the CONNECTION LIMIT of the role or the database",
    ),
    (
        re.compile("FATAL: "),
        "check [node] database, and what the server lets its account do (LOGIN, CONNECT, pg_hba.conf)",
    ),
)
"""What lets a node in again, by what the server says; in another language than English only the latter is known."""
_WHO_LOCKS = "another session holds a lock on a whole table: pg_locks and pg_stat_activity show which"
_STALE_PLAN = ("0A000", "RevalidateCachedQuery")
"""A plan whose table changed meanwhile; anything else that the server does not support stays so."""
_INTERNAL = "XX000"
_READ_TEXTS = frozenset({"hstore_io.c", "lwgeom_inout.c", "lwgeom_pg.c", "ltxtquery_io.c", "tsquery.c"})
"""Sources of the server, and of its extensions, that call a value an internal error where they can't read it: hstore
before PostgreSQL 16, PostGIS, two kinds of search terms."""
_OF_A_NAME = frozenset({"3F000", "42883", "42P01"})
"""What a statement that names something which is not there ends with; and `regclass`, `regproc` and their like, where
no such table or function is here for a value."""
_REFUSED = re.compile(r'[^"]*"(value .* (?:does not fit|would be another key in) column .*)"', re.DOTALL)
"""How `reading` refuses a value: in the words of an input function, in whatever language, around its own."""
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
        if isinstance(error, psycopg.Error) and _is_a_value(error):
            raise PoisonError(Reason.TYPE, _message(error), table=table.name) from error
        known = translate(error)
        if isinstance(known, PoisonError) and known.reason is not Reason.FOREIGN_KEY:
            # The server names none where a type refuses a value, and calls a partition, or one of another schema, else.
            known.table = table.name
        raise known from error


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
    if isinstance(error, psycopg.DataError) and not state:
        # The driver itself does not send it, a NUL for one: it never will, however long anybody waits.
        return PoisonError(Reason.TYPE, message)
    if not state:
        is_known = message.startswith("connection failed")
        return OutageError(f"{message}: {_connecting_remedy(message)}" if is_known else message)
    if (state, error.diag.source_function) == _STALE_PLAN:
        return ContentionError(message)
    if state == _INTERNAL and error.diag.source_file in _READ_TEXTS:
        return PoisonError(Reason.TYPE, message)
    match kind_of(state):
        case Kind.OUTAGE:
            return OutageError(f"{message}; {_REMEDIES[state]}" if state in _REMEDIES else message)
        case Kind.TRANSIENT if state == _LOCK_TIMEOUT and not error.diag.context:
            return ContentionError(f"{message}; {_WHO_LOCKS}")
        case Kind.TRANSIENT:
            return ContentionError(message)
        case Kind.SETUP:
            kind = AccountError if state == _NO_RIGHT else ConfigError
            return kind(f"{message}; docs/README_M2.md lists the rights, `rowferry migrate` creates the tables")
        case Kind.TYPE:
            return PoisonError(Reason.TYPE, message, table=error.diag.table_name)
        case Kind.FOREIGN_KEY:
            return PoisonError(Reason.FOREIGN_KEY, message, table=error.diag.table_name)
        case Kind.CONSTRAINT if state == _NOT_NULL:
            return NoValueError(message, table=error.diag.table_name, column=error.diag.column_name)
        case Kind.CONSTRAINT:
            return PoisonError(Reason.CONSTRAINT, message, table=error.diag.table_name)
        case never:
            assert_never(never)


def _connecting_remedy(message: str) -> str:
    """Return what helps where nobody was let in: the driver has no SQLSTATE then, only the server's words."""
    return next((remedy for words, remedy in _LET_IN if words.search(message)), _GO_AND_SEE)


def _is_a_value(error: psycopg.Error) -> bool:
    """Tell whether it is a value that names what is not here. Of a statement, or of a function, the place is told."""
    diag = error.diag
    return error.sqlstate in _OF_A_NAME and diag.statement_position is None and diag.context is None


def _remedy(error: psycopg.Error, table: TableShape, account: str) -> str:
    if error.diag.source_function in _ROW_SECURITY:
        return f"as a superuser run: ALTER ROLE {ident(account)} BYPASSRLS"
    parents = dict.fromkeys(key.parent for key in table.foreign_keys if key.parent != table.name)
    grants = [f"GRANT SELECT, INSERT, UPDATE, DELETE ON {relation(table)} TO {ident(account)}"]
    grants += [f"GRANT SELECT, UPDATE ON {relation_of(parent)} TO {ident(account)}" for parent in parents]
    return f"as the owner run what is missing of: {'; '.join(grants)}"


def _message(error: psycopg.Error) -> str:
    diag = error.diag
    primary = diag.message_primary or " ".join(str(error).split())
    if (refused := _REFUSED.fullmatch(primary)) is not None:
        primary = refused[1]
    # Which row is held stands there alone.
    held = diag.context.partition("\n")[0] if error.sqlstate == _LOCK_TIMEOUT and diag.context else None
    told = held or diag.message_detail
    detail = f" ({told})" if told else ""
    named = f" [constraint {diag.constraint_name}]" if diag.constraint_name else ""
    return f"{primary}{detail}{named} [SQLSTATE {error.sqlstate}]" if error.sqlstate else primary
