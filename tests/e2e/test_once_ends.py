"""`rowferry run --once` ends: beside an application that goes on writing, and where nobody listens at the broker."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.meanwhile import meanwhile
from tests.support.nodes import CliNode
from tests.support.rabbit_server import RabbitServer

_TABLE = "CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER)"
_BEFORE = 50


@contextmanager
def written_all_the_time(file: Path) -> Iterator[None]:
    """An insert every few milliseconds, each in a transaction of its own."""
    numbers = itertools.count(1_000)

    def write(stop: threading.Event) -> None:
        with closing(sqlite3.connect(file, timeout=30, isolation_level=None)) as connection:
            while not stop.wait(0.005):
                connection.execute("INSERT INTO item VALUES (?, 0)", (next(numbers),))

    with meanwhile(write):
        yield


def test_once_ends_beside_an_application_that_writes(tmp_path: Path) -> None:
    file = tmp_path / "node.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute(_TABLE)
    node = CliNode.init("a", tmp_path / "a", f"sqlite:///{file}", "--directory", str(tmp_path / "exchange"))
    node.ok("migrate")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.executemany("INSERT INTO item VALUES (?, 0)", [(number,) for number in range(_BEFORE)])
    with written_all_the_time(file):
        began = time.monotonic()
        node.ok("run", "--once")
        assert time.monotonic() - began < 60
    lines = b"".join(path.read_bytes() for path in (tmp_path / "exchange" / "a").glob("*.jsonl"))
    assert all(b'"pk":{"id":%d}' % number in lines for number in range(_BEFORE))
    node.close()


@pytest.mark.containers
def test_once_ends_where_no_queue_takes_what_is_sent(tmp_path: Path, rabbitmq: RabbitServer) -> None:
    file = tmp_path / "node.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(_TABLE)
    vhost = rabbitmq.create_vhost()
    node = CliNode.init("a", tmp_path / "a", f"sqlite:///{file}", "--broker", rabbitmq.url(vhost))
    node.ok("migrate")
    node.ok("run", "--once")
    for queue in ("rowferry.node.a", "rowferry.retry.a", "rowferry.dead.a"):
        rabbitmq.management("DELETE", f"/api/queues/{quote(vhost, safe='')}/{queue}")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO item VALUES (1, 0)")
    ended = node.call("run", "--once", "--only", "producer", timeout=90)
    assert ended.returncode == 5, ended.stderr
    assert "unroutable" in ended.stderr or "no queue" in ended.stderr
    assert ended.stderr.count("service.outage") < 30
    node.close()
    rabbitmq.delete_vhost(vhost)
