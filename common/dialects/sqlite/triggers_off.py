"""Switches an applying connection's triggers off, so that only the batch speaks: SQLITE_DBCONFIG_ENABLE_TRIGGER."""

import ctypes
import sqlite3
from collections.abc import Callable
from typing import cast

_ENABLE_TRIGGER = 1003


def switch_triggers_off(connection: sqlite3.Connection) -> bool:
    """Keep every trigger quiet on this connection for good; False where this Python can't.

    From Python 3.12 on the sqlite3 module has a call for it. Before, the library's own is called through ctypes, on
    the handle that stands first in the connection object, and read back."""
    setconfig = cast(Callable[[int, bool], None] | None, getattr(connection, "setconfig", None))
    if setconfig is not None:
        setconfig(_ENABLE_TRIGGER, False)
        return True
    return _by_ctypes(connection) and _stays_quiet(connection)


def _by_ctypes(connection: sqlite3.Connection) -> bool:
    import _sqlite3

    library = getattr(_sqlite3, "__file__", None)
    if library is None or type(connection) is not sqlite3.Connection:
        return False
    configure = getattr(ctypes.CDLL(library), "sqlite3_db_config", None)
    if configure is None:
        return False
    handle = ctypes.c_void_p.from_address(id(connection) + object.__basicsize__)
    left = ctypes.c_int(-1)
    code = configure(handle, ctypes.c_int(_ENABLE_TRIGGER), ctypes.c_int(0), ctypes.byref(left))
    return code == sqlite3.SQLITE_OK and left.value == 0


def _stays_quiet(connection: sqlite3.Connection) -> bool:
    """Try it: a trigger in the temporary schema of this connection must not fire."""
    connection.executescript(
        "CREATE TEMP TABLE rf_probe (n); CREATE TEMP TRIGGER rf_probe_fired AFTER INSERT ON rf_probe"
        " BEGIN UPDATE rf_probe SET n = 1; END; INSERT INTO rf_probe VALUES (0);"
    )
    quiet = connection.execute("SELECT n FROM temp.rf_probe").fetchone()[0] == 0
    connection.execute("DROP TABLE temp.rf_probe")
    return bool(quiet)
