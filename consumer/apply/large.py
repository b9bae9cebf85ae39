"""A tx in parts: one transaction, read in slices from `rf_tx_part`, so that memory stays bounded."""

from collections.abc import Callable, Iterable, Iterator

from common.config.model import Config
from common.ports.dialect import ApplySession, RowWrite
from common.wire.decode import TxReader
from common.wire.records import BatchHeader
from consumer.apply.decision import Entry, row_write
from consumer.apply.rows import apply_rows, check, lock_states
from consumer.conflict.record import record
from consumer.inbox import stored_payloads
from consumer.incoming import Counts, Incoming
from consumer.tables import TableUse
from consumer.verify import ChangeChecker, Checked

_SLICE_CHANGES = 5_000
_SLICE_BYTES = 16 * 1024 * 1024


class LargeTx:
    """Applies one tx whose parts are stored."""

    def __init__(self, session: ApplySession, incoming: Incoming, header: BatchHeader, config: Config) -> None:
        self._session = session
        self._header = header
        self._config = config
        self._payloads = stored_payloads(session.connection, incoming.key)

    def apply(self, checker: Callable[[BatchHeader], ChangeChecker], now_us: int, *, replace: bool) -> Counts:
        """Write all slices, then check them: references may point to what a later slice brings.

        The checksum over the whole tx is compared when the last slice is read, before anything is committed."""
        counts = Counts()
        for entries in self._slices(checker(self._header), counts):
            written = apply_rows(self._session, entries, self._config.tables.policy_for, replace=replace)
            record(self._session.connection, written.conflicts, now_us)
        references = self._config.tables.foreign_keys == "check"
        for entries in self._slices(checker(self._header), Counts()):
            check(self._session, self._standing(entries), references=references)
        return counts

    def _slices(self, checker: ChangeChecker, counts: Counts) -> Iterator[list[Entry]]:
        changes = TxReader(self._header, self._payloads())
        source = self._header.source_node
        for checked in _cut(checker.check(changes)):
            yield [Entry(one.change, one.use, source, counts) for one in checked]

    def _standing(self, entries: list[Entry]) -> dict[TableUse, list[RowWrite]]:
        """The rows of a slice that stand as this tx wrote them: not beaten by what was here, nor by a later slice."""
        found: dict[TableUse, list[RowWrite]] = {}
        for entry, state in zip(entries, lock_states(self._session, entries), strict=True):
            if state.version == entry.change.version:
                found.setdefault(entry.use, []).append(row_write(entry, state.key))
        return found


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
