"""Waiting after failures: growing, jittered, capped, ended at once by an event. tenacity does the arithmetic."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import sqlalchemy as sa
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_exponential, wait_random_exponential

from common.errors import ContentionError
from common.ports.dialect import Database

T = TypeVar("T")

_MAX_DOUBLINGS = 60
_CONTENTION_PATIENCE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Growth:
    """How waits grow: from `first_seconds`, doubled each time, up to `cap_seconds`; half of each is random."""

    first_seconds: float
    cap_seconds: float


OUTAGE = Growth(first_seconds=0.2, cap_seconds=15.0)
"""A server or folder is away. The cap is what its return may go unnoticed."""
CRASH = Growth(first_seconds=1.0, cap_seconds=60.0)
"""Something failed that waiting alone may not mend: tried again for years, so rarely."""
CONTENTION = Growth(first_seconds=0.005, cap_seconds=0.25)
"""Somebody holds the rows for a moment."""


class Backoff:
    """The growing waits of one loop. Belongs to one thread."""

    def __init__(self, growth: Growth) -> None:
        # Half fixed, half random: nodes that lost one broker together don't come back to it together.
        self._wait = _waits(growth)
        self._settled_seconds = growth.cap_seconds
        self._waited_until = 0.0
        self._state = RetryCallState(Retrying(), None, (), {})

    @property
    def failures(self) -> int:
        """How many waits were asked for since the last success."""
        return self._state.attempt_number - 1

    @property
    def quiet_seconds(self) -> float:
        """For how long nothing has failed: since the end of the last wait."""
        return time.monotonic() - self._waited_until

    def next_seconds(self) -> float:
        """Return how long to wait after one more failure."""
        seconds = self._wait(self._state)
        self._state.attempt_number = min(self._state.attempt_number + 1, _MAX_DOUBLINGS)
        self._waited_until = time.monotonic() + seconds
        return seconds

    def went_well(self) -> None:
        """Begin from the shortest wait, once nothing has failed for as long as the longest wait takes.

        One step that went well tells little: what it handed over may come back refused in the next."""
        if self.failures and self.quiet_seconds >= self._settled_seconds:
            self.reset()

    def reset(self) -> None:
        """Begin from the shortest wait: the work went well."""
        self._state.attempt_number = 1


def in_transaction(database: Database, work: Callable[[sa.Connection], T], stop: threading.Event | None = None) -> T:
    """Run `work` in one transaction and return its result. `work` may run several times: contention is retried.

    Raises what the driver's error calls for: OutageError, and ContentionError when it didn't end within seconds.
    `stop` shortens the waits between the tries."""
    return while_contended(partial(_attempt, database, work), stop)


def while_contended(
    work: Callable[[], T],
    stop: threading.Event | None = None,
    patience_seconds: float = _CONTENTION_PATIENCE_SECONDS,
) -> T:
    """Run `work`, again after short waits while it raises ContentionError; after some seconds let that through."""
    retrying = Retrying(
        retry=retry_if_exception_type(ContentionError),
        wait=_waits(CONTENTION),
        stop=stop_after_delay(patience_seconds),
        sleep=sleep_using_event(stop or threading.Event()),
        reraise=True,
    )
    result: T = retrying(work)
    return result


def _waits(growth: Growth) -> Callable[[RetryCallState], float]:
    first, cap = growth.first_seconds / 2, growth.cap_seconds / 2
    return wait_exponential(multiplier=first, max=cap) + wait_random_exponential(multiplier=first, max=cap)


def _attempt(database: Database, work: Callable[[sa.Connection], T]) -> T:
    try:
        with database.engine.begin() as connection:
            return work(connection)
    except sa.exc.SQLAlchemyError as error:
        raise database.translate(error) from error
