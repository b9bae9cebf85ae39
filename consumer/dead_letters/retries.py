"""Early txs on the broker's clock: each comes once more through `rowferry.retry.<id>` after a delay.

The letter in `rf_dead_letter` is the truth, and the table's own clock tries it too (`consumer.early`): a retry that is
lost, late, or comes twice is a batch that is known. Where the table was lost, it brings the tx back."""

import logging
from collections.abc import Sequence

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_exponential, wait_random

from common.clock import Clock
from common.errors import OutageError
from common.ports.dead_letters import Retry, RetryTimer
from consumer.incoming import Outcome, Result

log = logging.getLogger(__name__)

_MOST_AT_ONCE = 100
_MOST_BYTES = 1024 * 1024
_REST_US = 60_000_000
"""A broker that did not take one is left alone for so long."""
_waits = wait_exponential(multiplier=5.0, max=60.0) + wait_random(0, 1)
_MOST_DOUBLINGS = 30


class BrokerRetries:
    """Sends what came too early to be retried. `verified`: senders are proven here."""

    def __init__(self, timer: RetryTimer, clock: Clock, *, verified: bool) -> None:
        self._timer = timer
        self._clock = clock
        self._verified = verified
        self._rests_until_us = 0

    def later(self, results: Sequence[Result]) -> None:
        """Have those come again that are early for the first time, or were early again when they came again.

        Never raises: nothing depends on it."""
        wanted = [_retry(result, verified=self._verified) for result in results if _is_wanted(result)][:_MOST_AT_ONCE]
        now_us = self._clock.now_us()
        if not wanted or now_us < self._rests_until_us:
            return
        try:
            self._timer.retry_all(wanted)
        except OutageError as error:
            self._rests_until_us = now_us + _REST_US
            log.info("retries_not_sent", extra={"txs": len(wanted), "error": str(error)})


def delay_seconds(retries: int) -> float:
    """Return how long the next retry waits: doubled from five seconds to a minute, and up to a second at random."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = min(retries, _MOST_DOUBLINGS) + 1
    return float(_waits(state))


def _is_wanted(result: Result) -> bool:
    tx = result.incoming
    is_new = not result.still_waits or tx.retries > 0
    return result.outcome is Outcome.EARLY and is_new and tx.raw is not None and len(tx.raw) <= _MOST_BYTES


def _retry(result: Result, *, verified: bool) -> Retry:
    tx = result.incoming
    headers: dict[str, object] = {"source_node": tx.source_node}
    if tx.header is not None:
        headers |= {"from_lsn": tx.header.from_lsn, "to_lsn": tx.header.to_lsn, "incarnation": tx.header.incarnation}
    return Retry(tx.tx_id, tx.raw or b"", headers, verified, tx.retries, delay_seconds(tx.retries))
