"""One database transaction: the rows of one or many whole txs, and everything that is kept beside them."""

import threading
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.errors import ContentionError, EarlyError, OutageError, PoisonError, Reason
from common.ports.dialect import ApplySession, RowWrite
from common.runtime.node import Node
from common.wire.records import TxHeader
from consumer import watermark
from consumer.apply.books import keep_books
from consumer.apply.decision import Entry
from consumer.apply.large import LargeTx
from consumer.apply.ledger import Ledger, step_of
from consumer.apply.prepare import Prepared, Preparer
from consumer.apply.released import with_released
from consumer.apply.rows import check, decide_rows, write_rows
from consumer.dead_letters.lsns import LsnSet
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import bytes_id
from consumer.dedup import (
    BROKEN_REASONS,
    NOTHING,
    UNPROVEN_REASONS,
    Facts,
    Known,
    Standing,
    TxKey,
    is_anothers_place,
    look_up_locked,
    stand,
)
from consumer.failures import Decision, decide, reason_of
from consumer.incoming import Counts, Outcome, Result
from consumer.standing.causes import causes, concerns, has_late_keys
from consumer.standing.logical import LogicalSession
from consumer.standing.store import tables_with_copies
from consumer.standing.writing import StandingWriter
from consumer.tables import TableUse
from consumer.watermark import Course, Mark, SourceKey


@dataclass(frozen=True, slots=True)
class Mode:
    """How a transaction goes about its txs."""

    careful: bool = False
    """Settle first which rows may stand: unique values change places or clash, or parents are gone."""
    guarded: bool = False
    """The txs were noted in `rf_attempt`."""


class GroupTransaction:
    """Applies prepared txs within one session. One object a transaction."""

    def __init__(
        self, node: Node, preparer: Preparer, session: ApplySession, mode: Mode, stop: threading.Event | None = None
    ) -> None:
        """`stop` ends a large tx in its middle, with an OutageError."""
        self._node = node
        self._stop = stop
        self._preparer = preparer
        self._session = session
        self._mode = mode
        self._now_us = node.clock.now_us()
        self._is_patient = True

    def run(self, group: Sequence[Prepared]) -> list[Result]:
        """Write everything; the caller commits. Raises PoisonError, EarlyError, ContentionError: then roll back."""
        connection = self._session.connection
        marks = watermark.lock(connection, [key for one in group if (key := _source_key(one))], self._now_us)
        letters = [one.incoming.letter for one in group if one.incoming.letter is not None]
        known, in_pieces = look_up_locked(connection, [*(one.incoming.key for one in group), *letters])
        group = [_without(one, in_pieces.get(one.incoming.key)) for one in group]
        self._is_patient = not (len(group) == 1 and self._has_waited(known.get(group[0].incoming.key, NOTHING)))
        results = self._decide(group, known, marks)
        self._apply(group, results)
        reach(CrashPoint.ROWS_WRITTEN)
        ledger = Ledger(connection, self._node.config, self._now_us)
        # By the names they came under: what is set aside may stand under another one.
        begun = [one.incoming.key for one in group] if self._mode.guarded else []
        ledger.write(results, known, marks, begun)
        reach(CrashPoint.BEFORE_COMMIT)
        return results

    def _decide(
        self, group: Sequence[Prepared], known: Mapping[TxKey, Known], marks: Mapping[SourceKey, Mark]
    ) -> list[Result]:
        taken: dict[TxKey, Known] = {}
        headers: list[TxHeader] = []
        courses = {key: Course(self._session.connection, mark) for key, mark in marks.items()}
        results = []
        for one in group:
            key = one.incoming.key
            source_key = _source_key(one)
            course = courses[source_key] if source_key else None
            settled = _settled_meanwhile(one, known)
            result = settled or self._judge(one, taken.get(key) or known.get(key, NOTHING), course, headers)
            if result.outcome is Outcome.APPLIED:
                taken[key] = Known(applied_sha256=one.sha256)
                if one.incoming.header is not None:
                    headers.append(one.incoming.header)
            if course is not None and (step := step_of(result)) is not None:
                course.take(step)
            results.append(result)
        return results

    def _judge(self, one: Prepared, known: Known, course: Course | None, taken: Sequence[TxHeader]) -> Result:
        """`taken`: what this transaction applies and is not in the database yet."""
        if one.error is not None:
            return self._judge_failed(one, one.error, known, course, taken)
        match self._standing_of(one, known, course, taken):
            case Standing.NEW:
                return Result(one.incoming, Outcome.APPLIED, Counts(), sha256=one.sha256)
            case Standing.DUPLICATE | Standing.HELD:
                return Result(one.incoming, Outcome.DUPLICATE, sha256=one.sha256)
            case Standing.FORKED:
                text = "has LSNs that other transactions have here, and is none of them: its node was rewound"
                return Result(one.incoming, Outcome.FORKED, reason=Reason.FORKED, error=text, sha256=one.sha256)
            case Standing.ALTERED:
                return _altered(one, known)

    def _standing_of(self, one: Prepared, known: Known, course: Course | None, taken: Sequence[TxHeader]) -> Standing:
        standing, header = _standing(one, known, course.mark if course else None), one.incoming.header
        if known is not NOTHING or header is None or one.incoming.replayed_by:
            return standing
        is_beyond_a_gap = standing is Standing.NEW and course is not None and course.may_be_ahead
        if standing is not Standing.DUPLICATE and not is_beyond_a_gap:
            return standing
        is_forked = any(map(header.overlaps, taken)) or is_anothers_place(self._session.connection, header)
        return Standing.FORKED if is_forked else standing

    def _judge_failed(
        self,
        one: Prepared,
        error: PoisonError | EarlyError,
        known: Known,
        course: Course | None,
        taken: Sequence[TxHeader],
    ) -> Result:
        reason = reason_of(error)
        if reason in BROKEN_REASONS and _is_better_known(one, known, course.mark if course else None):
            return Result(one.incoming, Outcome.DUPLICATE, error=str(error), sha256=one.sha256)
        if reason not in BROKEN_REASONS and not one.incoming.replayed_by and one.incoming.header is not None:
            standing = self._standing_of(one, known, course, taken)
            if standing in (Standing.DUPLICATE, Standing.HELD):
                return Result(one.incoming, Outcome.DUPLICATE, sha256=one.sha256)
            if standing is Standing.ALTERED:
                return _altered(one, known)
        one = _own_name_if_taken(one, known)
        parked = decide(error) is Decision.PARK and not self._is_overdue(known, reason)
        outcome = Outcome.EARLY if parked else Outcome.DEAD
        if known.letter is not None and known.letter.state is LetterState.FORKED:
            outcome = Outcome.FORKED
        again = known.letter is not None and (
            (outcome is Outcome.EARLY and known.letter.state is LetterState.EARLY)
            or (outcome is Outcome.DEAD and known.letter.state is LetterState.DEAD and reason is Reason.FOREIGN_KEY)
            # A new process reads a file again that it has not passed.
            or (known.letter.state is LetterState.DEAD and reason in UNPROVEN_REASONS and known.letter.reason == reason)
        )
        return Result(one.incoming, outcome, Counts(), reason, str(error), table_of(error), one.sha256, again)

    def _has_waited(self, known: Known) -> bool:
        """Whether it has waited for a row that it points to as long as one waits."""
        waits = known.letter is not None and known.letter.reason == Reason.FOREIGN_KEY
        return waits and self._is_overdue(known, Reason.FOREIGN_KEY)

    def _is_overdue(self, known: Known, reason: Reason) -> bool:
        """Whether it has waited too long: what is dead for that is not early once more by being tried again."""
        if known.letter is None:
            return False
        is_dead_for_it = known.letter.state is LetterState.DEAD and known.letter.reason == reason
        if known.letter.state is not LetterState.EARLY and not is_dead_for_it:
            return False
        waited_us = self._now_us - known.letter.first_failed_us
        return waited_us > self._node.config.limits.early_seconds * 1_000_000

    def _apply(self, group: Sequence[Prepared], results: list[Result]) -> None:
        entries: list[Entry] = []
        for place, (one, result) in enumerate(zip(group, results, strict=True)):
            if result.outcome is not Outcome.APPLIED:
                continue
            if one.incoming.in_parts:
                results[place] = msgspec.structs.replace(result, counts=self._apply_large(one))
            elif one.statements:
                self._run_ddl(one)
            else:
                result.counts.latest_us = one.latest_us
                source = one.incoming.source_node
                entries += [
                    Entry(item.change, item.use, source, result.counts)
                    for item in one.checked
                    if item.change.lsn not in one.incoming.applied
                ]
                if one.writes_as_main:
                    self._keep_main(one)
        if entries:
            self.write(entries)

    def write(self, entries: Sequence[Entry]) -> None:
        """Decide and write changes, with what is kept beside them; of a tx or, once more, of rows alone."""
        config = self._node.config.tables
        kept = tables_with_copies(self._session.connection)
        session = LogicalSession(self._session) if kept else self._session
        entries = with_released(session, entries, config.policy_for)
        written = decide_rows(session, entries, config.policy_for)
        writes: Mapping[TableUse, Sequence[RowWrite]] = written.writes
        if self._is_careful(kept, {use.name for use in writes}):
            standing = self._standing()
            writes = standing.write(writes, causes(writes, entries))
            written.conflicts += standing.finish()
        else:
            write_rows(self._session, writes)
        check(self._session, writes, references=config.foreign_keys == "check")
        keep_books(self._session, written, self._now_us)

    def _is_careful(self, kept: Set[str], names: Set[str]) -> bool:
        """Tell whether it is settled first which rows may stand. `kept`: tables of which rows have stepped back."""
        shapes = self._preparer.tables.shapes()
        return self._mode.careful or concerns(kept, names, shapes) or has_late_keys(names, shapes)

    def _standing(self) -> StandingWriter:
        tables = self._preparer.tables
        return StandingWriter(self._session, tables, self._node, self._now_us, is_patient=self._is_patient)

    def _apply_large(self, one: Prepared) -> Counts:
        header = one.incoming.header
        if header is None:
            raise TypeError("stored parts have a header")
        kept = tables_with_copies(self._session.connection)
        careful = self._is_careful(kept, set(header.tables))
        standing = self._standing() if careful else None
        session = LogicalSession(self._session) if careful else self._session
        large = LargeTx(session, one.incoming, header, self._node, self._stop, standing)
        counts = large.apply(self._preparer.checker, self._now_us)
        if large.writes_as_main:
            self._keep_main(one)
        return counts

    def _keep_main(self, one: Prepared) -> None:
        if one.incoming.header is None:
            raise TypeError("what was checked has a header")
        self._preparer.main.keep(self._session.connection, one.incoming.header, self._now_us)

    def _run_ddl(self, one: Prepared) -> None:
        for statement in one.statements:
            try:
                self._session.connection.exec_driver_sql(statement.sql)
            except sa.exc.SQLAlchemyError as error:
                known = self._node.database.translate(error)
                if isinstance(known, OutageError | ContentionError):
                    raise known from error
                raise PoisonError(Reason.DDL, f"{statement.sql[:200]!r}: {known}") from error


def table_of(error: PoisonError | EarlyError) -> str | None:
    """Return the table that stands in the way: for a broken reference the one whose rows may end the wait."""
    return error.table


def _source_key(one: Prepared) -> SourceKey | None:
    header = one.incoming.header
    return (header.source_node, header.incarnation) if header is not None else None


def _without(one: Prepared, applied: LsnSet | None) -> Prepared:
    """Return `one` without those of its changes that are applied: its letter may be taken to pieces at the moment."""
    if applied is None or applied == one.incoming.applied:
        return one
    return msgspec.structs.replace(one, incoming=msgspec.structs.replace(one.incoming, applied=applied))


def _settled_meanwhile(one: Prepared, known: Mapping[TxKey, Known]) -> Result | None:
    """Return the outcome where somebody else replayed or discarded the letter that is replayed here."""
    name = one.incoming.letter
    letter = known.get(name, NOTHING).letter if name is not None and one.incoming.replayed_by else None
    if letter is None or letter.state.is_open:
        return None
    return Result(one.incoming, Outcome.DUPLICATE, sha256=one.sha256, settled=letter.state)


def _standing(one: Prepared, known: Known, mark: Mark | None) -> Standing:
    header = one.incoming.header
    if header is None:
        return Standing.NEW
    if one.incoming.replayed_by:
        if known.applied_sha256 is None:
            return Standing.NEW if known.letter is None or known.letter.state.is_open else Standing.DUPLICATE
        return Standing.DUPLICATE if known.applied_sha256 == one.sha256 else Standing.ALTERED
    return stand(Facts(header.tx_id, header.from_lsn, header.to_lsn, one.sha256), known, mark)


def _is_better_known(one: Prepared, known: Known, mark: Mark | None) -> bool:
    """Tell whether the tx was applied, decided on, or kept whole before this damaged copy came."""
    if known.applied_sha256 is not None:
        return True
    if known.letter is not None:
        if one.incoming.replayed_by and known.letter.state.is_open:
            # It is the letter's own bytes that are tried again, and they are all there is.
            return False
        return not known.letter.state.is_open or known.letter.reason not in BROKEN_REASONS
    header = one.incoming.header
    return header is not None and mark is not None and header.to_lsn <= mark.last_lsn


def _altered(one: Prepared, known: Known) -> Result:
    text = f"{one.incoming.tx_id} is known here with another content"
    one = _own_name_if_taken(one, known)
    return Result(one.incoming, Outcome.DEAD, reason=Reason.CONTENT, error=text, sha256=one.sha256)


def _own_name_if_taken(one: Prepared, known: Known) -> Prepared:
    """Return `one` under a name made from its bytes, where a letter with another content has its own."""
    raw = one.incoming.raw
    if known.letter is None or raw is None or known.letter.sha256 == one.sha256 or one.incoming.replayed_by:
        return one
    if known.letter.reason in BROKEN_REASONS:
        return one
    return msgspec.structs.replace(
        one, incoming=msgspec.structs.replace(one.incoming, tx_id=bytes_id(raw), header=None)
    )
