"""gzip members and zstd frames one behind the other: all of them one stream, as long as each is worth its while."""

import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

from backports import zstd

from common.errors import PoisonError, Reason

GZIP = 31
"""zlib's window bits for a gzip wrapper: its sums are looked at, and its header holds no time."""
_PIECE_BYTES = 32 * 1024
"""What is read at once. Not more: what stands behind the end of a frame is copied at each end."""
_FRAMES = 1_000
_BYTES_A_FRAME = 256
"""The smallest batch takes more, wrapped alone. To begin a frame takes its time, however little it holds, and of those
that hold next to nothing a body of allowed size has millions."""


class _Frame(Protocol):
    """One of them, while it is unwrapped."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Member:
    """A member of gzip, in the words of zstd's frames."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(GZIP)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail or data, max_length)


class Frames:
    """Reads what a stream of frames holds."""

    def __init__(self, raw: BinaryIO, begin: Callable[[], _Frame], padding: bytes = b"") -> None:
        """`padding`: what may stand between two frames."""
        self._raw = raw
        self._begin = begin
        self._padding = padding
        self._frame: _Frame | None = None
        self._left = b""
        """Read, and not given to a frame yet."""
        self._consumed = 0
        self._count = 0

    def read(self, most: int) -> bytes:
        """Return at most so many bytes; none at the end. Raises EOFError, what the libraries raise, PoisonError."""
        while (frame := self._frame or self._next()) is not None:
            wanted = frame.needs_input
            given = self._take() if wanted else b""
            found = frame.decompress(given, most)
            self._frame = None if frame.eof else frame
            if frame.eof:
                self._left = self._stripped(frame.unused_data)
            elif wanted and not given and not found:
                raise EOFError("it ends in the middle")
            if found:
                return found
        return b""

    def _next(self) -> _Frame | None:
        """Begin the next frame; None where there is none."""
        while not self._left:
            head = self._take()
            if not head:
                return None
            self._left = self._stripped(head)
        self._count += 1
        if self._count > _FRAMES + self._consumed // _BYTES_A_FRAME:
            text = f"{self._count} compressed pieces in {self._consumed} bytes: they hold next to nothing"
            raise PoisonError(Reason.LIMIT, text)
        return self._begin()

    def _stripped(self, head: bytes) -> bytes:
        return head.lstrip(self._padding) if self._padding else head

    def _take(self) -> bytes:
        if self._left:
            taken, self._left = self._left, b""
            return taken
        taken = self._raw.read(_PIECE_BYTES)
        self._consumed += len(taken)
        return taken


def gzip_frames(raw: BinaryIO) -> Frames:
    """Return what reads gzip, with the zeros that some tools pad it with."""
    return Frames(raw, _Member, b"\0")


def zstd_frames(raw: BinaryIO) -> Frames:
    """Return what reads zstd."""
    return Frames(raw, zstd.ZstdDecompressor)
