"""Applies an open dead letter in another form than it came in: all of it in one commit, and once.

It is known by the checksum of what came, so the same bytes are a duplicate from then on, whichever way they come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from common.crash_points import CrashPoint, reach
from common.errors import EarlyError, PoisonError, Reason, UsageError
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from common.wire.records import BatchHeader, Change
from consumer import audit, watermark
from consumer.apply.committing import Committing
from consumer.apply.prepare import Prepared, Preparer
from consumer.apply.rows import MissingParentError
from consumer.apply.tx import GroupTransaction, Mode, table_of
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter, lock_open
from consumer.failures import reason_of
from consumer.incoming import Counts, Incoming, Outcome, Result
from consumer.main_node import MainNode
from consumer.statements import reading, writing
from consumer.tables import Tables

_OUTCOMES = {
    LetterState.DEAD: Outcome.DEAD,
    LetterState.EARLY: Outcome.EARLY,
    LetterState.FORKED: Outcome.FORKED,
}


class _DryError(Exception):
    """Ends a dry run: everything is taken back."""


def _nothing(_: ApplySession) -> None:
    """What is done beside the letter, where nothing is."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a letter is to be applied as. `first` and `last` write before and after it, in the same commit."""

    letter: Letter
    tx: Incoming
    header: BatchHeader
    changes: Sequence[Change]
    first: Callable[[ApplySession], None] = _nothing
    last: Callable[[ApplySession], None] = _nothing


class AnotherForm:
    """Applies letters for `actor`. Killed anywhere, a letter is applied whole or not at all."""

    def __init__(self, node: Node, actor: str, *, dry_run: bool = False) -> None:
        self._node = node
        self._actor = actor
        self._dry_run = dry_run
        self.tables = Tables(node)
        self.preparer = Preparer(self.tables, MainNode(node))
        self._committing = Committing(node)

    def load(self, letter: Letter) -> Incoming:
        """Return the tx of a letter."""
        with reading(self._node.database) as connection:
            return load(connection, letter, self._node.config.trust(), self._actor)

    def apply(self, form: Form) -> Result:
        """Apply a letter in this form.

        Raises SettledError where somebody else settled it meanwhile, PoisonError and EarlyError."""
        try:
            return self._committed(form, Mode())
        except PoisonError as error:
            if error.reason is not Reason.CONSTRAINT:
                raise
        except MissingParentError:
            pass
        return self._committed(form, Mode(careful=True))

    def _committed(self, form: Form, mode: Mode) -> Result:
        letter, header = form.letter, form.header
        done: list[Result] = []

        def work(session: ApplySession) -> None:
            done.clear()
            # In the order in which every applier locks: the source's mark, the letter, rows.
            watermark.lock(session.connection, [(header.source_node, header.incarnation)], self._node.clock.now_us())
            lock_open(session.connection, (letter.source_node, letter.tx_id))
            form.first(session)
            # What of it was applied in pieces is left out there.
            prepared = self._prepared(form)
            (result,) = GroupTransaction(self._node, self.preparer, session, mode).run([prepared])
            form.last(session)
            done.append(result)
            reach(CrashPoint.CHOICE_WRITTEN)
            if self._dry_run:
                raise _DryError

        try:
            self._committing.run(work, patiently=True, dry=self._dry_run)
        except _DryError:
            return done[0]
        # So that what was written beside it is on its way with the next message or export.
        self._committing.seal()
        return done[0]

    def _prepared(self, form: Form) -> Prepared:
        checker = self.preparer.checker(form.header)
        checked = tuple(checker.check(form.changes))
        return Prepared(
            form.tx,
            form.letter.sha256,
            checked,
            writes_as_main=checker.writes_as_main,
            generation=self.preparer.generation,
        )

    def failed(self, letter: Letter, tx: Incoming, error: PoisonError | EarlyError, detail: dict[str, Any]) -> Result:
        """Audit that it was tried, and return how it stands. It goes on to tell why what came failed, not this form."""
        self.note_failure(letter, reason_of(error), error, detail)
        return Result(tx, _OUTCOMES[letter.state], Counts(), reason_of(error), str(error), table_of(error))

    def has_none(self, letter: Letter, tx: Incoming, error: UsageError, detail: dict[str, Any]) -> Result:
        """The same for a letter that can have no other form."""
        self.note_failure(letter, None, error, detail)
        return Result(tx, _OUTCOMES[letter.state], Counts(), Reason(letter.reason), str(error), letter.table_name)

    def note_failure(self, letter: Letter, reason: Reason | None, error: Exception, detail: dict[str, Any]) -> None:
        """Audit that it was tried. `reason`: None where the letter has no other form; `detail`: which form."""
        if self._dry_run:
            return
        about = {"state": letter.state.value} | ({} if reason is None else {"reason": reason.value})
        line = audit.Line(
            "replay-failed", letter.source_node, letter.tx_id, self._actor, about | {"error": str(error)} | detail
        )
        now_us = self._node.clock.now_us()
        writing(self._node.database, lambda connection: audit.write(connection, [line], now_us))


def readable_header(letter: Letter, tx: Incoming) -> BatchHeader:
    """Return the header of a letter that can have another form. Raises UsageError."""
    if tx.in_parts:
        raise UsageError(
            f"{letter.tx_id} came in {letter.parts} parts: too large to be applied in any other form than it came in"
        )
    if tx.error is not None or tx.header is None or tx.payload is None:
        raise UsageError(f"{letter.tx_id} can't be read ({letter.error}): import a whole copy of it instead")
    if tx.key != (letter.source_node, letter.tx_id):
        raise UsageError(f"{letter.tx_id} is not known to be from its source: dlq replay --trust-source comes first")
    return tx.header
