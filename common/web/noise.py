"""Lines of the HTTP library that any stranger can cause, told now and then: nobody shall fill the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from common.seldom import Seldom

_LIBRARY = "uvicorn.error"
_GIVEN_UP = "ASGI callable returned without"
"""What it says as an error of a request that was given up by its connection or by us, and that the guard tells of."""


class NowAndThen(logging.Filter):
    """Lets each warning through once a minute, and errors but for one kind always.

    The texts are the library's own: few."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._seldom = Seldom(logger)

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        is_theirs = record.levelno == logging.WARNING or text.startswith(_GIVEN_UP)
        return not is_theirs or self._seldom.is_due(text)


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
