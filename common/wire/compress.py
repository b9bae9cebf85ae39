"""gzip and zstd round the wire bytes, with limits that hold while the bytes stream in."""

import gzip
import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Literal, Protocol, cast

from backports import zstd

from common.errors import PoisonError, Reason
from common.wire.frames import GZIP, Frames, gzip_frames, zstd_frames
from common.wire.limits import DEFAULT_LIMITS, Limits

Encoding = Literal["gzip", "zstd"]
_RATIO_FLOOR = 16 * 1024 * 1024
_AT_ONCE_BYTES = 8 * 1024 * 1024
_GZIP_LEVEL, _ZSTD_LEVEL = 6, 3
_SKIPPABLE = 0x184D2A50
"""Begins a frame of zstd that holds nothing (RFC 8878, 3.1.2)."""
_BROKEN = (OSError, EOFError, zlib.error, zstd.ZstdError)


def encoding_of(name: str) -> Encoding | None:
    """Return the encoding that a file's ending stands for (`.gz`, `.zst`, in any case: some systems know no other)."""
    ending = name.lower()
    if ending.endswith(".gz"):
        return "gzip"
    return "zstd" if ending.endswith(".zst") else None


def compress(data: bytes, encoding: Encoding | None, *, quick: bool = False) -> bytes:
    """Return `data` wrapped; the same bytes for the same input. `quick`: for what travels and is gone then."""
    if encoding is None:
        return data
    packed = (
        gzip.compress(data, compresslevel=_GZIP_LEVEL, mtime=0)
        if encoding == "gzip"
        else zstd.compress(data, level=1 if quick else _ZSTD_LEVEL)
    )
    return packed + _padding(encoding, len(data), len(packed))


class Wrapping:
    """Wraps a stream, piece by piece; equal input gives equal bytes."""

    def __init__(self, encoding: Encoding) -> None:
        self._encoding = encoding
        self._inner: _Compressor = (
            zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, GZIP)
            if encoding == "gzip"
            else zstd.ZstdCompressor(level=_ZSTD_LEVEL)
        )
        self._taken = self._given = 0

    def add(self, data: bytes) -> bytes:
        """Take the next piece, and return what is there of the wrapped stream; often nothing."""
        packed = self._inner.compress(data)
        self._taken += len(data)
        self._given += len(packed)
        return packed

    def end(self) -> bytes:
        """Return the rest."""
        packed = self._inner.flush()
        return packed + _padding(self._encoding, self._taken, self._given + len(packed))


def wrapped(pieces: Iterable[bytes], encoding: Encoding | None) -> Iterator[bytes]:
    """Yield `pieces` as one wrapped stream; as they are where there is no encoding."""
    if encoding is None:
        yield from pieces
        return
    wrapping = Wrapping(encoding)
    for piece in pieces:
        if packed := wrapping.add(piece):
            yield packed
    yield wrapping.end()


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def _padding(encoding: Encoding, size: int, packed: int) -> bytes:
    """Return what no reader minds behind a frame. Rows of zeros come to less than a thousandth, and who receives so
    little of so much would take it for a bomb, and set it aside."""
    missing = size // DEFAULT_LIMITS.max_ratio + 1 - packed
    if size <= _RATIO_FLOOR or missing <= 0:
        return b""
    return bytes(missing) if encoding == "gzip" else struct.pack("<II", _SKIPPABLE, missing) + bytes(missing)


def is_wrapped(encoding: str | None) -> bool:
    """Tell whether a message's or file's `encoding` says that its bytes are wrapped."""
    return encoding not in (None, "", "identity")


def decompress(data: bytes, encoding: str | None, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Return what `data` wraps. Raises PoisonError: unknown encoding, torn, over `max_stream_bytes` or the ratio."""
    if not is_wrapped(encoding):
        return data
    return open_decompressed(io.BytesIO(data), encoding, len(data), limits).read()


def decompress_at_once(data: bytes, encoding: str | None) -> bytes | None:
    """Return what `data` wraps; None where that is large or broken, and wants to be read in pieces."""
    if not is_wrapped(encoding):
        return data
    try:
        if encoding == "zstd":
            # What this release wraps is one frame, and needs no counting while it streams: no ratio is looked at below
            # the bound.
            frame = zstd.ZstdDecompressor()
            found = frame.decompress(data, _AT_ONCE_BYTES + 1)
            if len(found) > _AT_ONCE_BYTES:
                return None
            if frame.eof and not frame.unused_data:
                return found
        found = open_decompressed(io.BytesIO(data), encoding, len(data)).read(_AT_ONCE_BYTES + 1)
    except (PoisonError, zstd.ZstdError):
        return None
    return found if len(found) <= _AT_ONCE_BYTES else None


def open_decompressed(raw: BinaryIO, encoding: str | None, size: int, limits: Limits = DEFAULT_LIMITS) -> BinaryIO:
    """Return a reader of what `raw` wraps. `size`: compressed bytes, for the ratio."""
    if not is_wrapped(encoding) or not size:
        # Nothing at all wraps nothing: an export of nothing is an empty file, whatever its ending.
        return raw
    if encoding not in ("gzip", "zstd"):
        raise PoisonError(Reason.FORMAT, f"content encoding {encoding!r}; known are gzip and zstd")
    inner = gzip_frames(raw) if encoding == "gzip" else zstd_frames(raw)
    return cast(BinaryIO, io.BufferedReader(_Limited(inner, size, limits), 256 * 1024))


class _Limited(io.RawIOBase):
    """Counts what comes out of a decompressor and stops a bomb while it streams."""

    def __init__(self, inner: Frames, compressed: int, limits: Limits) -> None:
        self._inner = inner
        self._bound = min(limits.max_stream_bytes, max(_RATIO_FLOOR, compressed * limits.max_ratio))
        self._count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        try:
            data = self._inner.read(len(view))
        except _BROKEN as error:
            raise PoisonError(Reason.CHECKSUM, f"compressed data is torn or altered: {error}") from error
        self._count += len(data)
        if self._count > self._bound:
            raise PoisonError(Reason.LIMIT, f"decompresses to more than {self._bound} bytes")
        view[: len(data)] = data
        return len(data)
