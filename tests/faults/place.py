"""Where faults are injected: a site, the servers behind it, and the handles that a fault needs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import psycopg
import pytest
import sqlalchemy as sa

from common.transports.rabbitmq.topology import CHANGES
from tests.faults.site import Member, Site
from tests.support.postgres_server import PostgresServer
from tests.support.rabbit_server import RabbitServer
from tests.support.rabbitmq import queue
from tests.support.waiting import wait_for

FELT_SECONDS = 90.0
OUTAGE = ("service.outage", "run.can_not_start", "rows_held")


@dataclass
class Place:
    """A site that goes on writing, and what can be done to it. Node `m` is on PostgreSQL, `b` on SQLite."""

    site: Site
    disk: Path
    """A small file system of its own: the SQLite file lies there, or the shared folder."""
    broker: RabbitServer | None = None
    broker_url: str = ""
    postgres: PostgresServer | None = None
    letters: tuple[str, ...] = ()
    """Reasons for which the fault in hand may have a batch set aside."""

    @property
    def m(self) -> Member:
        return self.site["m"]

    @property
    def b(self) -> Member:
        return self.site["b"]

    @property
    def rabbit(self) -> RabbitServer:
        assert self.broker is not None
        return self.broker

    @property
    def server(self) -> PostgresServer:
        assert self.postgres is not None
        return self.postgres

    def felt(self, *members: Member, words: tuple[str, ...] = OUTAGE) -> None:
        """Wait until these nodes have told of the fault: one that nobody felt shows nothing."""
        for member in members:
            wait_for(lambda member=member: member.logged(*words), FELT_SECONDS, f"{member.name} to tell of it")  # type: ignore[misc]

    def admin(self, statement: str) -> None:
        """Run a statement on node m's database, outside of any transaction."""
        with self.postgres_session() as session:
            session.execute(statement.encode())

    @contextmanager
    def postgres_session(self, *, autocommit: bool = True) -> Iterator[psycopg.Connection[Any]]:
        """A connection of the administrator to node m's database."""
        url = sa.make_url(self.m.node.database).set(drivername="postgresql")
        with psycopg.connect(url.render_as_string(hide_password=False), autocommit=autocommit) as session:
            session.execute("SET default_transaction_read_only = off")
            yield session

    @contextmanager
    def sqlite_session(self) -> Iterator[sqlite3.Connection]:
        """A connection to node b's database."""
        path = str(sa.make_url(self.b.node.database).database)
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as session:
            yield session

    def terminate_sessions(self) -> None:
        """End every session on node m's database."""
        self.admin(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )

    def api(self, method: str, path: str) -> Any:
        """Call the broker's management API; what is gone already is fine."""
        try:
            return self.rabbit.management(method, path)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 404:
                    raise
            return None

    def depth(self, member: Member) -> int:
        """Return how many messages lie in a node's queue."""
        return int(queue(self.rabbit, self.broker_url, f"rowferry.node.{member.name}").get("messages", 0))

    def tapped(self, count: int) -> list[tuple[pika.BasicProperties, bytes]]:
        """Return copies of batches that are published from now on, which every node gets as well."""
        found: list[tuple[pika.BasicProperties, bytes]] = []
        with closing(pika.BlockingConnection(pika.URLParameters(self.broker_url))) as connection:
            channel = connection.channel()
            name = channel.queue_declare("", exclusive=True).method.queue
            channel.queue_bind(name, CHANGES, "default.m")

            def take() -> bool:
                method, properties, body = channel.basic_get(name, auto_ack=True)
                # A batch: not what nodes say beside them.
                if method is not None and b'"type":"batch"' in body[:40]:
                    found.append((properties, body))
                return len(found) >= count

            wait_for(take, FELT_SECONDS, f"{count} messages", longest_pause_seconds=0.02)
        return found

    def send_to(self, member: Member, messages: list[tuple[pika.BasicProperties, bytes]]) -> None:
        """Put messages straight into a node's queue."""
        with closing(pika.BlockingConnection(pika.URLParameters(self.broker_url))) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for properties, body in messages:
                channel.basic_publish("", f"rowferry.node.{member.name}", body, properties, mandatory=True)

    def fill(self) -> Path:
        """Fill the small file system to its last byte; return the file that does so."""
        path = self.disk / "filler"
        with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        return path


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of its own, where this account may mount one."""
    disk = folder / "disk"
    disk.mkdir()
    size = f"size={megabytes}m"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a small disk: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        # Lazily: what is still open there ends with its process.
        subprocess.run(["umount", "-l", str(disk)], check=False)


def signal_of(member: Member, number: int) -> None:
    """Send a signal to a node's process."""
    assert member.running is not None
    os.kill(member.running.process.pid, number)


Run = Callable[[Place], None]
