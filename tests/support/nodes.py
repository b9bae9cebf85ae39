"""Whole nodes for end-to-end tests: a folder, a `rowferry.toml`, the `rowferry` command as a user calls it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import sqlalchemy as sa

from tests.support.waiting import wait_for

ROWFERRY = Path(sys.executable).parent / "rowferry"
Rows = dict[str, list[tuple[Any, ...]]]


@dataclass
class Running:
    """A `rowferry run` that goes on in the background, and its log."""

    process: subprocess.Popen[bytes]
    log: Path

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def stop(self) -> int:
        """SIGTERM, and the exit code it ended with; within the ten seconds that a node has, and some air."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def tail(self, characters: int = 4000) -> str:
        return self.log.read_text(errors="replace")[-characters:]


@dataclass
class CliNode:
    """One node as its operator sees it."""

    node_id: str
    folder: Path
    database: str
    runs: list[Running] = field(default_factory=list)

    @classmethod
    def init(cls, node_id: str, folder: Path, database: str, *options: str) -> Self:
        """Write the node's configuration with `rowferry init`."""
        folder.mkdir(parents=True, exist_ok=True)
        node = cls(node_id, folder, database)
        node.ok("init", "--node", node_id, "--database", database, *options)
        return node

    def configure(self, section: str, *lines: str) -> None:
        """Put lines at the beginning of a section of its configuration, which is made if it is not there."""
        file = self.folder / "rowferry.toml"
        text = file.read_text()
        if f"{section}\n" not in text:
            text += f"\n{section}\n"
        file.write_text(text.replace(f"{section}\n", "\n".join((section, *lines, "")), 1))

    def call(self, *arguments: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [str(ROWFERRY), "--config", str(self.folder / "rowferry.toml"), *arguments],
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ok(self, *arguments: str, code: int = 0, timeout: float = 300) -> str:
        """Run one command that must end with `code`; return its stdout."""
        done = self.call(*arguments, timeout=timeout)
        assert done.returncode == code, (
            f"rowferry {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done.stdout

    def report(self, *arguments: str, code: int = 0) -> Any:
        """Run one command with `--json` and return its document."""
        return json.loads(self.ok(*arguments, "--json", code=code))

    def start(self, *options: str, command: str = "run", **environment: str) -> Running:
        """Start `rowferry run`, or another command that goes on, in the background."""
        log = self.folder / f"run-{len(self.runs)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [str(ROWFERRY), "--config", str(self.folder / "rowferry.toml"), command, *options],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        running = Running(process, log)
        self.runs.append(running)
        return running

    @contextmanager
    def engine(self) -> Iterator[sa.Engine]:
        """The node's database, as the application sees it."""
        engine = sa.create_engine(self.database, poolclass=sa.NullPool)
        try:
            yield engine
        finally:
            engine.dispose()

    def execute(self, *statements: str) -> None:
        """Run statements as the application, in one transaction."""
        with self.engine() as engine, engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.engine() as engine, engine.connect() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(statement)]

    def rows(self, tables: Sequence[str]) -> Rows:
        """Return all rows of `tables`, in an order that doesn't depend on the database."""
        return {table: sorted(self.query(f'SELECT * FROM "{table}"'), key=repr) for table in tables}

    def head(self) -> int:
        """Return the end of the sealed log."""
        return int(self.query("SELECT coalesce(max(to_lsn), 0) FROM rf_tx")[0][0])

    def watermark(self, source: str) -> int:
        """Return how far the log of `source` has been applied here."""
        statement = f"SELECT coalesce(max(last_lsn), 0) FROM rf_sync_state WHERE peer = '{source}' AND direction = 'in'"
        return int(self.query(statement)[0][0])

    def close(self) -> None:
        """End what still runs."""
        for running in self.runs:
            if running.process.poll() is None:
                running.kill()


MakeNode = Callable[..., CliNode]
"""The fixture `nodes`: id, database and options of `init`."""


def wait_until_applied(source: CliNode, target: CliNode, timeout_seconds: float = 120, txs: int = 1) -> None:
    """Wait until `source` has sealed at least `txs`, and `target` has applied all that is sealed."""

    def arrived() -> bool:
        sealed = int(source.query("SELECT count(*) FROM rf_tx")[0][0])
        return sealed >= txs and source.head() <= target.watermark(source.node_id)

    try:
        wait_for(arrived, timeout_seconds, f"{target.node_id} to apply the log of {source.node_id}")
    except TimeoutError as error:
        for node in (source, target):
            for running in node.runs[-1:]:
                error.add_note(f"--- {node.node_id}: {running.log.name}\n{running.tail()}")
        raise


def sync(*way: CliNode, code: int = 0) -> None:
    """Each node of `way` in turn sends and takes what there is; the last one may set things aside."""
    for node in way[:-1]:
        node.ok("run", "--once")
    way[-1].ok("run", "--once", code=code)


def letters(node: CliNode) -> list[tuple[str, str]]:
    """Table and reason of every dead letter."""
    return sorted((str(one["table_name"]), one["reason"]) for one in node.report("dlq", "list", "--all"))


def sqlite_database(folder: Path, name: str, statements: Sequence[str]) -> str:
    """Make a database file with what `statements` make in it; return its URL."""
    with closing(sqlite3.connect(folder / name)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{folder / name}"
