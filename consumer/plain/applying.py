"""One transaction of the short way: everything of a group, or nothing."""

import logging

from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, ContentionError, EarlyError, PoisonError
from common.ports.dialect import ApplySession
from common.ports.plain import WritesPlain
from common.runtime.node import Node
from common.versions import Version
from consumer import watermark
from consumer.apply.handing_on import always_keeps
from consumer.horizon import Horizons
from consumer.plain.facts import Sources, Surroundings
from consumer.plain.group import PlainGroup, Ready, Runs
from consumer.plain.ledger import Ledger, notes_of
from consumer.standing.causes import concerns
from consumer.standing.store import tables_with_copies
from consumer.tables import Tables
from consumer.watermark import SourceKey

log = logging.getLogger(__name__)


class _NotPlainError(Exception):
    """The database holds something that takes a decision."""


class PlainApplying:
    """Applies to the node's database. Belongs to one thread."""

    def __init__(self, node: Node, tables: Tables) -> None:
        self._node = node
        self._tables = tables
        self._met: set[SourceKey] = set()
        """Sources whose watermarks are there."""

    def apply(self, group: PlainGroup) -> bool:
        """Commit all of `group`; False, and nothing is written, where it is not plain here. Raises OutageError."""
        try:
            with self._node.database.apply_session() as session:
                self._write(session, group, self._node.clock.now_us())
        except (_NotPlainError, PoisonError, EarlyError, ContentionError, ConfigError) as error:
            # What it was is found, told and settled on the long way.
            self._met.clear()
            log.debug("not_plain", extra={"why": type(error).__name__, "error": str(error)})
            return False
        reach(CrashPoint.AFTER_COMMIT)
        self._met.update(group.stretches)
        return True

    def ready(self, group: PlainGroup) -> Ready:
        """Return `group` ready to be written. Any thread. Raises PoisonError where some don't fit."""
        database = self._node.database
        if not isinstance(database, WritesPlain):
            raise TypeError("this database has no short way")
        uses = sorted(group.runs, key=lambda use: use.name)
        rows = [(use, database.plain_rows(use.shape, use.meta, list(group.runs[use].values()))) for use in uses]
        return Ready(rows, notes_of(group.txs))

    def _write(self, session: ApplySession, group: PlainGroup, now_us: int) -> None:
        plain = session.plain()
        if plain is None or group.generation != self._tables.generation or always_keeps(self._node.config):
            # What is kept for others is kept as bytes, in the same commit; here they are not at hand any more.
            raise _NotPlainError
        config = self._node.config
        references = config.tables.foreign_keys == "check"
        ready = self.ready(group) if group.ready is None else group.ready
        tables = ready.rows
        if any(use.shape.late_keys for use, _ in tables):
            raise _NotPlainError
        if not self._met.issuperset(group.stretches):
            watermark.lock(session.connection, group.stretches, now_us)
        with plain.together() as together:
            sources = Sources.ask(together, group)
            for _, rows in tables:
                plain.claim(rows)
            around = Surroundings.ask(together)
        marks = sources.marks_to_move(group, now_us + config.limits.future_seconds * 1_000_000)
        there = Surroundings.answered(around, config)
        if marks is None or there.pullers or (there.copies and self._are_woken(session, group)):
            raise _NotPlainError
        horizons = Horizons(session.connection) if there.horizons else None
        for use, rows in tables:
            if horizons is not None and horizons.is_beyond(use.name, _oldest(group.runs[use])):
                raise _NotPlainError
            if not plain.stands(rows):
                raise _NotPlainError
        ledger = Ledger(config, group, ready.notes, now_us)
        with plain.together() as together:
            for _, rows in tables:
                plain.write(rows)
            plain.end_writing()
            ledger.ask(together, marks)
        with plain.together():
            for _, rows in tables:
                plain.look_back(rows, references=references)
        if not plain.holds():
            raise _NotPlainError
        reach(CrashPoint.ROWS_WRITTEN)
        ledger.end(session.connection, has_parts=there.parts)
        reach(CrashPoint.BEFORE_COMMIT)

    def _are_woken(self, session: ApplySession, group: PlainGroup) -> bool:
        """Tell whether rows that have stepped back may return by what is written."""
        return concerns(tables_with_copies(session.connection), set(group.tables), self._tables.shapes())


def _oldest(runs: Runs) -> Version:
    return min(run.first_version for run in runs.values())
