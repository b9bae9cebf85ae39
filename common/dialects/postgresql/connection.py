"""Engines for psycopg 3, and the settings under which Rowferry's own sessions read and write values."""

from collections.abc import Mapping
from typing import Any, Literal

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.prepared import watch_rollbacks
from common.errors import ConfigError

IMAGE_SETTINGS = {
    "datestyle": "ISO, YMD",
    "intervalstyle": "iso_8601",
    "timezone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "quote_all_identifiers": "off",
}
"""What decides how a value looks as text: pinned in the trigger functions and in Rowferry's own sessions."""

_SESSION_SETTINGS = {
    **IMAGE_SETTINGS,
    "xmloption": "content",
    "array_nulls": "on",
    # A policy that hides rows from this account must be an error, not a hole in what is captured or checked.
    "row_security": "off",
    # These statements run for milliseconds; compiling them would take longer.
    "jit": "off",
}


_STARTUP_OPTIONS = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "default_transaction_read_only": "off",
        "statement_timeout": 0,
        # Whoever holds one of Rowferry's own tables (VACUUM FULL, LOCK) must not make a node, `status` and probes hang
        # without a word, nor keep writers in a queue behind a lock that is waited for.
        "lock_timeout": "30s",
        "idle_in_transaction_session_timeout": 0,
        # A pool keeps connections that nothing is done on for a while: each end of one would look like an outage.
        "idle_session_timeout": 0,
        # Lists of values go out as arrays, and their empty places would be read as the word NULL.
        "array_nulls": "on",
        # A type would have another name than it has on other nodes.
        "quote_all_identifiers": "off",
        "extra_float_digits": 1,
    }.items()
)
"""What a database or a role may have set for its applications would stop a node for ever, or bend what it writes and
reads. The URL's `options` win."""

_TRANSACTION_TIMEOUT = "transaction_timeout"
_TRANSACTION_TIMEOUT_SINCE = 170000
"""An older server lets nobody in who names it in the options."""


def normalised(url: str) -> sa.URL:
    """Return `url` for psycopg 3, whatever driver it names. Raises ConfigError."""
    try:
        parsed = sa.make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigError(f"node.database: {error}") from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigError(f"node.database: {parsed.drivername!r} is not PostgreSQL")
    return parsed.set(drivername="postgresql+psycopg")


BY_INDEX_SETTINGS = {
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    # No row is looked up twice there: to remember it takes longer than to find it.
    "enable_memoize": "off",
    "jit": "off",
    "work_mem": "64MB",
    "plan_cache_mode": "force_generic_plan",
}
"""For sessions that seal and read the log. Hash and merge joins read whole tables where statistics are stale, a bitmap
scan reads and sorts a whole backlog where the next few txs are wanted. So all goes by an index, and LATERAL with
OFFSET 0 or LIMIT 1 says from which side. Such plans don't depend on the parameters: made once, they are kept with the
prepared statement, for planning took longer than running."""


def make_engine(
    url: str,
    settings: Mapping[str, str] | None = None,
    isolation: Literal["READ COMMITTED", "AUTOCOMMIT"] = "READ COMMITTED",
) -> sa.Engine:
    """Return an engine whose transactions are READ COMMITTED, whatever the server's default says.

    `settings`: what its sessions begin with. AUTOCOMMIT: each statement by itself, which spares two round trips."""
    parsed = normalised(url)
    defaults: dict[str, str | int] = {"application_name": "rowferry", "connect_timeout": 10, "client_encoding": "utf8"}
    given = {name: value for name, value in defaults.items() if name not in parsed.query}
    own = " ".join(f"-c {name}={value}" for name, value in (settings or {}).items())
    given["options"] = " ".join(f"{_STARTUP_OPTIONS} {own} {_text(parsed.query.get('options', ''))}".split())
    # The connection used last is used next: it has its statements prepared and their plans made.
    engine = sa.create_engine(parsed, isolation_level=isolation, connect_args=given, pool_size=10, pool_use_lifo=True)
    watch_rollbacks(engine)
    if _TRANSACTION_TIMEOUT not in str(given["options"]):
        sa.event.listen(engine, "connect", _lift_transaction_timeout)
    return engine


def _lift_transaction_timeout(raw: Any, _record: object) -> None:
    if raw.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
        raw.execute(f"SET {_TRANSACTION_TIMEOUT} = 0")
        raw.commit()


def _text(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else " ".join(value)


def driver(connection: sa.Connection) -> "psycopg.Connection[tuple[Any, ...]]":
    """Return psycopg's connection: the same transaction, with pipelines, binary results and server-side cursors."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise ConfigError(f"{connection.engine.url!r} is not driven by psycopg 3")
    return raw


def pin_settings(raw: "psycopg.Connection[tuple[Any, ...]]", **more: str) -> None:
    """Set the session's settings until the end of the transaction, in one round trip."""
    _set(raw, {**_SESSION_SETTINGS, **more}, until="transaction")


def pin_for_good(raw: "psycopg.Connection[tuple[Any, ...]]", **more: str) -> None:
    """Set the session's settings for as long as the connection lives. The caller commits, or they are taken back."""
    _set(raw, {**_SESSION_SETTINGS, **more}, until="session")


def _set(
    raw: "psycopg.Connection[tuple[Any, ...]]", wanted: Mapping[str, str], until: Literal["transaction", "session"]
) -> None:
    calls = ", ".join("set_config(%s, %s, %s)" for _ in wanted)
    values = [part for name, value in wanted.items() for part in (name, value, until == "transaction")]
    raw.execute(f"SELECT {calls}".encode(), values)


SERVER_IDENTITY = """
SELECT concat_ws('/',
    CASE WHEN has_function_privilege('pg_catalog.pg_control_system()', 'execute')
         THEN (SELECT system_identifier::text FROM pg_control_system()) ELSE '?' END,
    (SELECT oid::text FROM pg_database WHERE datname = current_database()),
    current_database(),
    CASE WHEN pg_is_in_recovery() THEN '?'
         ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int::text END)
"""
"""System identifier, database oid, name and timeline."""
