"""One transaction of the short way: everything of a group, or nothing."""

import logging

from common.crash_points import CrashPoint, reach
from common.errors import ConfigError, ContentionError, EarlyError, PoisonError
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from consumer import watermark
from consumer.apply.handing_on import HandingOn
from consumer.dedup import look_up
from consumer.horizon import Horizons
from consumer.plain.group import PlainGroup
from consumer.plain.ledger import write_ledger
from consumer.standing.causes import concerns
from consumer.standing.store import tables_with_copies
from consumer.tables import Tables
from consumer.watermark import Mark

log = logging.getLogger(__name__)


class _NotPlainError(Exception):
    """The database holds something that takes a decision."""


class PlainApplying:
    """Applies to the node's database. Belongs to one thread."""

    def __init__(self, node: Node, tables: Tables) -> None:
        self._node = node
        self._tables = tables

    def apply(self, group: PlainGroup) -> bool:
        """Commit all of `group`; False, and nothing is written, where it is not plain here. Raises OutageError."""
        try:
            with self._node.database.apply_session() as session:
                self._write(session, group, self._node.clock.now_us())
        except (_NotPlainError, PoisonError, EarlyError, ContentionError, ConfigError) as error:
            # What it was is found, told and settled on the long way.
            log.debug("not_plain", extra={"why": type(error).__name__, "error": str(error)})
            return False
        reach(CrashPoint.AFTER_COMMIT)
        return True

    def _write(self, session: ApplySession, group: PlainGroup, now_us: int) -> None:
        plain = session.plain()
        if plain is None or group.generation != self._tables.generation:
            raise _NotPlainError
        if not HandingOn(session.connection, self._node.config, now_us).keeps_nothing():
            # The bytes are kept in the same commit; here they are not at hand any more.
            raise _NotPlainError
        marks = self._marks(session, group, now_us)
        references = self._node.config.tables.foreign_keys == "check"
        tables = [(use, list(runs.values())) for use, runs in sorted(group.runs.items(), key=lambda one: one[0].name)]
        for use, runs in tables:
            if not plain.claim(use.shape, use.meta, runs):
                raise _NotPlainError
        # Only now: who forgets a tombstone raises the horizon with it.
        horizons = Horizons(session.connection)
        for use, runs in tables:
            if horizons.is_beyond(use.name, min(run.first_version for run in runs)):
                raise _NotPlainError
        for use, runs in tables:
            plain.write(use.shape, runs)
        for use, runs in tables:
            if not plain.holds(use.shape, runs, references=references):
                raise _NotPlainError
        reach(CrashPoint.ROWS_WRITTEN)
        write_ledger(session.connection, self._node.config, group, marks, now_us)
        reach(CrashPoint.BEFORE_COMMIT)

    def _marks(self, session: ApplySession, group: PlainGroup, now_us: int) -> list[Mark]:
        """Lock the watermarks; all of the group must be new, and go on where they stand."""
        connection = session.connection
        marks = watermark.lock(connection, group.stretches, now_us)
        bound_us = now_us + self._node.config.limits.future_seconds * 1_000_000
        for key, stretch in group.stretches.items():
            if marks[key].gap or marks[key].last_lsn != stretch.prev_lsn or stretch.latest_us > bound_us:
                raise _NotPlainError
        if look_up(connection, group.keys):
            raise _NotPlainError
        if concerns(tables_with_copies(connection), set(group.tables), self._tables.shapes()):
            raise _NotPlainError
        return list(marks.values())
