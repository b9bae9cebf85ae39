"""A command that seals, or changes tables, waits for whoever writes for long, as a `run` that applies a large tx."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.support.nodes import CliNode

_HELD_SECONDS = 12
"""Longer than the patience with rows that somebody holds for a moment, and than one try."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "a.db"


@pytest.fixture
def node(tmp_path: Path, file: Path) -> Iterator[CliNode]:
    made = CliNode.init("a", tmp_path / "a", f"sqlite:///{file}", "--directory", str(tmp_path / "exchange"))
    made.execute("CREATE TABLE item (id INTEGER PRIMARY KEY)")
    made.ok("migrate")
    yield made
    made.close()


@contextmanager
def written_for_long(file: Path) -> Iterator[None]:
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
        yield
    finally:
        holder.join()


def test_an_export_waits_for_a_long_write(node: CliNode, file: Path, tmp_path: Path) -> None:
    node.execute("INSERT INTO item VALUES (1)")
    with written_for_long(file):
        node.ok("export-change-log", "--out", str(tmp_path / "out.jsonl"))
    assert b'"pk":{"id":1}' in (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.heavy
def test_pause_and_resume_wait_for_a_long_write(node: CliNode, file: Path) -> None:
    with written_for_long(file):
        node.ok("pause", "item")
    node.execute("INSERT INTO item VALUES (1)")
    with written_for_long(file):
        assert node.report("resume", "item")["sealed"] == 1
    assert sorted(line["action"] for line in node.report("audit")) == ["pause", "resume"]


@pytest.mark.heavy
def test_migrate_waits_for_a_long_write(node: CliNode, file: Path) -> None:
    node.execute("CREATE TABLE later (id INTEGER PRIMARY KEY)")
    with written_for_long(file):
        node.ok("migrate")
    node.execute("INSERT INTO later VALUES (1)")
    node.ok("run", "--once")
    assert node.head() == 1
