"""Whether this SQLite file, library and Python can do what a node needs."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from common.ports.health import Finding, Level

_LEAST_FREE_BYTES = 256 * 1024 * 1024
_AREA = "database"


def findings(connection: sqlite3.Connection, path: str, *, triggers_off: bool) -> Iterator[Finding]:
    """Look at one opened database."""
    yield Finding(_AREA, Level.OK, f"SQLite {sqlite3.sqlite_version}, {path}")
    if not triggers_off:
        text = "this Python can't disable the application's triggers while batches are applied"
        yield Finding(_AREA, Level.FAIL, text, "use Python 3.12 or newer")
    mode = str(connection.execute("PRAGMA journal_mode").fetchone()[0])
    if mode != "wal":
        text = f"journal_mode is {mode}: readers and writers wait for each other, Rowferry and the application too"
        yield Finding(_AREA, Level.WARN, text, f"run once: sqlite3 {path} 'PRAGMA journal_mode=WAL'")
    yield from _file(Path(path))


def _file(path: Path) -> Iterator[Finding]:
    if str(path).startswith("file:"):
        return
    for what in (path, path.resolve().parent):
        if not os.access(what, os.W_OK):
            text = f"{what} can't be written by this account; SQLite needs its folder too, for its journal"
            yield Finding(_AREA, Level.FAIL, text, f"chown or chmod {what}")
    free = shutil.disk_usage(path.resolve().parent).free
    if free < _LEAST_FREE_BYTES:
        text = f"{free // 1024 // 1024} MiB are free on the disk of {path}"
        yield Finding(
            _AREA, Level.WARN, text, "free some space: a full disk stops capture, and with it the application"
        )
