"""What lets a pull wait for news: one look at the database for all who wait, and sealing while anybody asks."""

import asyncio
import threading
import time

from common.ops.tokens import Tokens
from common.runtime.node import Node
from producer.log import NodeLogs
from producer.relay_log import RelayLog
from producer.sealer import SealerService

Heads = tuple[int, int]
"""The ends of this node's log and of what it hands on."""

_LOOK_SECONDS = 0.1
_SOON_SECONDS = 0.01
_PATIENCE_SECONDS = 2.0
_TOKENS_SECONDS = 0.5


class PullWatch:
    """A `Service` of `serve`; its coroutines belong to the server's loop.

    Seals by itself, so that a node that only serves needs no `rowferry run` beside it."""

    name = "pull-watch"

    def __init__(self, node: Node, stop: threading.Event) -> None:
        self._log = NodeLogs(node.database, node.facts).of(node.facts.incarnation)
        self._relay = RelayLog(node.database)
        self._tokens = Tokens(node.database, node.clock)
        self._sealer = SealerService(node, [], stop)
        self._stop = stop
        self._wake = threading.Event()
        self._asked = 0
        self._answered = 0
        self._waiting = 0
        self._heads: Heads = (0, 0)
        self._ended: int | None = None
        """How many tokens work no more, by the last look; None before the first, which comes before who asks."""
        self._tokens_at = 0.0

    async def look(self) -> Heads:
        """Have everything sealed that is committed now; return the heads. A look that takes long is not waited for."""
        self._asked += 1
        asked = self._asked
        self._wake.set()
        until = time.monotonic() + _PATIENCE_SECONDS
        while self._answered < asked and time.monotonic() < until and not self._stop.is_set():
            await asyncio.sleep(_SOON_SECONDS)
        return self._heads

    async def news(self, known: Heads, seconds: float) -> bool:
        """Wait until the heads are others than `known`, or a token works no more: maybe that of who waits. False when
        nothing came within `seconds`, or the node stops."""
        until = time.monotonic() + seconds
        self._waiting += 1
        self._wake.set()
        ended = self._ended
        try:
            while self._heads == known:
                if ended is None:
                    # The first look of all tells how many there were.
                    ended = self._ended
                elif self._ended != ended:
                    return True
                if time.monotonic() >= until or self._stop.is_set():
                    return False
                await asyncio.sleep(min(_LOOK_SECONDS, max(_SOON_SECONDS, until - time.monotonic())))
            return True
        finally:
            self._waiting -= 1

    def step(self, idle_seconds: float) -> bool:
        """Seal and look while anybody asks or waits. Raises what sealing raises."""
        self._wake.clear()
        if self._ended is None:
            self._ended = self._tokens.ended()
        asked = self._asked
        if asked == self._answered and not self._waiting:
            self._wake.wait(idle_seconds)
            return False
        sealed = self._sealer.step(0)
        self._heads = self._log.head().lsn, self._relay.head()
        self._answered = asked
        if self._waiting and time.monotonic() >= self._tokens_at:
            self._ended = self._tokens.ended()
            self._tokens_at = time.monotonic() + _TOKENS_SECONDS
        if self._asked == asked:
            self._wake.wait(min(idle_seconds, _LOOK_SECONDS))
        return sealed

    def wake(self) -> None:
        self._wake.set()

    def close(self) -> None:
        self._sealer.close()
