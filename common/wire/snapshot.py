"""A snapshot as JSON lines: what a node holds at one moment, for one that begins with it.

    {"type":"snapshot",…}  {"type":"mark",…}…  {"type":"row",…}…  {"type":"end","lines":…,"sha256":…}

One line a row, with its version; tombstones too. The last line counts those before it and sums up their bytes, so a
torn or altered file is noticed. Instants are microseconds since the epoch, bytes are base64.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, NamedTuple

import msgspec

from common.errors import PoisonError, PreflightError
from common.versions import NEVER, Version
from common.wire.compress import Wrapping, encoding_of, open_decompressed
from common.wire.records import FORMAT, MAX_LSN, NO_IMAGE
from common.wire.scalars import Lsn, NodeId
from common.wire.signing import Proof, Purpose, Signer, Trust
from common.wire.unreadable import UNREADABLE

_LONGEST_LINE = 1024 * 1024 * 1024
"""Bytes: no database takes a larger value."""
_WRITE_BYTES = 1024 * 1024

Us = Annotated[int, msgspec.Meta(ge=0, le=MAX_LSN)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\0]*\Z")]
"""Without NUL, which PostgreSQL takes in no text."""


class Described(msgspec.Struct, frozen=True):
    """One table: its key, and the logical types of its columns."""

    pk: tuple[str, ...]
    columns: dict[str, str]


class Header(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot", tag_field="type"):
    """The first line."""

    format: str = FORMAT
    source_node: NodeId
    incarnation: NodeId
    exported_at: Text
    main: str | None = None
    """The main node, where it is known."""
    tables: dict[str, Described]
    plans: dict[str, msgspec.Raw] = {}
    """How each table could be made, as `common.ports.table_making` has it."""
    requires: tuple[str, ...] = ()


class MarkLine(msgspec.Struct, frozen=True, tag="mark", tag_field="type"):
    """Up to where the rows hold what a source wrote within one incarnation; the exporting node is one of them."""

    source_node: NodeId
    incarnation: NodeId
    last_lsn: Lsn
    last_tx_id: Text | None
    highest_lsn: Lsn


class AppliedLine(msgspec.Struct, frozen=True, tag="applied", tag_field="type"):
    """A tx above its source's mark that the rows hold too."""

    source_node: NodeId
    tx_id: Text
    incarnation: NodeId
    prev_lsn: Lsn
    to_lsn: Lsn
    sha256: Text


class HorizonLine(msgspec.Struct, frozen=True, tag="horizon", tag_field="type"):
    """The highest version among the tombstones of a table that are forgotten."""

    table: Text
    version: Version


class RowLine(msgspec.Struct, frozen=True, tag="row", tag_field="type"):
    """One row, or what is known of one that is gone."""

    table: Text
    pk: msgspec.Raw
    after: msgspec.Raw = NO_IMAGE
    """null: a tombstone."""
    version: Version = NEVER
    base: Version = NEVER
    aside: str | None = None
    """Why it does not stand in its table, if it has stepped back."""

    @property
    def image(self) -> bytes | None:
        """The row as a JSON object; None for a tombstone."""
        found = bytes(self.after)
        return None if found == b"null" else found


class LetterLine(msgspec.Struct, frozen=True, kw_only=True, tag="letter", tag_field="type"):
    """A tx that the rows do not hold, since it was set aside: `rf_dead_letter` knows the columns."""

    source_node: NodeId
    tx_id: Text
    incarnation: NodeId | None
    prev_lsn: Lsn | None
    from_lsn: Lsn | None
    to_lsn: Lsn | None
    exported_at: Text | None
    changes: Count | None
    parts: Count
    reason: Text
    state: Literal["dead", "early", "forked", "replayed", "discarded"]
    table_name: Text | None
    error: Text
    attempts: Count
    first_failed_us: Us
    last_failed_us: Us
    origin: Text
    sha256: Text
    body: bytes | None
    applied_lsns: Text | None
    settled_us: Us | None
    settled_by: Text | None
    settled_note: Text | None


class PartLine(msgspec.Struct, frozen=True, tag="part", tag_field="type"):
    """A part of a letter that came in parts: `rf_tx_part`."""

    source_node: NodeId
    tx_id: Text
    part: Count
    parts: Count
    tx_sha256: Text
    header: Text
    payload: bytes
    bytes: Lsn
    received_us: Us


class ConflictLine(msgspec.Struct, frozen=True, kw_only=True, tag="conflict", tag_field="type"):
    """A change that waits for a choice: `rf_conflict`."""

    table_name: Text
    pk: Text
    kind: Text
    state: Literal["waiting"]
    winner: Text
    rule: Text
    source_node: NodeId
    tx_id: Text
    lsn: Lsn
    our_version: Text
    their_version: Text
    their_base: Text | None
    our_image: Text | None
    their_image: Text | None
    our_meta: Text | None
    their_meta: Text | None
    recorded_us: Us


class ChoiceLine(msgspec.Struct, frozen=True, tag="choice", tag_field="type"):
    """A choice that settled conflicts: `rf_choice`."""

    table: Text
    pk: msgspec.Raw
    node_id: NodeId
    base: Version
    version: Version | None
    resolves: tuple[Version, ...]
    chosen_us: Us


class _End(msgspec.Struct, frozen=True, omit_defaults=True, tag="end", tag_field="type"):
    lines: int
    sha256: str
    key: str | None = None
    signature: str | None = None


Line = MarkLine | AppliedLine | HorizonLine | RowLine | LetterLine | PartLine | ConflictLine | ChoiceLine
"""What stands between the first line and the last."""
_encoder = msgspec.json.Encoder()
_line = msgspec.json.Decoder(Header | Line | _End)


class Writing:
    """Writes a snapshot into a stream."""

    def __init__(self, out: Callable[[bytes], object], name: str, signer: Signer | None) -> None:
        """`name`: of the file; its ending says how it is wrapped."""
        encoding = encoding_of(name)
        self._out = out
        self._wrapping = Wrapping(encoding) if encoding is not None else None
        self._signer = signer
        self._sum = hashlib.sha256()
        self._pending = bytearray()
        self._lines = 0

    def add(self, line: Header | Line) -> None:
        """Write one line."""
        self._pending += _encoder.encode(line) + b"\n"
        self._lines += 1
        if len(self._pending) >= _WRITE_BYTES:
            self._flush()

    def end(self) -> str:
        """Write the last line and return the sum of those before it."""
        self._flush()
        sha256 = self._sum.hexdigest()
        proof = Proof()
        if self._signer is not None:
            proof = Proof(self._signer.key_id, self._signer.sign(Purpose.SNAPSHOT, sha256))
        self._write(_encoder.encode(_End(self._lines, sha256, *proof)) + b"\n")
        if self._wrapping is not None:
            self._out(self._wrapping.end())
        return sha256

    def _flush(self) -> None:
        data, self._pending = bytes(self._pending), bytearray()
        self._sum.update(data)
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._out(data if self._wrapping is None else self._wrapping.add(data))


class Numbered(NamedTuple):
    """A line and its place, from 1."""

    number: int
    line: Line


class Reading:
    """Reads a snapshot from its beginning to its end, where count and sum are looked at: until then nothing of it is
    proven."""

    def __init__(self, stream: BinaryIO, path: Path, trust: Trust) -> None:
        """Read the first line. Raises PreflightError."""
        self._stream = stream
        self._path = path
        self._trust = trust
        self._sum = hashlib.sha256()
        self._number = 0
        first = self._next()
        if not isinstance(first, Header):
            raise self._fault("it does not begin as a snapshot does")
        if first.format.partition(".")[0] != FORMAT:
            raise self._fault(f"format {first.format!r} is not {FORMAT}")
        if first.requires:
            raise self._fault(f"it needs {', '.join(first.requires)}, which this release does not know")
        self.header = first
        self.sha256: str | None = None
        """Once its end was reached."""

    @classmethod
    def opened(cls, raw: BinaryIO, path: Path, trust: Trust) -> "Reading":
        """Read a file, wrapped as its ending says. Raises PreflightError."""
        try:
            stream = open_decompressed(raw, encoding_of(path.name), path.stat().st_size)
        except PoisonError as error:
            raise PreflightError(f"{path}: {error}") from error
        return cls(stream, path, trust)

    def __iter__(self) -> Iterator[Numbered]:
        while not isinstance(line := self._next(), _End):
            if isinstance(line, Header):
                raise self._fault("a second snapshot begins")
            yield Numbered(self._number, line)
        if line.lines != self._number - 1 or line.sha256 != self._sum.hexdigest():
            raise self._fault("it was altered: count or checksum do not fit what stands before")
        if self._has_more():
            raise self._fault("something stands behind its end")
        fault = self._trust.fault(
            self.header.source_node, Purpose.SNAPSHOT, line.sha256, Proof(line.key, line.signature)
        )
        if fault is not None:
            raise self._fault(str(fault))
        self.sha256 = line.sha256

    def _next(self) -> Header | Line | _End:
        try:
            data = self._stream.readline(_LONGEST_LINE)
        except PoisonError as error:
            raise self._fault(str(error)) from error
        self._number += 1
        if not data.endswith(b"\n"):
            raise self._fault("it is torn: it ends in the middle" if len(data) < _LONGEST_LINE else "too long a line")
        try:
            if not data.isascii():
                # msgspec steps over values without looking whether they are UTF-8.
                data.decode("utf-8")
            found: Header | Line | _End = _line.decode(data)
        except UNREADABLE as error:
            raise self._fault(f"it is no line of a snapshot: {error}") from error
        if not isinstance(found, _End):
            self._sum.update(data)
        return found

    def _has_more(self) -> bool:
        # What it is wrapped in has an end of its own, which may be missing when all its lines are there.
        try:
            return bool(self._stream.read(1))
        except PoisonError as error:
            raise self._fault(str(error)) from error

    def _fault(self, what: str) -> PreflightError:
        return PreflightError(f"{self._path}: line {self._number}: {what}")
