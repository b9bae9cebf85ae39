"""A tx in parts: one transaction, read in slices from `rf_tx_part`, so that memory stays bounded."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from common.config.model import Config
from common.errors import OutageError, PoisonError, Reason
from common.ports.dialect import ApplySession, RowWrite
from common.wire.changes import TxReader
from common.wire.records import BatchHeader
from consumer.apply.books import keep_books
from consumer.apply.decision import Entry, row_write
from consumer.apply.rows import check, decide_rows, lock_states, write_rows
from consumer.inbox import stored_payloads
from consumer.incoming import Counts, Incoming
from consumer.tables import TableUse
from consumer.verify import ChangeChecker, Checked

_SLICE_CHANGES = 5_000
_SLICE_BYTES = 16 * 1024 * 1024


class LargeTx:
    """Applies one tx whose parts are stored."""

    def __init__(
        self,
        session: ApplySession,
        incoming: Incoming,
        header: BatchHeader,
        config: Config,
        stop: threading.Event | None = None,
    ) -> None:
        """Once `stop` is set, the next slice is an OutageError: what is rolled back is applied at the next start."""
        self._session = session
        self._stop = stop
        self._header = header
        self._config = config
        self._applied = incoming.applied
        self._payloads = stored_payloads(session.connection, incoming.key)
        self.writes_as_main = False
        """Whether some change goes above others as the main node's do; known after `apply`."""

    def apply(self, checker: Callable[[BatchHeader], ChangeChecker], now_us: int, *, replace: bool) -> Counts:
        """Write all slices, then check them: references may point to what a later slice brings.

        The checksum over the whole tx is compared when the last slice is read, before anything is committed.
        `replace`: take away all rows of all slices, then write them, since unique values may change places."""
        counts = Counts()
        first = checker(self._header)
        first.look_first()
        for entries in self._slices(first, counts):
            written = decide_rows(self._session, entries, self._config.tables.policy_for)
            write_rows(self._session, _taken_away(written.writes) if replace else written.writes)
            keep_books(self._session, written, now_us)
        counts.latest_us = first.latest_us
        if replace:
            for entries in self._slices(checker(self._header), Counts()):
                write_rows(self._session, self._standing(entries, only_away=True))
        references = self._config.tables.foreign_keys == "check"
        for entries in self._slices(checker(self._header), Counts()):
            check(self._session, self._standing(entries), references=references)
        return counts

    def _slices(self, checker: ChangeChecker, counts: Counts) -> Iterator[list[Entry]]:
        changes = TxReader(self._header, self._payloads())
        source = self._header.source_node
        for checked in _cut(checker.check(changes)):
            if self._stop is not None and self._stop.is_set():
                raise OutageError(f"the node stops: {self._header.tx_id} is applied when it runs again")
            self.writes_as_main = self.writes_as_main or checker.writes_as_main
            yield [Entry(one.change, one.use, source, counts) for one in checked if one.change.lsn not in self._applied]

    def _standing(self, entries: list[Entry], *, only_away: bool = False) -> dict[TableUse, list[RowWrite]]:
        """The rows of a slice that stand as this tx wrote them: not beaten by what was here, nor by a later slice.

        `only_away`: of these the ones that were taken away and must come back."""
        found: dict[TableUse, list[RowWrite]] = {}
        for entry, state in zip(entries, lock_states(self._session, entries), strict=True):
            away = state.deleted and entry.change.op != "D"
            if state.version == entry.change.version and (away or not only_away):
                found.setdefault(entry.use, []).append(row_write(entry, state.key))
        return found


def _taken_away(writes: Mapping[TableUse, Sequence[RowWrite]]) -> dict[TableUse, list[RowWrite]]:
    """The same writes with the rows deleted. Columns that the batch does not name would be lost with them."""
    for use in writes:
        unnamed = {column.name for column in use.shape.written} - use.column_names
        if unnamed:
            text = (
                f"unique values of {use.name!r} clash, and its rows can't be taken away for a moment: "
                f"the batch does not name their column {min(unnamed)!r}"
            )
            raise PoisonError(Reason.CONSTRAINT, text, table=use.name)
    return {use: [msgspec.structs.replace(row, image=None) for row in rows] for use, rows in writes.items()}


def _cut(changes: Iterable[Checked]) -> Iterator[list[Checked]]:
    piece: list[Checked] = []
    size = 0
    for checked in changes:
        piece.append(checked)
        size += len(bytes(checked.change.after)) + len(bytes(checked.change.before))
        if len(piece) >= _SLICE_CHANGES or size >= _SLICE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
