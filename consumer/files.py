"""Batches from files: looked through whole before the first row is written, then applied like any other."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import PreflightError
from common.ports.source import Delivery
from common.preflight.format import files_of, read_file
from common.preflight.report import Preflight, Report
from common.preflight.rulings import DdlRules
from common.runtime.node import Node
from common.wire.decode import Broken
from consumer.apply.allowed_ddl import AllowedDdl
from consumer.apply.group import Applier
from consumer.arrivals import Arrivals
from consumer.conflict.reading import still_waiting
from consumer.dead_letters.documents import result_document
from consumer.dedup import TxKey
from consumer.early import EarlyRetries
from consumer.inbox import Inbox
from consumer.incoming import Incoming, Outcome, Result
from consumer.knowledge import NodeDatabase
from consumer.own_seen import OwnSeen, seen_in
from consumer.standing.refresh import Refresh

_MOST_BYTES = 32 * 1024 * 1024
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class ImportRules:
    """What an import may do."""

    dry_run: bool = False
    strict: bool = False
    allow_ddl: bool = False
    allow_destructive_ddl: bool = False


@dataclass(slots=True)
class Imported:
    """What an import did."""

    preflight: Report
    applied: int = 0
    duplicates: int = 0
    conflicts: int = 0
    waiting_conflicts: int = 0
    """Of the conflicts those that wait for a choice."""
    waiting: dict[TxKey, Result] = field(default_factory=dict)
    """What this import set aside or left as early."""
    met: set[TxKey] = field(default_factory=set)
    """Whose conflicts waited when they came."""

    def count(self, result: Result) -> None:
        """Take in what became of one tx; a later result of the same tx takes the place of its first."""
        if result.outcome.set_aside:
            self.waiting[result.incoming.key] = result
            return
        self.waiting.pop(result.incoming.key, None)
        self.applied += result.outcome is Outcome.APPLIED
        self.duplicates += result.outcome is Outcome.DUPLICATE
        self.conflicts += result.counts.conflicts
        if result.counts.waiting:
            self.met.add(result.incoming.key)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        return {
            "applied": self.applied,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "waiting_conflicts": self.waiting_conflicts,
            "set_aside": [result_document(result) for result in self.waiting.values()],
            "preflight": self.preflight.as_dict(),
        }


class FileImport:
    """Imports files into one node."""

    def __init__(self, node: Node, rules: ImportRules) -> None:
        self._node = node
        self._rules = rules

    def look(self, paths: list[Path], advance: Advance | None = None) -> tuple[list[Path], Report]:
        """Run preflight; return the files that are meant and what it found. Writes nothing."""
        files = files_of(paths)
        ddl = DdlRules(
            self._node.database.engine.dialect.name,
            self._node.config.tables.wants,
            self._rules.allow_ddl,
            self._rules.allow_destructive_ddl,
        )
        trust = self._node.config.trust()
        return files, Preflight(NodeDatabase(self._node), ddl, trust, self._rules.strict, advance).look(files)

    def apply(self, files: list[Path], report: Report, advance: Advance) -> Imported:
        """Apply what preflight let through."""
        done = Imported(report)
        applier = Applier(self._node, ddl=AllowedDdl(report.ddl) if report.ddl else None)
        own = OwnSeen(self._node)
        for end in report.own_ends.values():
            own.note(seen_in(end))
        for txs in _rounds(self._read(files, own), self._node.config.limits.group_changes):
            for result in applier.apply(txs):
                done.count(result)
            advance(sum(tx.changes for tx in txs))
        for result in EarlyRetries(self._node, applier.apply).all_of_them():
            if result.incoming.key in done.waiting:
                done.count(result)
        Refresh(self._node).catch_up()
        done.waiting_conflicts = sum(still_waiting(self._node.database, done.met).values())
        return done

    def _read(self, files: list[Path], own: OwnSeen) -> Iterator[Incoming]:
        arrivals = Arrivals(self._node, Inbox(self._node), own=own)
        for file in files:
            # Its whole path: later commands run elsewhere, and a file in the shared folder is told by it.
            delivery = Delivery(b"", str(file.absolute()), None)
            for item in read_file(file):
                if isinstance(item, Broken):
                    raise PreflightError(f"{file}: has changed since it was looked through: {item.error}")
                found = arrivals.take(item, delivery)
                if found is not None:
                    yield found


def _rounds(txs: Iterator[Incoming], most_changes: int) -> Iterator[list[Incoming]]:
    current: list[Incoming] = []
    changes = size = 0
    for tx in txs:
        current.append(tx)
        changes, size = changes + tx.changes, size + tx.size
        if changes >= most_changes or size >= _MOST_BYTES:
            yield current
            current, changes, size = [], 0, 0
    if current:
        yield current
