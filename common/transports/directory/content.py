"""What a file holds: whether it is whole, whether two hold the same, and how it is cut into deliveries."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from common.errors import PoisonError
from common.transports.directory.names import BatchFile
from common.wire.compress import Encoding, open_decompressed
from common.wire.decode import Broken, read_parts
from common.wire.limits import DEFAULT_LIMITS, Limits


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much goes into one delivery, in bytes."""

    whole_bytes: int = 8 * 1024 * 1024
    """A file up to this size is one delivery when it is not compressed."""
    piece_bytes: int = 8 * 1024 * 1024
    """About how much of a larger one."""
    broken_bytes: int = 64 * 1024 * 1024
    """A broken file up to this size is delivered byte for byte, so that the dead letter is the file."""


@dataclass(frozen=True, slots=True)
class Piece:
    """The body of one delivery."""

    body: bytes
    encoding: Encoding | None = None


def fault_in(stream: BinaryIO, size: int, file: BatchFile, limits: Limits = DEFAULT_LIMITS) -> str | None:
    """Return why a file is not whole, None when it is; reads it once, up to its first fault, one part in memory.

    Whole is: each batch is, and together they begin and end with the LSNs of the name. So a copy that stopped
    between two batches is noticed too."""
    first, last = 0, None
    try:
        content = open_decompressed(stream, file.encoding, size, limits)
        for found in read_parts(content, limits, to_first_fault=True):
            if isinstance(found, Broken):
                return str(found.error)
            last = found.header
            first = first or last.from_lsn
    except PoisonError as error:
        return str(error)
    if last is None:
        return "it holds no batch"
    if (first, last.to_lsn, last.part) != (file.from_lsn, file.to_lsn, last.parts):
        return f"it holds LSNs {first} to {last.to_lsn}, part {last.part} of {last.parts} at the end"
    return None


def pieces(
    stream: BinaryIO, size: int, file: BatchFile, sizes: Sizes, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Piece]:
    """Yield the bodies of a file that is whole."""
    if file.encoding is None and size <= sizes.whole_bytes:
        yield Piece(stream.read())
        return
    parts = read_parts(open_decompressed(stream, file.encoding, size, limits), limits)
    yield from _grouped((part.raw for part in parts), sizes.piece_bytes)


def broken_pieces(
    stream: BinaryIO, size: int, file: BatchFile, sizes: Sizes, limits: Limits = DEFAULT_LIMITS
) -> Iterator[Piece]:
    """Yield the bodies of a file that is not whole, so that the receiver finds the fault itself.

    Byte for byte up to `broken_bytes`; of a larger one the stretches that could be read, and its beginning."""
    if size <= sizes.broken_bytes:
        yield Piece(stream.read(), file.encoding)
        return
    try:
        parts = read_parts(open_decompressed(stream, file.encoding, size, limits), limits)
        yield from _grouped((part.raw for part in parts), sizes.piece_bytes)
    except PoisonError:
        stream.seek(0)
        yield Piece(stream.read(sizes.piece_bytes), file.encoding)


def same_batches(one: BinaryIO, other: BinaryIO, encoding: Encoding | None) -> bool:
    """Tell whether two files hold the same txs, however they are compressed and cut into parts."""
    found = _digest(other, encoding)
    return found is not None and found == _digest(one, encoding)


def _digest(stream: BinaryIO, encoding: Encoding | None) -> bytes | None:
    """Return a checksum over the tx ids and change lines, None when something is broken."""
    digest = hashlib.sha256()
    size = stream.seek(0, 2)
    stream.seek(0)
    try:
        for part in read_parts(open_decompressed(stream, encoding, size), to_first_fault=True):
            if isinstance(part, Broken):
                return None
            if part.header.part == 1:
                digest.update(part.header.tx_id.encode())
            digest.update(part.payload)
    except PoisonError:
        return None
    return digest.digest()


def _grouped(raws: Iterator[bytes], piece_bytes: int) -> Iterator[Piece]:
    group: list[bytes] = []
    size = 0
    for raw in raws:
        if group and size + len(raw) > piece_bytes:
            yield Piece(b"".join(group))
            group, size = [], 0
        group.append(raw)
        size += len(raw)
    if group:
        yield Piece(b"".join(group))
