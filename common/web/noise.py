"""Lines of the log that any stranger can cause, told now and then: nobody shall fill it."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_TELL_SECONDS = 60.0
_LIBRARY = "uvicorn.error"


class Seldom:
    """Warns of each event once a minute. Any thread."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def warn(self, event: str, **fields: object) -> None:
        """Log it, unless it was told a moment ago."""
        if self.is_due(event):
            self._log.warning(event, extra=fields)

    def is_due(self, event: str) -> bool:
        """Tell whether it is time to tell of it, and note that it is told."""
        now = time.monotonic()
        with self._lock:
            if now < self._told_at.get(event, -_TELL_SECONDS) + _TELL_SECONDS:
                return False
            self._told_at[event] = now
        return True


class NowAndThen(logging.Filter):
    """Lets each warning through once a minute, and errors always. The texts are the library's own: few."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._seldom = Seldom(logger)

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno != logging.WARNING or self._seldom.is_due(str(record.msg))


@contextmanager
def quiet_library() -> Iterator[None]:
    """Keep the HTTP library from a line for each request that is none, until the context ends."""
    logger = logging.getLogger(_LIBRARY)
    seldom = NowAndThen(logger)
    logger.addFilter(seldom)
    try:
        yield
    finally:
        logger.removeFilter(seldom)
