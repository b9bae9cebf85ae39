"""gzip and zstd on answers: what the client takes, and the stream wrapped in it, in chunks of a fair size."""

import re
from collections.abc import Generator, Iterable, Iterator

from common.wire.compress import Encoding, Wrapping

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


def wrapped(pieces: Iterable[bytes], encoding: Encoding | None) -> Generator[bytes]:
    """Yield `pieces`, wrapped, in chunks that are not small."""
    if encoding is None:
        yield from in_chunks(pieces, _CHUNK_BYTES)
        return
    wrapping = Wrapping(encoding)
    for chunk in in_chunks(pieces, _CHUNK_BYTES):
        if packed := wrapping.add(chunk):
            yield packed
    yield wrapping.end()


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
