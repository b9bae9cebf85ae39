"""Long answers: made piece by piece in threads, counted until their end, given as long as their taker may have them."""

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager

import anyio
import anyio.to_thread
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from common.errors import OutageError
from common.http.problems import BrokenOffError, ProblemError
from common.http.wire import MEDIA_TYPE

_LOOK_SECONDS = 1.0
"""So long a token that is revoked still gets what it is being given."""
_PIECE_BYTES = 128 * 1024
"""The most that is under way between two looks, but for what fits between here and there."""


class CountedStream(StreamingResponse):
    """Batches as they are made. `place` is entered before the head is sent, and may refuse with a ProblemError; it is
    left when all is sent, or nobody is there to take it and no thread makes more of it."""

    def __init__(
        self, chunks: Generator[bytes], place: AbstractContextManager[object], headers: Mapping[str, str]
    ) -> None:
        super().__init__(_in_threads(chunks), headers=headers, media_type=MEDIA_TYPE)
        self._chunks = chunks
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Where its client left, the thread that makes the next chunk is waited for."""
        with self._place:
            try:
                await super().__call__(scope, receive, send)
            finally:
                # What is read stays in memory until then; the garbage collector comes by too seldom for such pieces.
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._chunks.close)


async def _in_threads(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Make each chunk in a thread: it reads the database and compresses."""
    while (chunk := await anyio.to_thread.run_sync(_next, chunks)) is not None:
        yield chunk


def _next(chunks: Iterator[bytes]) -> bytes | None:
    """Return the next; None behind the last. Raises BrokenOffError: once an answer has begun it can't be an error."""
    try:
        return next(chunks, None)
    except OutageError as error:
        raise BrokenOffError(str(error)) from error


def while_admitted(pieces: Iterator[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    """Yield pieces, cut small, as long as their taker may have them: a slow one takes minutes.

    `check`: raises ProblemError where he may not any more. Raises BrokenOffError then, and what `pieces` raises."""
    looked_at = time.monotonic()
    for piece in _cut(pieces):
        if time.monotonic() - looked_at >= _LOOK_SECONDS:
            try:
                check()
            except ProblemError as error:
                raise BrokenOffError(error.detail) from error
            looked_at = time.monotonic()
        yield piece


def _cut(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for at in range(0, len(piece), _PIECE_BYTES):
            yield piece[at : at + _PIECE_BYTES]
