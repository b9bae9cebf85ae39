"""A command that seals waits for whoever writes for long, as a `run` that applies a large tx."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from tests.support.nodes import CliNode

_HELD_SECONDS = 12
"""Longer than the patience with rows that somebody holds for a moment, and than one try."""


def test_an_export_waits_for_a_long_write(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    node = CliNode.init("a", tmp_path / "a", f"sqlite:///{file}", "--directory", str(tmp_path / "exchange"))
    node.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    node.ok("migrate")
    node.execute("INSERT INTO item VALUES (1)")
    held = threading.Event()

    def hold() -> None:
        with closing(sqlite3.connect(file, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            held.set()
            time.sleep(_HELD_SECONDS)
            connection.execute("ROLLBACK")

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(30)
    try:
        node.ok("export-change-log", "--out", str(tmp_path / "out.jsonl"))
    finally:
        holder.join()
    assert b'"pk":{"id":1}' in (tmp_path / "out.jsonl").read_bytes()
    node.close()
