"""What anybody may ask, and the database has to answer: asked once, told to all who come within a moment."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")

FRESH_SECONDS = 1.0


class Fresh(Generic[_T]):
    """An answer that is read anew when it is older than a second; several who ask at once cost one read. Any thread."""

    def __init__(self, read: Callable[[], _T]) -> None:
        """`read`: what it raises is raised to who asked, and is no answer."""
        self._read = read
        self._lock = threading.Lock()
        self._last: tuple[float, _T] | None = None

    def get(self) -> _T:
        """Return it."""
        with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > FRESH_SECONDS:
                found = self._read()
                self._last = time.monotonic(), found
            return self._last[1]
