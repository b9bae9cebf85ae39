"""What two nodes compare their tables by, as JSON lines: asked for over HTTP, or written into a file.

    {"type":"digests",…}  {"type":"row",…}…  {"type":"chunk",…}…  {"type":"table",…}…  {"type":"end","lines":…,…}

The first line says who answers, how far it has every log, and what its tables look like. Digests of chunks come where
chunks were asked for, rows where rows were; a file holds both. The last line counts those before it and sums up their
bytes, so a torn or altered answer is noticed.
"""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Annotated, BinaryIO, Literal

import msgspec

from common.clock import from_iso
from common.errors import PoisonError, Reason
from common.versions import NEVER, Version
from common.wire.control import MOST_SEEN, SeenLog
from common.wire.forms import Form
from common.wire.records import FORMAT, NO_IMAGE
from common.wire.row_digests import MOST_BITS
from common.wire.scalars import Lsn, NodeId
from common.wire.signing import Proof, Purpose, Signer, Trust
from common.wire.unreadable import UNREADABLE

MOST_KEYS = 20_000
"""Rows that are asked for by their keys at once."""
LONGEST_IMAGE = 8 * 1024 * 1024
"""Bytes. A row that is longer is compared by its digest, and not sent."""
LONGEST_LINE = 2 * LONGEST_IMAGE
LONGEST_PLAIN_LINE = 1024 * 1024
"""Without images."""
_MOST_LINES = 50_000_000

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Bits = Annotated[int, msgspec.Meta(ge=0, le=MOST_BITS)]
_ChunkNumber = Annotated[int, msgspec.Meta(ge=0, lt=1 << MOST_BITS)]
_Hex = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]

State = Literal["stands", "deleted", "aside", "absent"]
"""aside: it has stepped back. absent: nothing is known of it, but that something of it waits or was set aside."""
Cause = Literal["stepped-back", "conflict", "dead-letter"]
"""Why a row may differ from everybody else's: it has stepped back, or a change of it waits or was set aside."""
Unfit = Literal["paused", "not-captured"]


class Digested(msgspec.Struct, frozen=True):
    """One table of a side."""

    pk: tuple[_Name, ...]
    columns: dict[_Name, _Name]
    """To logical types."""
    forms: dict[_Name, Form]
    """What counts of each column, as far as this side alone can tell; in a file, as it was digested."""
    unfit: Unfit | None = None
    """Why what stands in it now may not be what was sealed or applied."""


class Head(msgspec.Struct, frozen=True, kw_only=True, tag="digests", tag_field="type"):
    """The first line."""

    format: str = FORMAT
    source_node: NodeId
    incarnation: NodeId
    at: str
    marks: tuple[tuple[NodeId, NodeId, Lsn, Lsn], ...]
    """Node, incarnation, LSN up to which the rows hold its log, and the highest of which they hold anything; the
    answering node's own log among them."""
    tables: dict[_Name, Digested]
    rewound: bool = False
    """It knows that it was put back to an earlier state, and has not begun anew yet."""


class ChunkLine(msgspec.Struct, frozen=True, tag="chunk", tag_field="type"):
    """One chunk in which something is."""

    table: str
    chunk: _ChunkNumber
    rows: _Count
    gone: _Count
    sum: _Hex


class RowLine(msgspec.Struct, frozen=True, tag="row", tag_field="type"):
    """One row, or what is known of one that does not stand."""

    table: str
    pk: msgspec.Raw
    state: State
    version: Version = NEVER
    sum: _Hex | None = None
    """Of its values; null where it does not stand."""
    cause: Cause | None = None
    base: Version = NEVER
    """With `after` alone."""
    after: msgspec.Raw = NO_IMAGE
    """The row itself, where it was asked for."""

    @property
    def image(self) -> bytes | None:
        """The row as a JSON object; None where it was not asked for, or does not stand."""
        found = bytes(self.after)
        return None if found == b"null" else found


class TableLine(msgspec.Struct, frozen=True, tag="table", tag_field="type"):
    """The end of what is told of one table."""

    table: str
    bits: _Bits
    rows: _Count
    gone: _Count


class ScannedLine(msgspec.Struct, frozen=True, tag="scanned", tag_field="type"):
    """So many rows more were read: a sign of life while nothing else is to be told."""

    rows: _Count


class _End(msgspec.Struct, frozen=True, omit_defaults=True, tag="end", tag_field="type"):
    lines: int
    sha256: str
    key: str | None = None
    signature: str | None = None


class AskedTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of one table."""

    forms: dict[_Name, Form]
    """The columns that count, the key's among them."""
    bits: _Bits = 0
    """Into how many chunks the table is cut, as a power of two; where chunks are asked for at least into so many."""
    chunks: tuple[_ChunkNumber, ...] | None = None
    """The rows of these chunks."""
    keys: Annotated[tuple[_Hex, ...], msgspec.Meta(max_length=MOST_KEYS)] | None = None
    """The rows with keys of these digests."""

    @property
    def wants_rows(self) -> bool:
        """Whether rows are asked for, not chunks."""
        return self.chunks is not None or self.keys is not None


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One question: digests of chunks, or rows. Of no tables: the first line alone."""

    tables: dict[_Name, AskedTable] = {}
    images: bool = False
    """The rows themselves along with their digests."""
    seen: Annotated[tuple[SeenLog, ...], msgspec.Meta(max_length=MOST_SEEN)] = ()
    """What the asker has had of the logs of who is asked: who has less of one was put back to an earlier state."""


Line = ChunkLine | RowLine | TableLine | ScannedLine
_encoder = msgspec.json.Encoder()
_line = msgspec.json.Decoder(Head | Line | _End)
_asked = msgspec.json.Decoder(Asked)


def read_asked(body: bytes) -> Asked:
    """Return what a body asks for. Raises PoisonError."""
    try:
        return _asked.decode(body)
    except UNREADABLE as error:
        raise PoisonError(Reason.FORMAT, f"the question can't be read: {error}") from error


def encode_asked(asked: Asked) -> bytes:
    """Return a question as it is asked."""
    return _encoder.encode(asked)


def encoded(head: Head, lines: Iterable[Line], signer: Signer | None = None) -> Iterator[bytes]:
    """Yield all lines of an answer, each with its newline."""
    digest, count = hashlib.sha256(), 0
    for line in chain((head,), lines):
        data = _encoder.encode(line) + b"\n"
        digest.update(data)
        count += 1
        yield data
    sha256, proof = digest.hexdigest(), Proof()
    if signer is not None:
        proof = Proof(signer.key_id, signer.sign(Purpose.DIGESTS, sha256))
    yield _encoder.encode(_End(count, sha256, *proof)) + b"\n"


class Reading:
    """Reads an answer to its end. What it gives is well formed; whether it fits a question the reader has to see."""

    def __init__(self, stream: BinaryIO, trust: Trust, longest_line: int = LONGEST_LINE) -> None:
        """Read the first line. `trust`: whose signatures are asked for. Raises PoisonError."""
        self._stream = stream
        self._trust = trust
        self._longest = longest_line
        self._sum = hashlib.sha256()
        self._number = 0
        first = self._next()
        if not isinstance(first, Head):
            raise self._fault("it does not begin as digests do")
        if first.format.partition(".")[0] != FORMAT:
            raise self._fault(f"format {first.format!r} is not {FORMAT}")
        try:
            from_iso(first.at)
        except ValueError as error:
            raise self._fault(f"{first.at[:40]!r} is no instant") from error
        self.head = first

    def __iter__(self) -> Iterator[Line]:
        """Yield the lines up to the end, which is looked at too. Raises PoisonError."""
        while not isinstance(line := self._next(), _End):
            if isinstance(line, Head):
                raise self._fault("a second answer begins")
            yield line
        if line.lines != self._number - 1 or line.sha256 != self._sum.hexdigest():
            raise self._fault("it was altered: count or checksum do not fit what stands before")
        if self._stream.read(1):
            raise self._fault("something stands behind its end")
        proof = Proof(line.key, line.signature)
        fault = self._trust.fault(self.head.source_node, Purpose.DIGESTS, line.sha256, proof)
        if fault is not None:
            raise fault

    def _next(self) -> Head | Line | _End:
        data = self._stream.readline(self._longest)
        self._number += 1
        if not data.endswith(b"\n"):
            raise self._fault("it is torn: it ends in the middle" if len(data) < self._longest else "too long a line")
        if self._number > _MOST_LINES:
            raise self._fault("too many lines")
        try:
            if not data.isascii():
                # msgspec steps over values without looking whether they are UTF-8.
                data.decode("utf-8")
            found: Head | Line | _End = _line.decode(data)
        except UNREADABLE as error:
            raise self._fault(f"it is no line of digests: {error}") from error
        if not isinstance(found, _End):
            self._sum.update(data)
        return found

    def _fault(self, what: str) -> PoisonError:
        return PoisonError(Reason.FORMAT, f"line {self._number}: {what}")
