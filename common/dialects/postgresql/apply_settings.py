"""Settings of the connections that apply, and how long they keep the plans of their statements.

They stay set for as long as the connection lives: PostgreSQL throws every plan away when `session_replication_role`
changes, so a transaction that sets it for itself plans each of its statements anew, twice as long as it runs them.
"""

import time

import psycopg
import sqlalchemy as sa

from common.dialects.postgresql.connection import driver, pin_for_good
from common.dialects.postgresql.prepared import Prepared
from common.errors import AccountError

ROW_LOCK_TIMEOUT = "100ms"
"""Well below the server's deadlock_timeout: of an applier and the application, the applier gives way."""

_PLANNED = "rowferry_planned"
"""In `connection.info`: since when plans are kept, on the clock that only goes forward."""
_KEEP_SECONDS = 10.0
"""A table that was empty when a plan was made may have grown; the server notices by itself only after minutes."""
_FEW = 100
"""Up to so many rows at once planning a statement takes longer than running it."""
_FOR_FEW = {
    # Also where the values are lists: of one or of a hundred, they are looked up in the same index.
    "plan_cache_mode": "force_generic_plan",
    # PostgreSQL takes every set of keys for a hundred, and would read a table of some thousand rows whole.
    "random_page_cost": "1",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_FOR_MANY = """
SELECT set_config('plan_cache_mode', 'force_custom_plan', true), set_config('random_page_cost', '4', true),
       set_config('enable_hashjoin', 'on', true), set_config('enable_mergejoin', 'on', true)
"""


def ready(connection: sa.Connection) -> None:
    """Set up a connection that begins a transaction; costs nothing where it is set up already."""
    now = time.monotonic()
    planned = connection.info.get(_PLANNED)
    if planned is None:
        _pin(driver(connection))
    elif now - planned > _KEEP_SECONDS:
        driver(connection).execute("DISCARD PLANS")
    else:
        return
    connection.info[_PLANNED] = now


def plan_for(connection: sa.Connection, prepared: Prepared, rows: int) -> None:
    """Before statements of many rows: plan those of this transaction for the values they are given, and those of the
    next for what is then."""
    if rows <= _FEW:
        return
    prepared.execute(_FOR_MANY)
    connection.info[_PLANNED] = time.monotonic() - 2 * _KEEP_SECONDS


def _pin(raw: "psycopg.Connection[tuple[object, ...]]") -> None:
    try:
        pin_for_good(raw, session_replication_role="replica", lock_timeout=ROW_LOCK_TIMEOUT, **_FOR_FEW)
    except psycopg.errors.InsufficientPrivilege as error:
        raise AccountError(
            "the database account may not switch triggers off while batches are applied; as a superuser run:"
            f" GRANT SET ON PARAMETER session_replication_role TO {raw.info.user}"
        ) from error
    raw.commit()
