"""Several real nodes under load, behind proxies that can be cut; and how they are brought to rest and counted."""

from __future__ import annotations

import json
import random
import re
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from tests.faults.checks import Found, violations
from tests.faults.ledger import SCHEMA, TABLES, WITNESS, Author, Journal, Watcher
from tests.faults.proxy import Proxy
from tests.support.nodes import CliNode, Running
from tests.support.waiting import wait_for

REST_SECONDS = 120.0
_QUICK = {
    "ROWFERRY_BROKER_HEARTBEAT_SECONDS": "2",
    "ROWFERRY_BROKER_BLOCKED_TIMEOUT_SECONDS": "3",
    "ROWFERRY_LIMITS_GAP_SECONDS": "2",
    "ROWFERRY_LIMITS_ANNOUNCE_SECONDS": "1",
    "ROWFERRY_LIMITS_MAX_BATCH_BYTES": "16384",
    "ROWFERRY_LIMITS_MESSAGE_BYTES": "8192",
}
_QUICK_FOLDER = {"ROWFERRY_DIRECTORY_POLL_SECONDS": "0.2", "ROWFERRY_DIRECTORY_SETTLE": "1"}
"""Minutes are what these waits are for; a test has seconds."""


@dataclass
class Member:
    """One node, its application, and what stands between it and its servers."""

    node: CliNode
    journal: Journal
    environment: dict[str, str]
    proxies: dict[str, Proxy] = field(default_factory=dict)
    """By `broker` and `database`."""
    running: Running | None = None
    author: Author | None = None
    watcher: Watcher | None = None
    _log_marks: dict[Path, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.node.node_id

    @property
    def is_postgres(self) -> bool:
        return self.node.database.startswith("postgresql")

    def start(self, **environment: str) -> Running:
        """Start its process."""
        assert self.running is None or self.running.process.poll() is not None, f"{self.name} runs"
        self.running = self.node.start(**{**self.environment, **environment})
        return self.running

    def kill(self) -> None:
        """SIGKILL."""
        assert self.running is not None
        self.running.kill()

    def mark_log(self) -> None:
        """Look in the log from here on."""
        self._log_marks = {run.log: run.log.stat().st_size for run in self.node.runs}

    def logged(self, *words: str) -> bool:
        """Tell whether one of `words` was logged since the mark."""
        for run in self.node.runs:
            text = run.log.read_bytes()[self._log_marks.get(run.log, 0) :].decode(errors="replace")
            if any(word in text for word in words):
                return True
        return False


class Site:
    """The nodes. The first one is main."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.members: dict[str, Member] = {}
        self.counts: Counter[str] = Counter()
        self.halves: list[str] = []
        self.start_seconds = 0.0
        """How long it took until all processes were at work, when they were started together."""
        self._looks = 0

    def __getitem__(self, name: str) -> Member:
        return self.members[name]

    def __iter__(self) -> Iterator[Member]:
        return iter(self.members.values())

    def add(
        self,
        name: str,
        database: str | None,
        broker: str | None = None,
        exchange: Path | None = None,
        *,
        wal: bool = True,
        on: Path | None = None,
    ) -> Member:
        """Return a new migrated node. `database`: the URL of an empty PostgreSQL database, None for an SQLite file,
        which may lie `on` another file system."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        url = database or _sqlite(on or folder, wal=wal)
        options = ["--tables", "*", "--role", "branch" if self.members else "main"]
        options += ["--broker", broker] if broker else []
        options += ["--directory", str(exchange)] if exchange else []
        node = CliNode.init(name, folder, url, *options)
        config = folder / "rowferry.toml"
        text = re.sub(r"(?m)^#? ?exclude = .*$", 'exclude = ["witness"]', config.read_text())
        assert '\nexclude = ["witness"]\n' in text
        config.write_text(text)
        if database:
            node.execute(*SCHEMA, *WITNESS)
        node.ok("migrate")
        quick = {
            "PYTHONFAULTHANDLER": "1",
            **(_QUICK if broker else _QUICK_LIMITS),
            **(_QUICK_FOLDER if exchange else {}),
        }
        member = Member(node, Journal(name), quick)
        for what, address in (("broker", broker), ("database", database)):
            if address:
                member.proxies[what], member.environment[_SETTING[what]] = _proxied(address)
        self.members[name] = member
        return member

    def start(self) -> None:
        """Start every process, and see that each takes part before anything is broken."""
        began = time.monotonic()
        for member in self:
            member.start()
        wait_for(lambda: all(member.logged("run.started") for member in self), REST_SECONDS, "all nodes to start")
        self.start_seconds = time.monotonic() - began
        self.rest()

    def close(self) -> None:
        """End everything."""
        for member in self:
            if member.author is not None:
                member.author.stop()
            if member.watcher is not None:
                member.watcher.stop()
            member.node.close()
            for proxy in member.proxies.values():
                proxy.close()

    @contextmanager
    def load(self, a_second: float = 15) -> Iterator[None]:
        """Let every application write, and a reader look on, for as long as this is entered."""
        for member in self:
            database = member.node.database
            member.author = Author(member.name, database, member.journal, self.dice.getrandbits(32), a_second)
            member.watcher = Watcher(member.name, database)
            member.author.start()
            member.watcher.start()
        try:
            yield
        finally:
            for member in self:
                assert member.author is not None
                assert member.watcher is not None
                member.author.stop()
                member.watcher.stop()
                self.halves += member.watcher.seen
                self._looks += member.watcher.looks
                member.author = member.watcher = None

    def wait_for_commits(self, least: int, names: Sequence[str] = (), seconds: float = 120) -> None:
        """Wait until each of these applications has committed so many transactions more."""
        chosen = [member for member in self if not names or member.name in names]
        goals = {member.name: len(member.journal.committed) + least for member in chosen}
        wait_for(
            lambda: all(len(member.journal.committed) >= goals[member.name] for member in chosen),
            seconds,
            f"{least} transactions on {', '.join(goals)}",
        )

    def mark_logs(self) -> None:
        """Look in the logs from here on."""
        for member in self:
            member.mark_log()

    def rest(self) -> None:
        """Let everything arrive, once the applications are quiet. TimeoutError with the ends of the logs."""
        for member in self:
            if member.running is None or member.running.process.poll() is not None:
                member.start()
        last = {member.name: self._write_last(member) for member in self}
        try:
            for member in self:
                wait_for(lambda member=member: self._has_all(member, last), REST_SECONDS, f"{member.name} to have all")  # type: ignore[misc]
        except TimeoutError as error:
            for member in self:
                error.add_note(f"--- {member.name}\n{_last_words(member)}")
            raise

    def check(self, *letters: str) -> list[str]:
        """Count on every node, and return what is wrong."""
        assert self._looks or not self.halves
        found = {member.name: self._found(member) for member in self}
        self.counts["txs"] = sum(len(member.journal.committed) for member in self)
        self.counts["rows"] = sum(len(one.tables["entry"]) for one in found.values())
        self.counts["looks"] = self._looks
        return [*violations({member.name: member.journal for member in self}, found, letters), *self.halves]

    def _write_last(self, member: Member) -> str:
        author = Author(member.name, member.node.database, member.journal, self.dice.getrandbits(32), 1)
        try:
            wait_for(lambda: author.write(1), REST_SECONDS, f"{member.name}'s database to take a write")
        finally:
            author.close()
        return f"{member.name}-{len(member.journal.tried)}-0"

    def _has_all(self, member: Member, last: dict[str, str]) -> bool:
        query = member.node.query
        ids = ", ".join(f"'{one}'" for one in last.values())
        if query(f"SELECT count(*) FROM entry WHERE id IN ({ids})") != [(len(last),)]:
            return False
        return all(other.node.head() <= member.node.watermark(other.name) for other in self if other is not member)

    def _found(self, member: Member) -> Found:
        node = member.node
        letters = node.query(
            "SELECT source_node, tx_id, reason FROM rf_dead_letter WHERE state IN ('dead', 'early', 'forked')"
        )
        applied = node.query(
            "SELECT source_node, tx_id, count(*) FROM rf_audit WHERE action IN ('applied', 'replayed')"
            " GROUP BY source_node, tx_id"
        )
        witnessed = None
        if member.is_postgres:
            witnessed = Counter(dict(node.query("SELECT id, count(*) FROM witness GROUP BY id")))
        return Found(
            member.name,
            self._log(member),
            node.rows(TABLES),
            Counter({(source, tx_id): many for source, tx_id, many in applied}),
            {(source, tx_id): reason for source, tx_id, reason in letters},
            witnessed,
        )

    def _log(self, member: Member) -> dict[str, list[str]]:
        """Read the node's whole log as its operator can."""
        out = member.node.folder / "whole.jsonl"
        out.unlink(missing_ok=True)
        member.node.ok("export-change-log", "--out", str(out))
        log: dict[str, list[str]] = {}
        with out.open(encoding="utf-8") as lines:
            for line in map(json.loads, lines):
                if line["type"] != "change":
                    assert line["type"] in ("batch", "end"), line["type"]
                    continue
                ids = log.setdefault(line["tx_id"], [])
                if line["table"] == "entry":
                    assert line["op"] == "I", line
                    ids.append(line["pk"]["id"])
        return log


def _last_words(member: Member) -> str:
    """End a process that hangs, and return the end of its log with what each of its threads was at."""
    assert member.running is not None
    if member.running.process.poll() is not None:
        return f"{member.running.log}: ended with {member.running.process.returncode}\n{member.running.tail(3000)}"
    member.running.process.send_signal(signal.SIGABRT)
    member.running.process.wait(30)
    return f"{member.running.log}\n{member.running.tail(12_000)}"


_QUICK_LIMITS = {name: value for name, value in _QUICK.items() if "_BROKER_" not in name}
_SETTING = {"broker": "ROWFERRY_BROKER_URL", "database": "ROWFERRY_NODE_DATABASE"}


def _sqlite(folder: Path, *, wal: bool) -> str:
    path = folder / "app.db"
    with closing(sqlite3.connect(path)) as connection:
        if wal:
            connection.execute("PRAGMA journal_mode=WAL")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.commit()
    return f"sqlite:///{path}"


def _proxied(url: str) -> tuple[Proxy, str]:
    parsed: Any = sa.make_url(url)
    proxy = Proxy(parsed.host, parsed.port)
    return proxy, parsed.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
