"""The whole body of a push, kept until its turn comes: whoever sends slowly keeps nobody else waiting."""

import logging
import tempfile
from functools import partial
from typing import BinaryIO, cast

import anyio
import anyio.to_thread
from fastapi import Request

from common.http.problems import ProblemError
from common.seldom import Seldom

log = logging.getLogger(__name__)

_IN_MEMORY = 4 * 1024 * 1024
_WRITING = 4
"""Bodies that are written to the disk at once."""
_AGAIN = {"Retry-After": "30"}


class Spools:
    """Takes bodies: small ones into memory, others into a temporary file."""

    def __init__(self) -> None:
        # A disk may be slow, or hang: neither the server's loop nor the threads of other requests wait for it.
        self._writing = anyio.CapacityLimiter(_WRITING)
        self._seldom = Seldom(log)

    async def take(self, request: Request) -> BinaryIO:
        """Return the body of `request`. Raises ProblemError (503) where there is no room for it."""
        spool = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - it outlives this function
        try:
            size = 0
            async for chunk in request.stream():
                size += len(chunk)
                if size <= _IN_MEMORY:
                    spool.write(chunk)
                else:
                    await self._written(spool, chunk)
        except BaseException:
            spool.close()
            raise
        return cast(BinaryIO, spool)

    async def _written(self, spool: "tempfile.SpooledTemporaryFile[bytes]", chunk: bytes) -> None:
        try:
            await anyio.to_thread.run_sync(partial(spool.write, chunk), limiter=self._writing)
        except OSError as error:
            remedy = "make room where temporary files go (TMPDIR), or name another folder"
            self._seldom.tell(logging.ERROR, "push.no_room", error=str(error), remedy=remedy)
            text = "this server has no room for the body: nothing of it was applied; try again later"
            raise ProblemError(503, text, reason="outage", headers=_AGAIN) from error
