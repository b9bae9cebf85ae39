"""Lines of the HTTP library that any stranger can cause, told now and then: nobody shall fill the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from common.seldom import Seldom

_LIBRARY = "uvicorn.error"


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
