"""`rowferry run --once` ends: beside an application that goes on writing, and where nobody listens at the broker."""

from __future__ import annotations

import itertools
import sqlite3
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.container_engine import free_port
from tests.support.meanwhile import meanwhile
from tests.support.nodes import CliNode
from tests.support.rabbit_server import RabbitServer
from tests.support.waiting import wait_for

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


def _written(folder: Path, name: str) -> Path:
    file = folder / f"{name}.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute(_TABLE)
    return file


def _joined(road: str, folder: Path, stack: ExitStack, request: pytest.FixtureRequest) -> tuple[CliNode, CliNode]:
    """A node that writes, and another one that takes what it sends over `road`; both have met."""
    files = {name: _written(folder, name) for name in ("a", "b")}
    options: tuple[str, ...] = ()
    if road == "directory":
        options = ("--directory", str(folder / "exchange"))
    elif road == "broker":
        options = ("--broker", request.getfixturevalue("rabbitmq_url"))
    elif road == "kombu":
        (folder / "spool").mkdir()
        options = ("--broker", f"filesystem://{folder}/spool")
    a, b = (
        CliNode.init(name, folder / f"node-{name}", f"sqlite:///{file}", "--role", role, *options)
        for (name, file), role in zip(files.items(), ("main", "branch"), strict=True)
    )
    for node in (a, b):
        stack.callback(node.close)
        node.ok("migrate")
    if road == "http":
        port = free_port()
        a.configure("[server]", f"port = {port}")
        token = a.report("token", "create", "--node", "b", "--scope", "push,pull")["token"]
        secret = b.folder / "a.token"
        secret.write_text(token)
        secret.chmod(0o600)
        b.configure("[peers.a]", f'url = "http://127.0.0.1:{port}"', 'token_file = "a.token"')
        a.start(command="serve")
        stack.enter_context(closing(a))
        wait_for(lambda: b.call("doctor").returncode in (0, 1), 60, "the server")
    b.ok("run", "--once")
    a.start()
    return a, b


def _url_of_a(b: CliNode) -> str:
    peers = tomllib.loads((b.folder / "rowferry.toml").read_text())["peers"]
    return str(peers["a"]["url"])


@pytest.mark.containers
@pytest.mark.parametrize("road", ["directory", "http", "broker", "kombu"])
def test_once_ends_beside_another_node_that_writes(tmp_path: Path, road: str, request: pytest.FixtureRequest) -> None:
    with ExitStack() as stack:
        a, b = _joined(road, tmp_path, stack, request)
        a.execute(*(f"INSERT INTO item VALUES ({number}, 0)" for number in range(_BEFORE)))
        with written_all_the_time(tmp_path / "a.db"):
            wait_for(lambda: a.head() > 2 * _BEFORE, 60, "the application to have written more")
            said = b.ok("run", "--once", timeout=90)
            assert "others are still sending" in said
            assert b.query(f"SELECT count(*) FROM item WHERE id < {_BEFORE}") == [(_BEFORE,)]


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


def test_a_pull_ends_beside_a_node_that_writes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with ExitStack() as stack:
        a, b = _joined("http", tmp_path, stack, request)
        a.execute(*(f"INSERT INTO item VALUES ({number}, 0)" for number in range(_BEFORE)))
        with written_all_the_time(tmp_path / "a.db"):
            wait_for(lambda: a.head() > 2 * _BEFORE, 60, "the application to have written more")
            b.ok("pull", "--url", _url_of_a(b), timeout=90)
            assert b.query(f"SELECT count(*) FROM item WHERE id < {_BEFORE}") == [(_BEFORE,)]


def test_once_reads_the_folder_though_the_broker_is_away(tmp_path: Path) -> None:
    shared = ("--directory", str(tmp_path / "exchange"))
    nobody = ("--broker", f"amqp://guest:guest@127.0.0.1:{free_port()}/")
    a = CliNode.init("a", tmp_path / "node-a", f"sqlite:///{_written(tmp_path, 'a')}", *shared)
    b = CliNode.init("b", tmp_path / "node-b", f"sqlite:///{_written(tmp_path, 'b')}", *shared, *nobody)
    a.ok("migrate")
    b.ok("migrate", code=5)
    file = b.folder / "rowferry.toml"
    file.write_text(file.read_text().replace("after = 60", "after = 1"))
    a.execute("INSERT INTO item VALUES (1, 0)")
    b.execute("INSERT INTO item VALUES (2, 0)")
    a.ok("run", "--once")
    ended = b.call("run", "--once", timeout=120)
    assert ended.returncode == 5, ended.stderr
    assert b.query("SELECT id FROM item") == [(1,), (2,)]
    # The broker has been away for ten seconds by then: files take its place.
    a.ok("run", "--once")
    assert a.query("SELECT id FROM item") == [(1,), (2,)]
