"""Lines of the log that any stranger can cause, told now and then: nobody shall fill it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_TELL_SECONDS = 60.0
_LIBRARY = "uvicorn.error"


class NowAndThen(logging.Filter):
    """Lets each warning through once a minute, and errors always. The texts are the library's own: few."""

    def __init__(self) -> None:
        super().__init__()
        self._told_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.WARNING:
            return True
        now, text = time.monotonic(), str(record.msg)
        with self._lock:
            if now < self._told_at.get(text, -_TELL_SECONDS) + _TELL_SECONDS:
                return False
            self._told_at[text] = now
        return True


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keep the HTTP library from a line for each request that is none, until the context ends."""
    logger, seldom = logging.getLogger(_LIBRARY), NowAndThen()
    logger.addFilter(seldom)
    try:
        yield
    finally:
        logger.removeFilter(seldom)
