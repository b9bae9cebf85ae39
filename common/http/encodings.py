"""gzip and zstd on answers: what the client takes, and the stream wrapped in it, in chunks of a fair size."""

import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import Protocol

from backports import zstd

from common.wire.compress import Encoding

_GZIP = 31
"""zlib's window bits for a gzip wrapper."""
_NOT_AT_ALL = re.compile(r"q=0(\.0*)?")
_CHUNK_BYTES = 64 * 1024
"""Handing a chunk over takes as long as making it when it is small."""


def accepted_encoding(header: str | None) -> Encoding | None:
    """Return the best encoding that an `Accept-Encoding` header allows; None: as it is."""
    named = [one.strip().lower().partition(";") for one in (header or "").split(",")]
    allowed = {name.strip() for name, _, weight in named if not _NOT_AT_ALL.fullmatch(weight.replace(" ", ""))}
    if "zstd" in allowed:
        return "zstd"
    return "gzip" if "gzip" in allowed else None


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes: ...


def wrapped(pieces: Iterable[bytes], encoding: Encoding | None) -> Generator[bytes]:
    """Yield `pieces`, wrapped, in chunks that are not small."""
    if encoding is None:
        yield from in_chunks(pieces, _CHUNK_BYTES)
        return
    compressor: _Compressor = zlib.compressobj(6, zlib.DEFLATED, _GZIP) if encoding == "gzip" else _zstd()
    for chunk in in_chunks(pieces, _CHUNK_BYTES):
        if packed := compressor.compress(chunk):
            yield packed
    yield compressor.flush()


def _zstd() -> _Compressor:
    return zstd.ZstdCompressor(level=3)


def in_chunks(pieces: Iterable[bytes], least_bytes: int) -> Iterator[bytes]:
    """Yield `pieces` put together until so many bytes are reached; the last chunk may have fewer."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= least_bytes:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
