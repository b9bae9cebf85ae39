"""Parts to changes: each line checked, chunks put together, the checksum of the whole tx at the end."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Iterator
from typing import TypeVar

import msgspec

from common.errors import PoisonError, Reason
from common.wire.depth import MAX_DEPTH, nests_too_deep
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.lines import CHANGE_OPENS, chunk_line, decoded, line_type, lines_of, only_changes, placed_line
from common.wire.records import IMAGES_OF, BatchHeader, Change
from common.wire.unreadable import UNREADABLE

_T = TypeVar("_T")
_MOST_AT_ONE_LOOK = 8 * 1024 * 1024
"""Bytes of a payload whose changes are all made at once; of a larger one each when it is wanted."""

_change = msgspec.json.Decoder(Change)


class TxReader:
    """The changes of one whole tx, from its parts in order; checks each line, and the tx's checksum at the end.

    `content_sha256` is set when the iteration is over: the checksum over the tx's change lines, whatever its parts.
    `place` says where it is, also when an error ended it: which payload, and which of its lines, both from 1.
    """

    def __init__(self, header: BatchHeader, payloads: Iterable[bytes], limits: Limits = DEFAULT_LIMITS) -> None:
        self._header = header
        self._payloads = payloads
        self._limits = limits
        self._digest = hashlib.sha256()
        self._last_lsn = header.from_lsn - 1
        self._chunks: list[bytes] = []
        self._chunked = 0
        self._chunk_lsn = 0
        self.content_sha256: str | None = None
        self.place = (0, 0)

    def __iter__(self) -> Iterator[Change]:
        for number, payload in enumerate(self._payloads, start=1):
            changes = self._at_one_look(payload)
            if changes is None:
                for line in self._change_lines(number, payload):
                    yield self._checked(self._decoded(_change, line))
                continue
            self._digest.update(payload)
            for count, change in enumerate(changes, start=1):
                self.place = number, count
                yield self._checked(change)
        if self._chunks:
            raise PoisonError(Reason.FORMAT, f"lsn {self._chunk_lsn}: its last chunk is missing")
        found = self._digest.hexdigest()
        if self._header.tx_sha256 not in (None, found):
            raise PoisonError(Reason.CHECKSUM, f"tx_sha256 of {self._header.tx_id}: these are not the changes it is of")
        self.content_sha256 = found

    def _at_one_look(self, payload: bytes) -> list[Change] | None:
        """Return the changes of a payload of nothing but change lines; None where a line needs a closer look."""
        if self._chunks or len(payload) > _MOST_AT_ONE_LOOK or not only_changes(payload):
            return None
        lines = payload.count(b"\n")
        try:
            if not payload.isascii():
                # msgspec steps over values without looking whether they are UTF-8; the database would look, too late.
                payload.decode("utf-8")
            changes = _change.decode_lines(payload)
        except UNREADABLE:
            return None
        return changes if len(changes) == lines else None

    def _change_lines(self, number: int, payload: bytes) -> Iterator[bytes]:
        """Yield the change lines that a payload holds or, with its chunks, completes."""
        for count, line in enumerate(lines_of(payload), start=1):
            self.place = number, count
            whole = self._collect(line) if self._is_chunk(line) else line
            if whole is not None:
                self._digest.update(whole)
                yield whole

    def _is_chunk(self, line: bytes) -> bool:
        is_chunk = not line.startswith(CHANGE_OPENS) and self._decoded(line_type, line).type == "chunk"
        if self._chunks and not is_chunk:
            raise PoisonError(Reason.FORMAT, f"lsn {self._chunk_lsn}: another line stands between its chunks")
        return is_chunk

    def _decoded(self, decoder: "msgspec.json.Decoder[_T]", line: bytes) -> _T:
        try:
            return decoded(decoder, line)
        except UNREADABLE as error:
            raise PoisonError(Reason.FORMAT, f"a change of {self._header.tx_id}: {error}") from error

    def _collect(self, line: bytes) -> bytes | None:
        """Take a chunk; return the whole change line after its last one."""
        chunk = self._decoded(chunk_line, line)
        if chunk.n != len(self._chunks) or (self._chunks and chunk.lsn != self._chunk_lsn):
            raise PoisonError(Reason.FORMAT, f"lsn {chunk.lsn}: chunk {chunk.n} is out of place")
        try:
            data = base64.b64decode(chunk.data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise PoisonError(Reason.FORMAT, f"lsn {chunk.lsn}: chunk {chunk.n}: {error}") from error
        self._chunked += len(data)
        if self._chunked > self._limits.max_change_bytes:
            raise PoisonError(Reason.LIMIT, f"lsn {chunk.lsn}: over {self._limits.max_change_bytes} bytes in chunks")
        self._chunk_lsn = chunk.lsn
        self._chunks.append(data)
        if not chunk.last:
            return None
        whole = b"".join(self._chunks)
        self._chunks, self._chunked = [], 0
        if nests_too_deep(whole):
            raise PoisonError(Reason.LIMIT, f"lsn {chunk.lsn}: nests deeper than {MAX_DEPTH} levels")
        found = self._decoded(placed_line, whole)
        if (found.type, found.lsn) != ("change", chunk.lsn):
            text = f"lsn {chunk.lsn}: its chunks come to a line of type {found.type!r} with lsn {found.lsn}"
            raise PoisonError(Reason.FORMAT, text)
        return whole

    def _checked(self, change: Change) -> Change:
        header = self._header
        if change.tx_id != header.tx_id:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: tx_id {change.tx_id!r} in a batch of {header.tx_id}")
        if not self._last_lsn < change.lsn <= header.to_lsn:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn} is out of order or outside the header's range")
        self._last_lsn = change.lsn
        if change.op == "DDL":
            if not change.sql:
                raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: op DDL without sql")
            return change
        if change.op not in IMAGES_OF:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: op {change.op!r} is not I, U, D or DDL")
        if change.table not in header.tables:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: table {change.table!r} is not in the header")
        if (_is_object(change.before), _is_object(change.after)) != IMAGES_OF[change.op]:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: op {change.op} with the wrong images")
        if not _is_object(change.pk):
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: pk is no JSON object")
        return change


def _is_object(image: msgspec.Raw) -> bool:
    return bytes(image).startswith(b"{")
