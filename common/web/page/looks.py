"""How the node stands, for all pages that tell it: looked at now and then, however many look again by themselves."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from common.ops.status import Standing
from common.ops.status_reading import read_standing
from common.ports.part import Part
from common.runtime.node import Node

_FRESH_SECONDS = 3.0


class Looks:
    """Looks at the node now and then: many pages that look again by themselves cost no more than one. Any thread."""

    def __init__(
        self, node: Node, parts: Sequence[Part[Node]], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._node = node
        self._parts = parts
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last: tuple[float, Standing] | None = None

    def now(self) -> Standing:
        """Return how the node stands, as `rowferry status` reads it, at most some seconds old. Raises OutageError.

        Whoever comes while somebody looks is given what was seen last: a broker that does not answer holds up one."""
        last = self._last
        # The first has to be waited for.
        if not self._lock.acquire(blocking=last is None) and last is not None:
            return last[1]
        try:
            last = self._last
            if last is None or self._monotonic() - last[0] > _FRESH_SECONDS:
                standing = self._look()
                last = self._last = self._monotonic(), standing
            return last[1]
        finally:
            self._lock.release()

    def _look(self) -> Standing:
        node = self._node
        shares: dict[str, Any] = {}
        for part in self._parts:
            shares |= part.status(node)
        return read_standing(node.database, node.config, node.facts, node.clock.now_us(), shares)
