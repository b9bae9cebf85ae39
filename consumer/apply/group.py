"""Many whole txs in one commit; halves, down to the guilty one, where something is wrong."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec
import sqlalchemy as sa

from common.errors import ConfigError, ContentionError, EarlyError, OutageError, PoisonError, Reason, StoppingError
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from consumer.apply.ahead import Ahead
from consumer.apply.allowed_ddl import AllowedDdl
from consumer.apply.committing import PATIENCE_SECONDS, Committing
from consumer.apply.grouping import Group, Pace
from consumer.apply.prepare import Prepared, Preparer
from consumer.apply.rows import MissingParentError
from consumer.apply.tx import GroupTransaction, Mode
from consumer.failures import reason_of
from consumer.incoming import Incoming, Outcome, Result
from consumer.main_node import MainNode
from consumer.tables import Tables

log = logging.getLogger(__name__)

_LONGEST_REST_SECONDS = 1.0


class Applier:
    """Applies whole txs to the node's database. Belongs to one thread."""

    def __init__(self, node: Node, *, stop: threading.Event | None = None, ddl: AllowedDdl | None = None) -> None:
        self._node = node
        self._stop = stop
        self._one_writer = not node.database.features.locks_rows
        self._committing = Committing(node, stop)
        self._tables = Tables(node)
        self._preparer = Preparer(self._tables, MainNode(node), ddl)
        self._pace = Pace(node.config.limits.group_changes, node.config.limits.group_changes)

    @property
    def tables(self) -> Tables:
        """The tables that batches may write, as they were at the last look. Any thread may ask them."""
        return self._tables

    def prepare_ahead(self, txs: Sequence[Incoming]) -> Ahead:
        """Prepare txs for a later `apply`; the one thing that another thread may do meanwhile."""
        return Ahead(self._preparer, txs)

    def apply(self, txs: Sequence[Incoming], *, guarded: bool = False, ahead: Ahead | None = None) -> list[Result]:
        """Apply or set aside all of `txs`, in order; everything is committed when this returns.

        Raises OutageError, and between two commits StoppingError once the node stops: what was committed before stays,
        trying all of it again does no harm. `guarded`: the txs were noted in `rf_attempt`, take the notes away.
        `ahead`: what `prepare_ahead` made of them."""
        self._tables.begin()
        generation = self._tables.generation
        try:
            results = self._apply_all(txs, guarded, ahead)
        except ConfigError:
            # Their owner may have altered the tables since they were looked at. What is committed counts as duplicate.
            if not self._tables.look_again() and self._tables.generation == generation:
                raise
            results = self._apply_all(txs, guarded, None)
        _log(results)
        return results

    def _apply_all(self, txs: Sequence[Incoming], guarded: bool, ahead: Ahead | None) -> list[Result]:
        results: list[Result] = []
        for group in self._groups(txs, ahead):
            if results:
                self._check_stop()
            began = time.monotonic()
            results += self._apply_group(group.txs, guarded)
            if self._one_writer and group.leaves_others_waiting:
                # As long as the lock was held: a flood of what is refused leaves the application its half of the time.
                (self._stop or threading.Event()).wait(min(time.monotonic() - began, _LONGEST_REST_SECONDS))
        return results

    def content_sha256(self, tx: Incoming) -> str:
        """Return the checksum by which a tx is known; over its bytes where they can't be read."""
        return self._preparer.prepare(tx).sha256

    def try_out(self, tx: Incoming, look: Callable[[sa.Connection], None]) -> Result:
        """Apply one tx, let `look` see what the database then holds before it is taken back again; nothing stays."""
        self._tables.begin()
        one = self._preparer.prepare(tx)
        if one.error is not None:
            return _failed_dry(one, one.error)
        try:
            self._any_way([one], guarded=False, rollback=look)
        except _RolledBackError as done:
            return done.result
        except (PoisonError, EarlyError) as error:
            return _failed_dry(one, error)
        raise RuntimeError("a dry run was committed")

    def _groups(self, txs: Iterable[Incoming], ahead: Ahead | None) -> Iterator[Group]:
        group = Group()
        for tx in txs:
            is_full = group.is_full(tx, self._pace.now) or (self._one_writer and group.holds_long(tx))
            if group.txs and (group.txs[-1].alone or is_full):
                yield group
                group = Group()
            # Only now: DDL that was committed a moment ago may have made the tables that this tx needs.
            one = (ahead and ahead.of(tx, self._preparer.generation)) or self._preparer.prepare(tx)
            if group.txs and (one.alone or group.disagrees(one)):
                yield group
                group = Group()
            group.add(one)
        if group.txs:
            yield group

    def _apply_group(self, group: list[Prepared], guarded: bool) -> list[Result]:
        try:
            self._before_ddl(group)
            results = self._any_way(group, guarded)
        except (PoisonError, EarlyError, ContentionError) as error:
            return self._after_failure(group, error, guarded)
        self._pace.grow()
        self._after_ddl(group)
        return results

    def _after_failure(
        self, group: list[Prepared], error: PoisonError | EarlyError | ContentionError, guarded: bool
    ) -> list[Result]:
        """The group was rolled back: find the guilty tx by halves, set it aside; smaller groups where rows are held."""
        if isinstance(error, ContentionError):
            self._pace.shrink()
            if len(group) == 1:
                raise OutageError(f"rows are held by others for {PATIENCE_SECONDS:g} s: {error}") from error
        elif self._tables.look_again() or self._is_outdated(group):
            log.info("tables_changed", extra={"error": str(error)})
            return self._apply_group([self._preparer.prepare(one.incoming) for one in group], guarded)
        elif len(group) == 1:
            results = self._any_way([msgspec.structs.replace(group[0], error=error)], guarded)
            self._after_ddl(group)
            return results
        half = len(group) // 2
        first = self._apply_group(group[:half], guarded)
        self._check_stop()
        return first + self._apply_group(group[half:], guarded)

    def _check_stop(self) -> None:
        """Between two commits: one message may hold as many txs as take minutes. Raises StoppingError."""
        if self._stop is not None and self._stop.is_set():
            raise StoppingError("the node stops: what is not committed is applied when it runs again")

    def _is_outdated(self, group: Sequence[Prepared]) -> bool:
        """Tell whether the tables were found changed since, by a look for txs that are prepared ahead."""
        return any(one.checked and one.generation != self._preparer.generation for one in group)

    def _any_way(
        self, group: list[Prepared], guarded: bool, rollback: Callable[[sa.Connection], None] | None = None
    ) -> list[Result]:
        """Commit a group; where unique values clash or parents are missing, once more, settling who stands."""
        try:
            return self._committed(group, Mode(guarded=guarded), rollback)
        except PoisonError as error:
            if error.reason is not Reason.CONSTRAINT:
                raise
        except MissingParentError as error:
            log.debug("parent_missing", extra={"error": str(error)})
        return self._committed(group, Mode(careful=True, guarded=guarded), rollback)

    def _committed(
        self, group: list[Prepared], mode: Mode, rollback: Callable[[sa.Connection], None] | None = None
    ) -> list[Result]:
        def work(session: ApplySession) -> list[Result]:
            results = GroupTransaction(self._node, self._preparer, session, mode, self._stop).run(group)
            if rollback is not None:
                rollback(session.connection)
                raise _RolledBackError(results[0])
            return results

        return self._committing.run(work, patiently=len(group) == 1, dry=rollback is not None)

    def _before_ddl(self, group: Sequence[Prepared]) -> None:
        """Take capture off what is dropped or retyped; what was written there until now is sealed first."""
        uncaptured = {statement.uncaptured for one in group for statement in one.statements} - {None}
        if uncaptured:
            self._committing.seal()
            shapes = self._tables.shapes()
            kept = [shape for name, shape in shapes.items() if name not in uncaptured]
            self._node.capture().install(kept)

    def _after_ddl(self, group: Sequence[Prepared]) -> None:
        """Capture tables that an import has made or changed, before anybody writes to them."""
        if any(one.statements for one in group):
            self._tables.begin()
            self._tables.look_again()
            self._node.capture().install(list(self._tables.shapes().values()))


class _RolledBackError(Exception):
    """Ends a dry run: everything is taken back."""

    def __init__(self, result: Result) -> None:
        super().__init__("dry run")
        self.result = result


def _failed_dry(one: Prepared, error: PoisonError | EarlyError) -> Result:
    outcome = Outcome.EARLY if isinstance(error, EarlyError) else Outcome.DEAD
    return Result(one.incoming, outcome, reason=reason_of(error), error=str(error), sha256=one.sha256)


def _log(results: Sequence[Result]) -> None:
    tells_all = log.isEnabledFor(logging.DEBUG)
    for result in results:
        if result.counts.ahead_us:
            ahead = {"source_node": result.incoming.source_node, "ahead_seconds": result.counts.ahead_us / 1_000_000}
            log.warning("clock_ahead", extra=ahead | {"tx_id": result.incoming.tx_id})
        if not (tells_all or result.outcome.set_aside or result.counts.missing_total):
            continue
        incoming = result.incoming
        fields = {"tx_id": incoming.tx_id, "source_node": incoming.source_node, "origin": incoming.origin}
        if incoming.header is not None:
            fields["lsn"] = str(incoming.header.to_lsn)
        if result.still_waits:
            log.debug("tx_still_waits", extra=fields | {"error": result.error})
        elif result.outcome.set_aside:
            reason = result.reason.value if result.reason else None
            log.warning("tx_set_aside", extra=fields | {"reason": reason, "error": result.error})
        elif result.counts.missing_total:
            log.warning("rows_missing", extra=fields | {"rows": result.counts.missing})
        else:
            log.debug("tx_" + result.outcome.value, extra=fields)
