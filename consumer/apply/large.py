"""A tx in parts: one transaction, read in slices from `rf_tx_part`, so that memory stays bounded."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from common.errors import StoppingError
from common.ports.dialect import ApplySession, RowWrite
from common.runtime.node import Node
from common.wire.changes import TxReader
from common.wire.records import BatchHeader
from consumer.apply.books import keep_books
from consumer.apply.decision import Entry, row_write
from consumer.apply.released import with_released
from consumer.apply.rows import check, decide_rows, lock_states, write_rows
from consumer.conflict.record import record
from consumer.inbox import stored_payloads
from consumer.incoming import Counts, Incoming
from consumer.standing.causes import causes, without_copies
from consumer.standing.writing import StandingWriter
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
        node: Node,
        stop: threading.Event | None = None,
        standing: StandingWriter | None = None,
    ) -> None:
        """Once `stop` is set, the next slice is a StoppingError: what is rolled back is applied at the next start.

        `standing`: settle slice by slice which rows may stand, instead of writing all of them."""
        self._session = session
        self._stop = stop
        self._header = header
        self._policy_for = node.config.tables.policy_for
        self._standing_writer = standing
        self._references = node.config.tables.foreign_keys == "check"
        self._others_write = node.database.features.locks_rows
        self._to_check: set[str] = set()
        """Tables whose rows have to be looked at when everything is written."""
        self._applied = incoming.applied
        self._payloads = stored_payloads(session.connection, incoming.key)
        self.writes_as_main = False
        """Whether some change goes above others as the main node's do; known after `apply`."""

    def apply(self, checker: Callable[[BatchHeader], ChangeChecker], now_us: int) -> Counts:
        """Write all slices, then check those that can't be checked at once: references may point to what a later slice
        brings, and others may write meanwhile.

        The checksum over the whole tx is compared when the last slice is read, before anything is committed."""
        counts = Counts()
        first = checker(self._header)
        first.look_first()
        for some in self._slices(first, counts):
            entries = with_released(self._session, some, self._policy_for)
            written = decide_rows(self._session, entries, self._policy_for)
            self._write(written.writes, entries)
            keep_books(self._session, written, now_us)
        counts.latest_us = first.latest_us
        if self._standing_writer is not None:
            record(self._session.connection, self._standing_writer.finish(), now_us)
        if self._to_check:
            for some in self._slices(checker(self._header), Counts()):
                entries = [entry for entry in some if entry.use.name in self._to_check]
                check(self._session, self._standing(entries), references=self._references)
        return counts

    def _slices(self, checker: ChangeChecker, counts: Counts) -> Iterator[list[Entry]]:
        changes = TxReader(self._header, self._payloads())
        source = self._header.source_node
        for checked in _cut(checker.check(changes)):
            if self._stop is not None and self._stop.is_set():
                raise StoppingError(f"the node stops: {self._header.tx_id} is applied when it runs again")
            self.writes_as_main = self.writes_as_main or checker.writes_as_main
            yield [Entry(one.change, one.use, source, counts) for one in checked if one.change.lsn not in self._applied]

    def _write(self, writes: Mapping[TableUse, Sequence[RowWrite]], entries: Sequence[Entry]) -> None:
        """Write a slice. What it makes step back or return beside its own rows is checked at once."""
        if self._standing_writer is None:
            write_rows(self._session, writes)
            self._check_at_once(writes)
            return
        self._to_check |= {use.name for use in writes}
        mine = {(use.name, row.key) for use, rows in writes.items() for row in rows}
        written = self._standing_writer.write(writes, causes(writes, entries))
        others = {use: [row for row in rows if (use.name, row.key) not in mine] for use, rows in written.items()}
        check(self._session, others, references=False)

    def _check_at_once(self, writes: Mapping[TableUse, Sequence[RowWrite]]) -> None:
        """Check what was written now if that holds up to the commit; else note that it is to be checked at the end."""
        for use, rows in writes.items():
            if self._others_write or (self._references and self._session.has_references(use.shape)):
                self._to_check.add(use.name)
            else:
                check(self._session, {use: rows}, references=False)

    def _standing(self, entries: list[Entry]) -> dict[TableUse, list[RowWrite]]:
        """The rows of a slice as this tx wrote them: not beaten by what was here, nor by a later slice."""
        found: dict[TableUse, list[RowWrite]] = {}
        for entry, state in zip(entries, lock_states(self._session, entries), strict=True):
            if state.version == entry.change.version:
                found.setdefault(entry.use, []).append(row_write(entry, state.key))
        return found if self._standing_writer is None else without_copies(self._session.connection, found)


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
