"""gzip and zstd on answers: what the client takes, and the stream wrapped in it, in chunks of a fair size."""

import re
from collections.abc import Generator, Iterable, Iterator

from common.http.problems import ProblemError
from common.wire import compress
from common.wire.compress import Encoding

_NOT_AT_ALL = re.compile(r"q=0(\.0*)?")
_TAKEN = ("", "identity", "gzip", "zstd")
_CHUNK_BYTES = 64 * 1024
"""Handing a chunk over takes as long as making it when it is small."""


def accepted_encoding(header: str | None) -> Encoding | None:
    """Return the best encoding that an `Accept-Encoding` header allows; None: as it is."""
    named = [one.strip().lower().partition(";") for one in (header or "").split(",")]
    allowed = {name.strip() for name, _, weight in named if not _NOT_AT_ALL.fullmatch(weight.replace(" ", ""))}
    if "zstd" in allowed:
        return "zstd"
    return "gzip" if "gzip" in allowed else None


def sent_encoding(header: str | None) -> str:
    """Return what a `Content-Encoding` header says of a body, "" for nothing. Raises ProblemError."""
    encoding = (header or "").strip().lower()
    if encoding not in _TAKEN:
        raise ProblemError(
            415, f"Content-Encoding {encoding!r}: gzip and zstd are taken", headers={"Accept-Encoding": "gzip, zstd"}
        )
    return encoding


def wrapped(pieces: Iterable[bytes], encoding: Encoding | None) -> Generator[bytes]:
    """Yield `pieces`, wrapped, in chunks that are not small."""
    yield from compress.wrapped(in_chunks(pieces, _CHUNK_BYTES), encoding)


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
