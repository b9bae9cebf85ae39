"""`rowferry/1` bytes to verified parts, and parts to changes. A torn or altered batch is always noticed here."""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

import msgspec
from pydantic import ValidationError

from common.errors import PoisonError, Reason
from common.wire.limits import DEFAULT_LIMITS, Limits
from common.wire.records import UNDERSTOOD_FEATURES, BatchHeader, Change, Part

_T = TypeVar("_T")
_END_OPENS = re.compile(rb'\s*\{\s*"type"\s*:\s*"end"')
_FORMAT = re.compile(r"rowferry/1(\.\d+)?\Z")


class _Line(msgspec.Struct):
    type: str


class _End(msgspec.Struct):
    tx_id: str
    changes: int
    sha256: str


class _Chunk(msgspec.Struct):
    lsn: int
    n: int
    last: bool
    data: str


_line_type = msgspec.json.Decoder(_Line)
_end = msgspec.json.Decoder(_End)
_chunk = msgspec.json.Decoder(_Chunk)
_change = msgspec.json.Decoder(Change)
_any = msgspec.json.Decoder()


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


def read_parts(stream: BinaryIO, limits: Limits = DEFAULT_LIMITS) -> Iterator[Part | Broken]:
    """Yield each batch of `stream` (uncompressed), verified, or what is broken, and go on at the next header.

    Holds one part in memory. After a limit was broken nothing more is read.
    """
    reader = _PartReader(limits)
    number = 0
    while line := stream.readline(limits.max_part_bytes + 1):
        number += 1
        if len(line) > limits.max_part_bytes:
            error = PoisonError(Reason.LIMIT, f"line {number} is longer than {limits.max_part_bytes} bytes")
            yield reader.broken(error, line[:4096], number)
            return
        yield from reader.feed(line, number)
    yield from reader.finish()


def read_body(body: bytes, limits: Limits = DEFAULT_LIMITS) -> list[Part | Broken]:
    """Return the batches of one message, verified, or what is broken in it."""
    reader = _PartReader(limits)
    found: list[Part | Broken] = []
    for number, line in enumerate(_lines(body), start=1):
        found.extend(reader.feed(line, number))
    found.extend(reader.finish())
    return found


def split_batches(body: bytes) -> list[bytes]:
    """Cut a message after each end line, without a look at what is in it. Where none is found it stays whole."""
    pieces: list[bytes] = []
    start = stop = 0
    for line in _lines(body):
        stop += len(line)
        if _END_OPENS.match(line):
            pieces.append(body[start:stop])
            start = stop
    return [*pieces, body[start:]] if start < len(body) else pieces


def _lines(body: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(body):
        stop = body.find(b"\n", start) + 1 or len(body)
        yield body[start:stop]
        start = stop


class _PartReader:
    """Puts lines together to parts: a header opens, an end line closes, anything else is broken."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: _Open | None = None
        self._garbage: list[bytes] = []
        self._garbage_size = 0
        self._garbage_error: PoisonError | None = None
        self._garbage_header: BatchHeader | None = None
        self._garbage_line = 0

    def feed(self, line: bytes, number: int) -> Iterator[Part | Broken]:
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
        if line.startswith(b'{"type":"change",'):
            return "change"
        if not line.endswith(b"\n"):
            raise PoisonError(Reason.CHECKSUM, f"line {number} is torn: it has no newline")
        try:
            return _line_type.decode(line).type
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise PoisonError(Reason.FORMAT, f"line {number} is no JSON object with a type: {error}") from error

    def _header(self, line: bytes, number: int) -> BatchHeader:
        fields = _parse(_any, line, number)
        written = fields.get("format") if isinstance(fields, dict) else None
        if not isinstance(written, str) or not _FORMAT.match(written):
            raise PoisonError(Reason.FORMAT, f"line {number}: format {written!r} is not rowferry/1")
        try:
            header = BatchHeader.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(step) for step in first["loc"])
            key = f" key {where!r}" if where else ""
            text = f"line {number}: header{key}: {first['msg'].removeprefix('Value error, ')}"
            raise PoisonError(Reason.FORMAT, text) from error
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
            opened.changes += _parse(_chunk, line, number).last

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
                self._garbage.append(line)

    def _flush_garbage(self) -> Iterator[Broken]:
        if self._garbage_error is None:
            return
        yield Broken(self._garbage_error, b"".join(self._garbage), self._garbage_line, self._garbage_header)
        self._garbage, self._garbage_size, self._garbage_error, self._garbage_header = [], 0, None, None


def _closed(opened: _Open, line: bytes, number: int) -> Part:
    end = _parse(_end, line, number)
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
        raise PoisonError(
            Reason.CHECKSUM, f"line {number}: not the sha256 of the batch that starts in line {opened.line}"
        )
    return Part(opened.header, payload, body + line, end.sha256, opened.line)


def _parse(decoder: "msgspec.json.Decoder[_T]", line: bytes, number: int) -> _T:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise PoisonError(Reason.FORMAT, f"line {number}: {error}") from error


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
            for line in self._change_lines(number, payload):
                yield self._checked(self._decoded(_change, line))
        if self._chunks:
            raise PoisonError(Reason.FORMAT, f"lsn {self._chunk_lsn}: its last chunk is missing")
        found = self._digest.hexdigest()
        if self._header.tx_sha256 not in (None, found):
            raise PoisonError(Reason.CHECKSUM, f"tx_sha256 of {self._header.tx_id}: these are not the changes it is of")
        self.content_sha256 = found

    def _change_lines(self, number: int, payload: bytes) -> Iterator[bytes]:
        """Yield the change lines that a payload holds or, with its chunks, completes."""
        if b'"chunk"' not in payload and not self._chunks:
            self._digest.update(payload)
            for count, line in enumerate(payload.split(b"\n")[:-1], start=1):
                self.place = number, count
                yield line
            return
        for count, line in enumerate(_lines(payload), start=1):
            self.place = number, count
            whole = self._collect(line) if self._is_chunk(line) else line
            if whole is not None:
                self._digest.update(whole)
                yield whole

    def _is_chunk(self, line: bytes) -> bool:
        is_chunk = not line.startswith(b'{"type":"change",') and self._decoded(_line_type, line).type == "chunk"
        if self._chunks and not is_chunk:
            raise PoisonError(Reason.FORMAT, f"lsn {self._chunk_lsn}: another line stands between its chunks")
        return is_chunk

    def _decoded(self, decoder: "msgspec.json.Decoder[_T]", line: bytes) -> _T:
        try:
            # msgspec steps over values without looking whether they are UTF-8; the database would look, too late.
            line.decode("utf-8")
            return decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise PoisonError(Reason.FORMAT, f"a change of {self._header.tx_id}: {error}") from error

    def _collect(self, line: bytes) -> bytes | None:
        """Take a chunk; return the whole change line after its last one."""
        chunk = self._decoded(_chunk, line)
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
        if change.op not in _IMAGES:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: op {change.op!r} is not I, U, D or DDL")
        if change.table not in header.tables:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: table {change.table!r} is not in the header")
        has = (_is_object(change.before), _is_object(change.after))
        if has != _IMAGES[change.op]:
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: op {change.op} with the wrong images")
        if not _is_object(change.pk):
            raise PoisonError(Reason.FORMAT, f"lsn {change.lsn}: pk is no JSON object")
        return change


_IMAGES = {"I": (False, True), "U": (True, True), "D": (True, False)}


def _is_object(image: msgspec.Raw) -> bool:
    return bytes(image).startswith(b"{")


def parse_object(raw: msgspec.Raw, what: str) -> dict[str, object]:
    """Return the JSON object in `raw` with plain Python values; integers of any size stay integers."""
    try:
        value = _any.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise PoisonError(Reason.FORMAT, f"{what}: {error}") from error
    if not isinstance(value, dict):
        raise PoisonError(Reason.FORMAT, f"{what} is no JSON object")
    return value


def missing_features(header: BatchHeader) -> list[str]:
    """Return the features that `header` requires and this release doesn't know."""
    return [name for name in header.requires if name not in UNDERSTOOD_FEATURES]
