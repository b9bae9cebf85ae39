"""A dead letter applied in pieces: what can be applied is, each piece in a commit of its own; the rest stays open.

Only for a tx that is no transaction of its source's application: everything that was committed between two looks
(`grouped`), or rows that `adopt` gave their first versions. Which changes are applied stands in the letter, written in
the commit that applies them."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import msgspec
import sqlalchemy as sa

from common.crash_points import CrashPoint, reach
from common.errors import ContentionError, EarlyError, OutageError, PoisonError, Reason
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from common.wire.changes import TxReader
from common.wire.records import BatchHeader, Change
from consumer import audit
from consumer.apply.books import keep_books
from consumer.apply.committing import Committing
from consumer.apply.decision import Entry, gives_first
from consumer.apply.group import Applier
from consumer.apply.prepare import Preparer
from consumer.apply.rows import check, decide_rows, write_rows
from consumer.apply.tx import table_of
from consumer.dead_letters.lsns import LsnSet
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import (
    Letter,
    SettledError,
    applied_lsns,
    lock_open,
    note_applied_lsns,
    note_attempt,
)
from consumer.failures import reason_of
from consumer.inbox import stored_payloads
from consumer.incoming import Counts, Incoming, Outcome, Result
from consumer.main_node import MainNode
from consumer.statements import reading, writing
from consumer.tables import Tables
from consumer.verify import header_error

log = logging.getLogger(__name__)

_PIECE_CHANGES = 2_000
_PIECE_BYTES = 8 * 1024 * 1024
_IN_MEMORY_BYTES = 16 * 1024 * 1024
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Change)

_OUTCOMES = {
    LetterState.DEAD: Outcome.DEAD,
    LetterState.EARLY: Outcome.EARLY,
    LetterState.FORKED: Outcome.FORKED,
}

Failures = list[tuple[Change, PoisonError | EarlyError]]
"""Changes that could not be applied alone, and why."""


@dataclass(slots=True)
class _Round:
    """What one pass over the open changes came to."""

    progress: bool = False
    open: int = 0
    """How many changes could not be applied."""
    failures: Failures = field(default_factory=list)
    """The first of them."""


class Pieces:
    """Applies letters in pieces, for `actor`. Killed anywhere, the next call goes on with what is left."""

    def __init__(self, node: Node, actor: str) -> None:
        self._node = node
        self._actor = actor
        self._tables = Tables(node)
        self._preparer = Preparer(self._tables, MainNode(node))
        self._committing = Committing(node)

    def replay(self, letter: Letter, tx: Incoming) -> Result:
        """Apply what can be applied, over and over while something more can: a row may wait for another of the letter.

        The result is `applied` where nothing is left; its counts are of this call. Raises OutageError."""
        header, refusal = tx.header, _refusal(letter, tx)
        if header is None or refusal is not None:
            return _left(letter, tx, refusal or PoisonError(Reason.FORMAT, letter.error), Counts())
        self._tables.begin()
        counts = Counts()
        with self._spooled(tx, header) as changes:
            if not changes.is_loose:
                text = "it is one transaction of its source, so it is applied whole or not at all"
                return _left(letter, tx, PoisonError(Reason(letter.reason), text), counts)
            last = _Round(progress=True)
            try:
                while last.progress:
                    last = self._pass(header, changes, counts)
            except SettledError as error:
                return Result(tx, Outcome.DUPLICATE, counts, settled=error.state)
        if not last.open:
            # Nothing of its rows is left to be written: this closes it, as any replay does.
            with reading(self._node.database) as connection:
                done = msgspec.structs.replace(tx, applied=applied_lsns(connection, tx.key))
            return msgspec.structs.replace(Applier(self._node).apply([done])[0], counts=counts)
        first = last.failures[0][1]
        try:
            self._note_failure(letter, first)
        except SettledError as error:
            return Result(tx, Outcome.DUPLICATE, counts, settled=error.state)
        return _left(letter, tx, first, counts, still_open=last.open)

    def _pass(self, header: BatchHeader, changes: "_Spool", counts: Counts) -> _Round:
        found = _Round()
        with reading(self._node.database) as connection:
            applied = applied_lsns(connection, (header.source_node, header.tx_id))
        for piece in changes.pieces(applied):
            self._apply(header, piece, found, counts)
        if not found.progress:
            self._try_together(header, found, counts)
        return found

    def _try_together(self, header: BatchHeader, found: _Round, counts: Counts) -> None:
        """What fails alone may hold together: unique values that change places, rows that point to each other."""
        for alike in _alike(found.failures):
            try:
                self._any_way(header, alike, counts)
            except (PoisonError, EarlyError) as error:
                log.debug("pieces.not_together", extra={"changes": len(alike), "error": str(error)})
            else:
                found.progress = True
                return

    def _apply(self, header: BatchHeader, piece: Sequence[Change], found: _Round, counts: Counts) -> None:
        """Apply a piece; by halves, down to single changes, where something is wrong."""
        try:
            self._any_way(header, piece, counts)
        except (PoisonError, EarlyError) as error:
            if len(piece) == 1:
                found.open += 1
                if len(found.failures) < _PIECE_CHANGES:
                    found.failures.append((piece[0], error))
                return
            half = len(piece) // 2
            self._apply(header, piece[:half], found, counts)
            self._apply(header, piece[half:], found, counts)
        except ContentionError as error:
            raise OutageError(f"rows are held by others: {error}") from error
        else:
            found.progress = True

    def _any_way(self, header: BatchHeader, piece: Sequence[Change], counts: Counts) -> None:
        try:
            self._commit(header, piece, counts, replace=False)
        except PoisonError as error:
            if error.reason is not Reason.CONSTRAINT:
                raise
            # Unique values may change places within the piece.
            self._commit(header, piece, counts, replace=True)

    def _commit(self, header: BatchHeader, piece: Sequence[Change], counts: Counts, *, replace: bool) -> None:
        checker = self._preparer.checker(header)
        checked = list(checker.check(piece))
        key = header.source_node, header.tx_id

        def work(session: ApplySession) -> Counts:
            connection, now_us, mine = session.connection, self._node.clock.now_us(), Counts()
            applied = lock_open(connection, key)
            entries = [
                Entry(one.change, one.use, header.source_node, mine) for one in checked if one.change.lsn not in applied
            ]
            config = self._node.config.tables
            written = decide_rows(session, entries, config.policy_for)
            write_rows(session, written.writes, replace=replace)
            check(session, written.writes, references=config.foreign_keys == "check")
            keep_books(session, written, now_us)
            if checker.writes_as_main:
                self._preparer.main.keep(connection, header, now_us)
            reach(CrashPoint.ROWS_WRITTEN)
            now_applied = applied.with_([change.lsn for change in piece])
            note_applied_lsns(connection, key, now_applied)
            detail = {**mine.as_dict(), "lsns": LsnSet().with_([change.lsn for change in piece]).ranges}
            audit.write(connection, [audit.Line("replayed-piece", *key, self._actor, detail)], now_us)
            reach(CrashPoint.BEFORE_COMMIT)
            return mine

        counts.add(self._committing.run(work, patiently=True))

    def _note_failure(self, letter: Letter, error: PoisonError | EarlyError) -> None:
        key, now_us = (letter.source_node, letter.tx_id), self._node.clock.now_us()
        reason, table = reason_of(error), table_of(error)

        def note(connection: sa.Connection) -> None:
            lock_open(connection, key)
            note_attempt(connection, key, reason, str(error), table, now_us)
            detail = {"state": letter.state.value, "reason": reason.value, "error": str(error)}
            audit.write(connection, [audit.Line("replay-failed", *key, self._actor, detail)], now_us)

        writing(self._node.database, note)

    @contextmanager
    def _spooled(self, tx: Incoming, header: BatchHeader) -> Iterator["_Spool"]:
        """Read the whole letter once, which checks its checksum; the pieces are then read without holding a lock.

        It ends at the first change that shows that the letter is to be left whole."""
        with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as file:
            with reading(self._node.database) as connection:
                payloads = stored_payloads(connection, tx.key)() if tx.payload is None else [tx.payload]
                is_loose = True
                for change in TxReader(header, payloads):
                    # Nobody wrote a first version, so nothing holds it to those beside it but what is checked anyway.
                    is_loose = header.grouped or gives_first(change)
                    if not is_loose:
                        break
                    file.write(_encoder.encode(change) + b"\n")
            yield _Spool(file, is_loose)


def _refusal(letter: Letter, tx: Incoming) -> PoisonError | None:
    """Return why a letter can't be taken to pieces."""
    header = tx.header
    if tx.error is not None or header is None:
        return tx.error
    if tx.key != (letter.source_node, letter.tx_id):
        return PoisonError(Reason(letter.reason), "it is not known to be from its source: replay it whole")
    return header_error(header)


def _left(
    letter: Letter, tx: Incoming, error: PoisonError | EarlyError, counts: Counts, still_open: int | None = None
) -> Result:
    outcome = _OUTCOMES[letter.state]
    return Result(tx, outcome, counts, reason_of(error), str(error), table_of(error), open_changes=still_open)


def _alike(failures: Failures) -> list[list[Change]]:
    """Return the changes that failed for one reason, then those that did so in one table; two or more of each."""
    by_reason: dict[tuple[Reason, str], list[Change]] = {}
    by_table: dict[tuple[Reason, str], list[Change]] = {}
    for change, error in failures:
        by_reason.setdefault((reason_of(error), ""), []).append(change)
        by_table.setdefault((reason_of(error), change.table), []).append(change)
    return [changes for changes in (*by_reason.values(), *by_table.values()) if len(changes) > 1]


class _Spool:
    """Changes in a temporary file."""

    def __init__(self, file: IO[bytes], is_loose: bool) -> None:
        """`is_loose`: whether each change may be applied without those beside it."""
        self._file = file
        self.is_loose = is_loose

    def pieces(self, applied: LsnSet) -> Iterator[list[Change]]:
        """Yield the changes that are not applied, in order, a bounded number and size at a time."""
        self._file.seek(0)
        piece: list[Change] = []
        size = 0
        for line in self._file:
            change = _decoder.decode(line)
            if change.lsn in applied:
                continue
            piece.append(change)
            size += len(line)
            if len(piece) >= _PIECE_CHANGES or size >= _PIECE_BYTES:
                yield piece
                piece, size = [], 0
        if piece:
            yield piece
