"""SIGTERM and SIGHUP end a command as Ctrl-C does: what is half done goes, children too; the caller is told of it."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from tests.support.nodes import CliNode
from tests.support.waiting import wait_for


def dumping(connection: psycopg.Connection[tuple[int]]) -> bool:
    """Whether a pg_dump waits for its lock."""
    waits = "query LIKE 'LOCK TABLE % IN ACCESS SHARE MODE'"
    row = connection.execute(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND {waits}"
    ).fetchone()
    return row is not None and row[0] > 0


def dumps_of(database: str) -> list[bytes]:
    """The pg_dump processes that are there for it; the server does not notice that one is gone while it waits."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(file.read_bytes())
    return [one for one in found if b"pg_dump" in one and database.encode() in one]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_backup(pg_database: str, tmp_path: Path, number: signal.Signals) -> None:
    node = CliNode.init("office", tmp_path / "office", pg_database, "--directory", str(tmp_path / "exchange"))
    node.execute("CREATE TABLE item (id integer PRIMARY KEY)")
    node.ok("migrate")
    folder = tmp_path / "backups" / "one"
    folder.parent.mkdir()
    plain = pg_database.replace("+psycopg", "")
    with psycopg.connect(plain) as application, psycopg.connect(plain, autocommit=True) as watcher:
        application.execute("LOCK TABLE item IN ACCESS EXCLUSIVE MODE")
        backup = node.start(str(folder), command="backup")
        wait_for(lambda: dumping(watcher), 30, "pg_dump")
        assert folder.exists()
        backup.process.send_signal(number)
        assert backup.process.wait(timeout=30) == -number
        assert not folder.exists(), backup.tail()
        assert not dumps_of(plain.rpartition("/")[2])
    node.ok("backup", str(folder))
