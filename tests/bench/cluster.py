"""PostgreSQL clusters of the benchmark's own: made with `initdb` in a temporary folder, fsync on, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from tests.support.container_engine import free_port

SUPERUSER = "bench"
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "256MB",
    "max_connections": "100",
    "fsync": "on",
    "synchronous_commit": "on",
    # Native replication needs it, and all others must pay for it too.
    "wal_level": "logical",
    # One checkpoint before each measurement and none within: it would fall on one system and spare another.
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    # Workers are stopped for as long as a workload is written.
    "wal_sender_timeout": "0",
    "wal_receiver_timeout": "0",
}
_START_SECONDS = 60


def bin_folder() -> Path:
    """Where `initdb` and `pg_ctl` are: ROWFERRY_TEST_PG_BIN, Debian's version 15, else what PATH has."""
    found = shutil.which("initdb")
    candidates = [
        os.environ.get("ROWFERRY_TEST_PG_BIN"),
        "/usr/lib/postgresql/15/bin",
        str(Path(found).resolve().parent) if found else None,
    ]
    for candidate in candidates:
        if candidate and (Path(candidate) / "pg_ctl").exists():
            return Path(candidate)
    raise FileNotFoundError(
        "no initdb here: run infra/scripts/bench_setup.sh, or name PostgreSQL's bin folder in ROWFERRY_TEST_PG_BIN"
    )


@dataclass(frozen=True, slots=True)
class Account:
    """Whom PostgreSQL's programs run as: they refuse to be root."""

    user: int | None = None
    group: int | None = None

    @classmethod
    def unprivileged(cls) -> Account:
        """Debian's `postgres`, else `nobody`, for root; the caller for everyone else."""
        if os.geteuid() != 0:
            return cls()
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = known.get("postgres") or known["nobody"]
        return cls(entry.pw_uid, entry.pw_gid)

    def run(self, *command: str | Path) -> None:
        """Run one program to its end; its output goes into the error when it failed."""
        done = subprocess.run(
            [str(word) for word in command],
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")

    def own(self, folder: Path) -> None:
        """Make a folder this account's."""
        folder.mkdir()
        if self.user is not None and self.group is not None:
            os.chown(folder, self.user, self.group)


@dataclass(frozen=True, slots=True)
class Cluster:
    """One running cluster, wherever it came from."""

    name: str
    address: str
    """`user@host:port`, with a password where there is one."""
    pgbench: Callable[[str, Sequence[str]], None]
    """Runs pgbench on a database of this cluster, with these options."""
    postmaster: int | None = None
    """Process id, if on this machine; its children are the backends."""

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://{self.address}/{database}"

    def url(self, database: str) -> str:
        """SQLAlchemy's form of the same."""
        return self.dsn(database).replace("postgresql://", "postgresql+psycopg://")

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection in which each statement is a transaction of its own."""
        return psycopg.connect(self.dsn(database), autocommit=True)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run each statement in a transaction of its own."""
        with self.connect(database) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def pids(self, condition: str) -> list[int]:
        """Process ids of the server processes for which a condition on `pg_stat_activity` holds."""
        with self.connect() as connection:
            found = connection.execute(f"SELECT pid FROM pg_stat_activity WHERE {condition}".encode())
            return [int(pid) for (pid,) in found]


@contextmanager
def cluster(name: str, folder: Path, extra: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """Make, start, and in the end stop one cluster below `folder`, which others may enter."""
    binaries, account, home, port = bin_folder(), Account.unprivileged(), folder / name, free_port()
    account.own(home)
    data = home / "data"
    initdb = ("--username", SUPERUSER, "--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8")
    account.run(binaries / "initdb", "--pgdata", data, *initdb)
    settings = {**_SETTINGS, "port": str(port), "unix_socket_directories": str(home), **(extra or {})}
    with (data / "postgresql.auto.conf").open("a", encoding="utf-8") as file:
        file.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
    control = (binaries / "pg_ctl", "--pgdata", data, "--wait", "--timeout", str(_START_SECONDS))
    account.run(*control, "--log", home / "server.log", "start")
    try:
        postmaster = int((data / "postmaster.pid").read_text(encoding="utf-8").splitlines()[0])
        address = f"{SUPERUSER}@127.0.0.1:{port}"
        yield Cluster(name, address, partial(_pgbench, f"postgresql://{address}"), postmaster)
    finally:
        account.run(*control, "--mode", "immediate", "stop")


def _pgbench(server: str, database: str, options: Sequence[str]) -> None:
    command = [str(bin_folder() / "pgbench"), *options, f"{server}/{database}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"pgbench ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
