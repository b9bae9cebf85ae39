"""One transaction of the short way: everything of a group, or nothing."""

import logging

from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, ContentionError, EarlyError, PoisonError
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from consumer import watermark
from consumer.apply.handing_on import always_keeps
from consumer.horizon import Horizons
from consumer.plain.facts import Sources, Surroundings
from consumer.plain.group import PlainGroup
from consumer.plain.ledger import Ledger
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

    def _write(self, session: ApplySession, group: PlainGroup, now_us: int) -> None:
        plain = session.plain()
        if plain is None or group.generation != self._tables.generation or always_keeps(self._node.config):
            # What is kept for others is kept as bytes, in the same commit; here they are not at hand any more.
            raise _NotPlainError
        config = self._node.config
        references = config.tables.foreign_keys == "check"
        tables = [(use, list(runs.values())) for use, runs in sorted(group.runs.items(), key=lambda one: one[0].name)]
        if not self._met.issuperset(group.stretches):
            watermark.lock(session.connection, group.stretches, now_us)
        with plain.together() as together:
            sources = Sources.ask(together, group)
            for use, runs in tables:
                plain.claim(use.shape, use.meta, runs)
            around = Surroundings.ask(together)
        marks = sources.marks_to_move(group, now_us + config.limits.future_seconds * 1_000_000)
        there = Surroundings.answered(around, config)
        if marks is None or there.pullers or (there.copies and self._are_woken(session, group)):
            raise _NotPlainError
        horizons = Horizons(session.connection) if there.horizons else None
        for use, runs in tables:
            if horizons is not None and horizons.is_beyond(use.name, min(run.first_version for run in runs)):
                raise _NotPlainError
            if not plain.stands(use.shape, runs):
                raise _NotPlainError
        ledger = Ledger(config, group, now_us)
        with plain.together() as together:
            for use, runs in tables:
                plain.write(use.shape, runs)
            plain.end_writing()
            ledger.ask(together, marks)
        with plain.together():
            for use, runs in tables:
                plain.look_back(use.shape, runs, references=references)
        if not plain.holds():
            raise _NotPlainError
        reach(CrashPoint.ROWS_WRITTEN)
        ledger.end(session.connection, has_parts=there.parts)
        reach(CrashPoint.BEFORE_COMMIT)

    def _are_woken(self, session: ApplySession, group: PlainGroup) -> bool:
        """Tell whether rows that have stepped back may return by what is written."""
        return concerns(tables_with_copies(session.connection), set(group.tables), self._tables.shapes())
