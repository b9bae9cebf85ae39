"""Whether this PostgreSQL server and account can do what a node needs."""

import time
from collections.abc import Iterator
from typing import Any

import psycopg

from common.ports.health import Finding, Level

Raw = psycopg.Connection[tuple[Any, ...]]

_AREA = "database"
_OLDEST = 130000
"""`xid8` and the snapshots that sealing goes by."""
_MOST_CLOCK_SECONDS = 5.0
_FACTS = """
SELECT pg_is_in_recovery(), current_setting('server_encoding'), current_setting('fsync'),
       current_setting('full_page_writes'), current_setting('synchronous_commit'), pg_backend_pid(),
       extract(epoch FROM clock_timestamp())::float8, current_setting('server_version'), current_database(),
       EXISTS (SELECT FROM pg_stat_activity
               WHERE wait_event = 'SyncRep' AND query_start < clock_timestamp() - interval '5 s')
"""


def findings(raw: Raw) -> Iterator[Finding]:
    """Look at the server behind one connection, which must be in no transaction."""
    before = time.time()
    row = raw.execute(_FACTS).fetchone()
    after = time.time()
    if row is None:
        raise LookupError("a SELECT without FROM gives one row")
    replica, encoding, fsync, pages, commit, backend, clock, version, database, unanswered = row
    yield Finding(_AREA, Level.OK, f"PostgreSQL {version}, database {database}, account {raw.info.user}")
    if raw.info.server_version < _OLDEST:
        yield Finding(_AREA, Level.FAIL, f"PostgreSQL {version} is too old", "use PostgreSQL 14 or newer")
    if replica:
        text = "this server is a read-only replica"
        yield Finding(_AREA, Level.FAIL, text, "point node.database to the primary")
    if backend != raw.info.backend_pid:
        text = "a connection pooler is in between: the locks that keep a single sealer belong to a session"
        yield Finding(_AREA, Level.FAIL, text, "point node.database to the server itself")
    if encoding == "SQL_ASCII":
        text = "the database is in SQL_ASCII: text that is not UTF-8 is accepted, and stops all that this node sends"
        yield Finding(_AREA, Level.FAIL, text, "use a database in UTF8")
    elif encoding != "UTF8":
        text = f"the database is in {encoding}: text of other nodes may not fit"
        yield Finding(_AREA, Level.WARN, text, "use a database in UTF8")
    for name, value in (("fsync", fsync), ("full_page_writes", pages)):
        if value != "on":
            text = f"{name} is {value}: what was acknowledged may be lost after a crash of the machine"
            yield Finding(_AREA, Level.FAIL, text, f"set {name} = on")
    if commit == "off":
        text = "synchronous_commit is off: a crash of the server loses what was acknowledged in its last moments"
        yield Finding(_AREA, Level.FAIL, text, "set synchronous_commit = on for this account")
    if unanswered:
        text = "commits wait for a synchronous standby that does not answer: the node and the application are blocked"
        yield Finding(_AREA, Level.FAIL, text, "bring the standby back, or fix synchronous_standby_names")
    ahead = clock - (before + after) / 2
    if abs(ahead) > _MOST_CLOCK_SECONDS:
        text = f"the server's clock is {ahead:+.0f} s off this machine's; its writes carry its own time"
        yield Finding(_AREA, Level.WARN, text, "sync both with a time server (NTP)")
    yield from _rights(raw)


def _rights(raw: Raw) -> Iterator[Finding]:
    try:
        raw.execute("SELECT set_config('session_replication_role', 'replica', true)")
    except psycopg.errors.InsufficientPrivilege:
        raw.rollback()
        text = "this account may not disable the application's triggers while batches are applied"
        remedy = f"as a superuser: GRANT SET ON PARAMETER session_replication_role TO {raw.info.user}"
        yield Finding(_AREA, Level.FAIL, text, remedy)
    else:
        raw.rollback()
