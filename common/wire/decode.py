"""`rowferry/1` bytes to verified parts. A torn or altered batch is always noticed here."""

import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, TypeVar

import msgspec

from common.errors import PoisonError, Reason
from common.wire.depth import MAX_DEPTH, nests_too_deep
from common.wire.headers import plain_header, read_header
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.lines import (
    CHANGE_OPENS,
    HEADER_OPENS,
    LINE_OF_END,
    chunk_line,
    decoded,
    end_line,
    line_type,
    only_changes,
    remedy,
)
from common.wire.records import UNDERSTOOD_FEATURES, BatchHeader, Part
from common.wire.signing import Proof
from common.wire.unreadable import UNREADABLE

_T = TypeVar("_T")
_SHORTEST_HEADER = 100
"""Bytes; the keys that a header must have take more."""
_MAY_OPEN = re.compile(rb'^(?=[^\n]{%d})[^\n]*?(?:"batch"|\\u)' % (_SHORTEST_HEADER - 1), re.MULTILINE)
_END_OPENS = re.compile(rb'^[^\S\n]*\{[^\S\n]*"type"[^\S\n]*:[^\S\n]*"end"', re.MULTILINE)
_AT_ONCE_BYTES = 1024 * 1024
"""Searched at one go: no other thread runs meanwhile."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A stretch of bytes that is no batch. `header` is set when it could be read."""

    error: PoisonError
    raw: bytes
    line: int
    """Where the fault is; where the batch begins when it is as a whole that it doesn't hold."""
    header: BatchHeader | None = None


@dataclass(slots=True)
class _Open:
    """A batch whose end has not come yet."""

    header: BatchHeader
    line: int
    header_bytes: bytes
    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    changes: int = 0


def read_parts(
    stream: BinaryIO, limits: Limits = DEFAULT_LIMITS, *, to_first_fault: bool = False
) -> Iterator[Part | Broken]:
    """Yield each batch of `stream` (uncompressed), verified, or what is broken, and go on at the next header.

    Holds one part in memory. After a limit was broken nothing more is read. `to_first_fault`: nor after anything that
    is broken, for who refuses the whole: reading through garbage can take a sender's choice of time.
    """
    return _line_by_line(_Streamed(stream, limits), 1, limits, to_first_fault=to_first_fault)


def read_body(body: bytes, limits: Limits = DEFAULT_LIMITS) -> list[Part | Broken]:
    """Return the batches of one message, verified, or what is broken in it."""
    return list(parts_in(body, limits))


def parts_in(body: bytes, limits: Limits = DEFAULT_LIMITS) -> Iterator[Part | Broken]:
    """Yield the batches of a message that is in memory, verified, or what is broken in it: just as `read_parts` does.

    A batch in the form in which this release writes it is found at one look; from the first that is not the rest is
    read line by line."""
    at, number = 0, 1
    while (part := _at_one_look(body, at, number, limits)) is not None:
        yield part
        at += len(part.raw)
        number += part.header.changes + 2
    yield from _line_by_line(_InMemory(body, at), number, limits)


def split_batches(body: bytes) -> list[bytes]:
    """Cut a message after each end line, without a look at what is in it. Where none is found it stays whole."""
    pieces: list[bytes] = []
    start = at = 0
    while at < len(body):
        window = _window(body, at)
        if (found := _END_OPENS.search(body, at, window)) is None:
            at = window
            continue
        at = body.find(b"\n", found.end()) + 1 or len(body)
        pieces.append(body[start:at])
        start = at
    return [*pieces, body[start:]] if start < len(body) else pieces


class _Lines(Protocol):
    """What is read line by line, or in its idle stretches at one look: a few bytes wrapped can be millions of lines."""

    def next(self) -> bytes:
        """Return the next line, with its newline; of one that is too long a part. Nothing at the end."""
        ...

    def skip(self) -> bytes:
        """Return the whole lines that come next, as far as they are at hand and none of them may open a batch."""
        ...


class _InMemory:
    def __init__(self, body: bytes, at: int) -> None:
        self._body, self._at = body, at

    def next(self) -> bytes:
        start = self._at
        self._at = self._body.find(b"\n", start) + 1 or len(self._body)
        return self._body[start : self._at]

    def skip(self) -> bytes:
        start = self._at
        window = _window(self._body, start)
        found = _MAY_OPEN.search(self._body, start, window)
        self._at = found.start() if found else window
        return self._body[start : self._at]


class _Streamed:
    def __init__(self, stream: BinaryIO, limits: Limits) -> None:
        self._stream = stream
        self._buffered = stream if isinstance(stream, io.BufferedReader) else None
        self._most = limits.max_part_bytes + 1

    def next(self) -> bytes:
        return self._stream.readline(self._most)

    def skip(self) -> bytes:
        if self._buffered is None:
            return b""
        at_hand = self._buffered.peek()
        whole = at_hand.rfind(b"\n") + 1
        found = _MAY_OPEN.search(at_hand, 0, whole)
        stop = found.start() if found else whole
        return self._buffered.read(stop) if stop else b""


def _window(body: bytes, at: int) -> int:
    """Return where the line ends that is read last when one looks at a stretch from `at` on at once."""
    return body.find(b"\n", at + _AT_ONCE_BYTES) + 1 or len(body)


def _line_by_line(
    lines: _Lines, first: int, limits: Limits, *, to_first_fault: bool = False
) -> Iterator[Part | Broken]:
    """Read lines one after the other; `first` is the number of the first one."""
    reader = _PartReader(limits)
    number = first
    while True:
        if reader.has_fault and (skipped := lines.skip()):
            reader.skip(skipped)
            number += skipped.count(b"\n")
        if not (line := lines.next()):
            break
        if len(line) > limits.max_part_bytes:
            error = PoisonError(Reason.LIMIT, f"line {number} is longer than {limits.max_part_bytes} bytes")
            yield reader.broken(error, line[:4096], number)
            return
        yield from reader.feed(line, number)
        if to_first_fault and reader.has_fault:
            break
        number += 1
    yield from reader.finish()


class _PartReader:
    """Puts lines together to parts: a header opens, an end line closes, anything else is broken."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: _Open | None = None
        self._garbage = bytearray()
        self._garbage_size = 0
        self._garbage_error: PoisonError | None = None
        self._garbage_header: BatchHeader | None = None
        self._garbage_line = 0

    @property
    def has_fault(self) -> bool:
        """Whether something broken waits to be given out."""
        return self._garbage_error is not None

    def skip(self, lines: bytes) -> None:
        """Take whole lines that open nothing, behind a fault: they are garbage as well."""
        room = self._limits.max_part_bytes - self._garbage_size
        self._garbage_size += len(lines)
        self._garbage += lines if len(lines) <= room else lines[: lines.rfind(b"\n", 0, max(room, 0)) + 1]

    def feed(self, line: bytes, number: int) -> Iterator[Part | Broken]:
        if self.has_fault and not _may_open(line):
            # Not looked at any closer: of a few bytes wrapped there can be millions of lines that say nothing.
            self._keep_garbage(line)
            return
        try:
            kind = self._kind(line, number)
            if kind == "batch":
                yield from self._close_as_torn(number)
                yield from self._flush_garbage()
                self._open = _Open(self._header(line, number), number, line)
            elif self._open is None:
                self._throw_away(line, number, PoisonError(Reason.FORMAT, f"line {number}: {kind!r} outside a batch"))
            elif kind == "end":
                opened, self._open = self._open, None
                try:
                    yield _closed(opened, line, number)
                except PoisonError as error:
                    raw = b"".join((opened.header_bytes, *opened.lines, line))
                    yield Broken(error, raw, opened.line, opened.header)
            elif kind in ("change", "chunk"):
                self._add(self._open, line, number, kind)
            else:
                raise PoisonError(Reason.FORMAT, f"line {number}: unknown type {kind!r} inside a batch")
        except PoisonError as error:
            self._spoil(error, number)
            self._throw_away(line, number, error)

    def finish(self) -> Iterator[Part | Broken]:
        yield from self._close_as_torn(None)
        yield from self._flush_garbage()

    def broken(self, error: PoisonError, line: bytes, number: int) -> Broken:
        """Return everything not yet given out as one broken stretch."""
        self._spoil(error, number)
        self._throw_away(line, number, error)
        return next(iter(self._flush_garbage()))

    def _kind(self, line: bytes, number: int) -> str:
        if nests_too_deep(line):
            raise PoisonError(Reason.LIMIT, f"line {number}: nests deeper than {MAX_DEPTH} levels")
        if line.startswith(CHANGE_OPENS):
            return "change"
        if not line.endswith(b"\n"):
            raise PoisonError(Reason.CHECKSUM, f"line {number} is torn: it has no newline{remedy(line)}")
        try:
            return line_type.decode(line).type
        except UNREADABLE as error:
            text = f"line {number} is no JSON object with a type: {error}{remedy(line)}"
            raise PoisonError(Reason.FORMAT, text) from error

    def _header(self, line: bytes, number: int) -> BatchHeader:
        try:
            header = read_header(line)
        except PoisonError as error:
            raise PoisonError(error.reason, f"line {number}: {error}") from error
        if header.parts > self._limits.max_parts:
            raise PoisonError(Reason.LIMIT, f"line {number}: {header.parts} parts, at most {self._limits.max_parts}")
        return header

    def _add(self, opened: _Open, line: bytes, number: int, kind: str) -> None:
        opened.lines.append(line)
        opened.size += len(line)
        if opened.size > self._limits.max_part_bytes:
            raise PoisonError(Reason.LIMIT, f"line {number}: the part is over {self._limits.max_part_bytes} bytes")
        if kind == "change":
            opened.changes += 1
        else:
            opened.changes += _parse(chunk_line, line, number).last

    def _close_as_torn(self, number: int | None) -> Iterator[Broken]:
        if self._open is None:
            return
        where = "the input ends" if number is None else f"line {number} starts another batch"
        opened, self._open = self._open, None
        error = PoisonError(Reason.CHECKSUM, f"batch of line {opened.line} has no end line: {where}")
        yield Broken(error, b"".join((opened.header_bytes, *opened.lines)), opened.line, opened.header)

    def _spoil(self, error: PoisonError, number: int) -> None:
        if self._open is None:
            return
        opened, self._open = self._open, None
        if self._garbage_error is None:
            self._garbage_error, self._garbage_line = error, number
            self._garbage_header = opened.header
        self._keep_garbage(opened.header_bytes, *opened.lines)

    def _throw_away(self, line: bytes, number: int, error: PoisonError) -> None:
        if self._garbage_error is None:
            self._garbage_error, self._garbage_line = error, number
        self._keep_garbage(line)

    def _keep_garbage(self, *lines: bytes) -> None:
        for line in lines:
            self._garbage_size += len(line)
            if self._garbage_size <= self._limits.max_part_bytes:
                self._garbage += line

    def _flush_garbage(self) -> Iterator[Broken]:
        if self._garbage_error is None:
            return
        yield Broken(self._garbage_error, bytes(self._garbage), self._garbage_line, self._garbage_header)
        self._garbage, self._garbage_size, self._garbage_error, self._garbage_header = bytearray(), 0, None, None


def _may_open(line: bytes) -> bool:
    """Tell whether a line may be the header of a batch; a quick look that never misses one."""
    return len(line) >= _SHORTEST_HEADER and (b'"batch"' in line or b"\\u" in line)


def _at_one_look(body: bytes, at: int, number: int, limits: Limits) -> Part | None:
    """Return the part that begins at `at`; None where that wants a closer look, or at the end."""
    if not body.startswith(HEADER_OPENS, at):
        return None
    first = body.find(b"\n", at) + 1
    # From the newline before, since there may be no change at all.
    end = body.find(LINE_OF_END, first - 1) + 1
    stop = body.find(b"\n", end) + 1
    if not (first and end and stop) or stop - at > limits.max_part_bytes:
        return None
    payload = body[first:end]
    header = plain_header(body[at:first])
    lines = payload.count(b"\n")
    if header is None or not only_changes(payload) or header.changes != lines or header.parts > limits.max_parts:
        return None
    raw = body[at:stop]
    if nests_too_deep(raw):
        return None
    try:
        closing = decoded(end_line, body[end:stop])
    except UNREADABLE:
        return None
    sha256 = hashlib.sha256(memoryview(raw)[: end - at]).hexdigest()
    if closing.tx_id != header.tx_id or closing.changes != lines or closing.sha256 != sha256:
        return None
    return Part(header, payload, raw, sha256, number, Proof(closing.key, closing.signature))


def _closed(opened: _Open, line: bytes, number: int) -> Part:
    end = _parse(end_line, line, number)
    payload = b"".join(opened.lines)
    body = opened.header_bytes + payload
    if end.tx_id != opened.header.tx_id:
        raise PoisonError(Reason.FORMAT, f"line {number}: end of {end.tx_id}, but the batch is {opened.header.tx_id}")
    if not end.changes == opened.header.changes == opened.changes:
        raise PoisonError(
            Reason.CHECKSUM,
            f"line {number}: {opened.changes} changes came, header says {opened.header.changes}, end {end.changes}",
        )
    if hashlib.sha256(body).hexdigest() != end.sha256:
        text = f"line {number}: not the sha256 of the batch that starts in line {opened.line}"
        raise PoisonError(Reason.CHECKSUM, text + remedy(opened.header_bytes))
    return Part(opened.header, payload, body + line, end.sha256, opened.line, Proof(end.key, end.signature))


def _parse(decoder: "msgspec.json.Decoder[_T]", line: bytes, number: int) -> _T:
    try:
        return decoded(decoder, line)
    except UNREADABLE as error:
        raise PoisonError(Reason.FORMAT, f"line {number}: {error}") from error


def missing_features(header: BatchHeader) -> list[str]:
    """Return the features that `header` requires and this release doesn't know."""
    return [name for name in header.requires if name not in UNDERSTOOD_FEATURES]
