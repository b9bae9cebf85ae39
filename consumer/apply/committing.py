"""One applying transaction tried again while others hold its rows, or while own writes of them wait for the sealer."""

import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    stop_when_event_set,
)
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from common.crash_points import CrashPoint, reach
from common.errors import ContentionError, UncapturedError
from common.ports.dialect import ApplySession
from common.runtime.node import Node
from consumer.apply.recapture import Recapture, RecapturedError
from consumer.apply.rows import UnsealedError

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""How long one tx is tried while others hold its rows; then everything waits as in an outage."""
_TRIES_OF_A_GROUP = 4

T = TypeVar("T")


class Committing:
    """Runs work in applying transactions. `stop` ends the waits between the tries."""

    def __init__(self, node: Node, stop: threading.Event | None = None) -> None:
        self._node = node
        self._stop = stop or threading.Event()
        self._recapture = Recapture(node)

    def run(self, work: Callable[[ApplySession], T], *, patiently: bool, dry: bool = False) -> T:
        """Run `work` in one transaction, commit, and return its result. `work` may run several times.

        `patiently`: as long as others hold the rows, up to `PATIENCE_SECONDS`; else a few times. Raises ContentionError
        then, and what `work` raises. `dry`: `work` takes back all that it writes, so capture is not installed."""
        retrying = Retrying(
            retry=retry_if_exception_type(ContentionError),
            wait=wait_random_exponential(multiplier=0.005, max=0.5),
            stop=(stop_after_delay(PATIENCE_SECONDS) if patiently else stop_after_attempt(_TRIES_OF_A_GROUP))
            | stop_when_event_set(self._stop),
            before_sleep=self._seal_if_asked,
            sleep=sleep_using_event(self._stop),
            reraise=True,
        )
        result: T = retrying(self._transaction, work, dry)
        reach(CrashPoint.AFTER_COMMIT)
        return result

    def seal(self) -> None:
        """Seal what is committed; as far as nobody else is at it."""
        sealer = self._node.database.sealer(self._node.facts)
        try:
            while sealer.seal().more:
                pass
        except ContentionError as error:
            log.debug("seal_held", extra={"error": str(error)})

    def _transaction(self, work: Callable[[ApplySession], T], dry: bool) -> T:
        try:
            with self._node.database.apply_session() as session:
                return work(session)
        except UncapturedError as error:
            # Here its transaction has ended, and holds the tables no more.
            if not dry and self._recapture.mend(error):
                raise RecapturedError(f"capture of {error.table} was installed anew") from error
            raise

    def _seal_if_asked(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.debug("rows_held", extra={"attempt": state.attempt_number, "error": str(error)})
        if isinstance(error, UnsealedError):
            self.seal()
