"""Statements as they are really sent, and how the database really ran them: which tables it read, by what, how much.

PostgreSQL tells of each statement itself (auto_explain, as notices to the session): the plan that ran, prepared or not,
under that session's settings, those of triggers too. SQLite's statements are traced; how each is run is asked for
afterwards, and how long it took is counted in steps of its virtual machine."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import sqlalchemy as sa

AUTO_EXPLAIN = " ".join(
    f"-c {name}={value}"
    for name, value in {
        "session_preload_libraries": "auto_explain",
        "auto_explain.log_min_duration": 0,
        "auto_explain.log_analyze": "on",
        "auto_explain.log_buffers": "on",
        "auto_explain.log_timing": "off",
        "auto_explain.log_format": "json",
        "auto_explain.log_level": "notice",
        "auto_explain.log_nested_statements": "on",
    }.items()
)
"""`options` of a URL: each session tells of its statements. For a superuser."""

_SCANNED = re.compile(r"(SCAN|SEARCH) (?:main\.)?(\w+)(?: AS \w+)?(?: USING (?:COVERING )?(?:INDEX (\w+)|(.*KEY)))?")
_NAMED = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:main\.)?\"?(\w+)\"?(?:\s+AS)?\s+(\w+)", re.IGNORECASE)
_NO_PLANS = (
    "--",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "PRAGMA",
    "SAVEPOINT",
    "RELEASE",
    "CREATE",
    "DROP",
    "EXPLAIN",
    "INSERT INTO RF_PROBE",
)


@dataclass(frozen=True, slots=True)
class Read:
    """One table as one statement read it."""

    statement: str
    table: str
    index: str | None
    """None: the table itself, from its beginning."""
    is_search: bool
    """By a key; else from one end."""
    rows: int
    """Looked at, those too that did not fit. On SQLite: steps of the whole statement."""
    blocks: int = 0
    counts: bool = False
    """Only an index was read, to count what it has under a key."""

    def __str__(self) -> str:
        how = f"by {self.index}" if self.index else "from its beginning"
        how = how if self.is_search else f"all of it, {how}"
        return f"{self.table} {how}: {self.rows} rows, {self.blocks} blocks: {self.shown}"

    @property
    def shown(self) -> str:
        """The statement, its middle left out."""
        return self.statement if len(self.statement) < 400 else f"{self.statement[:120]} … {self.statement[-280:]}"


@dataclass
class Caught:
    """What was run, by the name of the work that ran it."""

    reads: dict[str, list[Read]] = field(default_factory=dict)
    steps: dict[str, int] = field(default_factory=dict)
    """On SQLite: of its virtual machine, all statements together."""

    def add(self, work: str, reads: Iterable[Read]) -> None:
        self.reads.setdefault(work, []).extend(reads)

    def indexes(self) -> dict[str, set[str]]:
        """The indexes that were read by, each with the names of the work."""
        found: dict[str, set[str]] = {}
        for work, reads in self.reads.items():
            for read in reads:
                if read.index is not None:
                    found.setdefault(read.index, set()).add(work)
        return found


@contextmanager
def catching(engine: sa.Engine, caught: Caught, work: str) -> Iterator[None]:
    """Catch what every new connection to the database of `engine` runs while this lasts."""
    if engine.dialect.name == "postgresql":
        with _by_notices(caught, work):
            yield
    else:
        with _by_trace(str(engine.url.database), caught, work):
            yield


@contextmanager
def _connecting(on_connect: Callable[[Any], None]) -> Iterator[None]:
    def connected(raw: Any, _record: object) -> None:
        on_connect(raw)

    sa.event.listen(sa.Engine, "connect", connected)
    try:
        yield
    finally:
        sa.event.remove(sa.Engine, "connect", connected)


@contextmanager
def _by_notices(caught: Caught, work: str) -> Iterator[None]:
    is_on = True

    def note(notice: psycopg.errors.Diagnostic) -> None:
        head, found, plan = (notice.message_primary or "").partition("plan:\n")
        if is_on and found and head.startswith("duration:"):
            told = json.loads(plan)
            caught.add(work, _reads(_on_one_line(told["Query Text"]), told["Plan"]))

    with _connecting(lambda raw: raw.add_notice_handler(note)):
        yield
    is_on = False


def _reads(statement: str, node: dict[str, Any]) -> Iterator[Read]:
    inner = node.get("Plans", [])
    kind, loops = node["Node Type"], node["Actual Loops"]
    if "Scan" in kind and ("Relation Name" in node or kind == "Bitmap Index Scan"):
        rows = loops * sum(
            node.get(name, 0) for name in ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        )
        yield Read(
            statement,
            node.get("Relation Name", ""),
            node.get("Index Name"),
            kind == "Bitmap Heap Scan" or "Index Cond" in node or kind == "Tid Scan",
            int(rows),
            _blocks(node) - sum(map(_blocks, inner)),
            counts=kind == "Index Only Scan" and "Index Cond" in node,
        )
    for one in inner:
        yield from _reads(statement, one)


def _on_one_line(statement: str) -> str:
    return " ".join(statement.split())


def _blocks(node: dict[str, Any]) -> int:
    return int(node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0))


@contextmanager
def _by_trace(path: str, caught: Caught, work: str) -> Iterator[None]:
    steps: dict[str, list[list[int]]] = {}
    is_on = True

    def watch(raw: sqlite3.Connection) -> None:
        running = [0]

        def began(statement: str) -> None:
            nonlocal running
            if is_on and not statement.startswith("--"):
                running = [0]
                steps.setdefault(statement, []).append(running)

        def step() -> int:
            running[0] += 1
            return 0

        raw.set_trace_callback(began)
        raw.set_progress_handler(step, 1)

    with _connecting(watch):
        yield
    is_on = False
    caught.steps[work] = sum(count for runs in steps.values() for (count,) in runs)
    with closing(sqlite3.connect(path)) as connection:
        for statement, runs in steps.items():
            if not statement.strip().upper().startswith(_NO_PLANS) and "temp." not in statement:
                caught.add(work, _sqlite_reads(connection, statement, max(runs)[0]))


def _sqlite_reads(connection: sqlite3.Connection, statement: str, steps: int) -> list[Read]:
    aliases = {alias: table for table, alias in _NAMED.findall(statement)}
    found = []
    for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}"):
        scanned = _SCANNED.match(detail)
        if scanned is None:
            continue
        how, name, index, key = scanned.groups()
        table = aliases.get(name, name) if not name.startswith("rf_") else name
        found.append(
            Read(_on_one_line(statement), table, index or key, how == "SEARCH", steps, counts="COVERING" in detail)
        )
    return found
