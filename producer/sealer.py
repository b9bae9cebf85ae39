"""The sealing loop: committed changes get their tx_id and LSNs, capture is kept whole, the relays are woken."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from common.crash_points import CrashPoint, reach
from common.errors import ReopenNodeError
from common.ops.incarnation import has_moved
from common.retry import while_contended
from common.runtime.node import Node
from producer.watch import CaptureWatch

log = logging.getLogger(__name__)

_FIRST_PAUSE_SECONDS = 0.002
"""Between two looks while there is work: what commits meanwhile is sealed together."""
_LOAD_TXS = 10
"""So many at one look are a load; fewer get the shortest way."""
_REST = 10
"""Under load the pause is so many times what sealing took: each look costs all who follow a transaction, down to the
target's commit, and the application the same cores. Where these are busy a look takes longer, and so comes seldom."""
_LONGEST_PAUSE_UNDER_LOAD_SECONDS = 0.25
_BUSY_SECONDS = 1.0
"""So long after the last change the next one is expected soon, and looked for without growing pauses."""
_WATCH_SECONDS = 5.0


class SealerService:
    """Seals what is committed, as soon as possible. A `Service`; only one process seals at a time, the port sees to it.

    While changes come it looks every few milliseconds; idle, after pauses that grow to `limits.seal_interval_seconds`.
    """

    name = "sealer"
    once_steps = 2
    """The first may find that capture missed something, and log it."""

    def __init__(self, node: Node, on_sealed: Sequence[Callable[[], None]], stop: threading.Event) -> None:
        self._node = node
        self._on_sealed = on_sealed
        self._stop = stop
        self._sealer = node.database.sealer(node.facts)
        self._watch = CaptureWatch(node)
        self._watch_at = 0.0
        self._same_server = False
        self._pause_seconds = _FIRST_PAUSE_SECONDS
        self._busy_until = 0.0
        self._look_at = 0.0
        self._wake = threading.Event()

    def wake(self) -> None:
        self._wake.set()

    def step(self, idle_seconds: float) -> bool:
        """Seal all that is committed now. Raises ReopenNodeError when the server behind the URL is another one."""
        self._wake.clear()
        try:
            self._check_server()
            began = time.monotonic()
            txs = 0 if self._is_quiet() else self._seal_all()
            took_seconds = time.monotonic() - began
            self._look_after_capture()
        except BaseException:
            # Also a failover looks like this: the next step must not go on before it knows who answers.
            self._same_server = False
            raise
        self._pause(txs, took_seconds, idle_seconds)
        return txs > 0

    def close(self) -> None:
        """Nothing is held between two steps: each seal is a transaction of its own."""

    def _check_server(self) -> None:
        if self._same_server:
            return
        if has_moved(self._node.database, self._node.facts):
            raise ReopenNodeError("the database's server, or the node's incarnation, is not the one of the start")
        self._same_server = True

    def _look_after_capture(self) -> None:
        if time.monotonic() >= self._watch_at:
            self._watch.look()
            # Another process may have given the node a new incarnation meanwhile.
            self._same_server = False
            self._watch_at = time.monotonic() + _WATCH_SECONDS

    def _is_quiet(self) -> bool:
        """Whether a look can be left out; not for longer than the longest pause."""
        now = time.monotonic()
        if now < self._look_at and self._sealer.is_quiet():
            return True
        self._look_at = now + self._node.config.limits.seal_interval_seconds
        return False

    def _seal_all(self) -> int:
        """Seal, and return how many txs that were."""
        txs = 0
        while not self._stop.is_set():
            report = while_contended(self._sealer.seal, self._stop)
            txs += report.txs
            if report.txs:
                reach(CrashPoint.SEALED)
                log.debug("sealer.sealed", extra={"txs": report.txs, "changes": report.changes, "lsn": report.last_lsn})
                for wake in self._on_sealed:
                    wake()
            if not report.more:
                break
        return txs

    def _pause(self, txs: int, took_seconds: float, idle_seconds: float) -> None:
        now = time.monotonic()
        if txs:
            self._busy_until = now + _BUSY_SECONDS
            self._pause_seconds = pause_after(txs, took_seconds)
        self._wake.wait(min(self._pause_seconds, idle_seconds))
        if now >= self._busy_until:
            self._pause_seconds = min(self._pause_seconds * 1.5, self._node.config.limits.seal_interval_seconds)


def pause_after(txs: int, took_seconds: float) -> float:
    """Return how many seconds to wait after a look that sealed so many txs. Pure."""
    if txs < _LOAD_TXS:
        return _FIRST_PAUSE_SECONDS
    return min(max(_FIRST_PAUSE_SECONDS, _REST * took_seconds), _LONGEST_PAUSE_UNDER_LOAD_SECONDS)
