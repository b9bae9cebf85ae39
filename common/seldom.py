"""Lines of the log that others can cause as often as they like, told now and then: nobody shall fill it."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

TELL_SECONDS = 60.0
_MOST = 100
"""So many are told apart. Of what comes above, all is one: who makes up names shall fill neither memory nor log."""
_OTHERS = object()


@dataclass(slots=True)
class _Told:
    at: float
    left_out: int = 0


class Seldom:
    """Tells of each event, and of each source and reason of it, once a minute. Any thread."""

    def __init__(self, log: logging.Logger, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._monotonic = monotonic
        self._told: OrderedDict[Hashable, _Told] = OrderedDict()
        self._lock = threading.Lock()

    def warn(self, event: str, *what: Hashable, **fields: object) -> None:
        """Warn of it, as `tell` does."""
        self.tell(logging.WARNING, event, *what, **fields)

    def tell(self, level: int, event: str, *what: Hashable, **fields: object) -> None:
        """Log it, with how many were left out before, unless it was told a moment ago. `what`: what it is told apart
        by, like its source and its reason."""
        left_out = self._due((event, *what))
        if left_out is None:
            return
        more = {"left_out_before": left_out} if left_out else {}
        self._log.log(level, event, extra=fields | more)

    def is_due(self, event: str) -> bool:
        """Tell whether it is time to tell of it, and note that it is told."""
        return self._due((event,)) is not None

    def _due(self, key: Hashable) -> int | None:
        """Return how many were left out since it was told last; None where that was a moment ago."""
        now = self._monotonic()
        with self._lock:
            self._forget(now)
            if key not in self._told and len(self._told) >= _MOST:
                key = _OTHERS
            told = self._told.get(key)
            if told is not None and now < told.at + TELL_SECONDS:
                told.left_out += 1
                return None
            self._told[key] = _Told(now)
            self._told.move_to_end(key)
            return 0 if told is None else told.left_out

    def _forget(self, now: float) -> None:
        """Forget what was told long ago; with something left out it is kept for a while, to be counted."""
        while self._told:
            key, oldest = next(iter(self._told.items()))
            kept_seconds = TELL_SECONDS if not oldest.left_out else 10 * TELL_SECONDS
            if now < oldest.at + kept_seconds and (len(self._told) < _MOST or now < oldest.at + TELL_SECONDS):
                return
            del self._told[key]
