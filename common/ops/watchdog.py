"""The watchdog of a running node: says it loudly when work waits and nothing of it is done, and keeps what it saw."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import sqlalchemy as sa

from common.clock import Clock
from common.errors import ContentionError
from common.ops.stalls import Seen, Wait, Work, read_seen, waits, write_seen
from common.periodic import Periodic
from common.ports.dialect import Database
from common.retry import in_transaction

log = logging.getLogger(__name__)

_KEEP_US = 30_000_000
"""What is as it was is written again so often only: that somebody looked."""
_AGAIN_SECONDS = 600.0
"""A stall that lasts is told again so often."""


class Watchdog(Periodic):
    """Looks now and then at one side's work. A `Service` of `run`; belongs to one thread.

    It only looks: what is in the way is told, and tried again, by whoever does the work."""

    def __init__(
        self,
        name: str,
        database: Database,
        clock: Clock,
        stall_seconds: float,
        works: Callable[[], Sequence[Work]],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(monotonic)
        self.name = name
        self._database = database
        self._clock = clock
        self._works = works
        self._stall_seconds = stall_seconds
        self._look_seconds = min(10.0, self._stall_seconds / 4)
        self._seen: dict[str, Seen] = {}
        self._kept: dict[str, Seen] = {}
        """As it stands in the table."""
        self._told: dict[str, float] = {}
        self._began_us: int | None = None
        """When this process looked first: nothing has stood still in it for longer."""

    def look(self) -> bool:
        """Look. Never work of its own, so that `run --once` ends. Raises OutageError."""
        self.look_again_in(self._look_seconds)
        now = self._monotonic()
        now_us = self._clock.now_us()
        if self._began_us is None:
            self._kept = in_transaction(self._database, read_seen)
            self._seen = dict(self._kept)
            self._began_us = now_us
        began_us = self._began_us
        works = [replace(work, not_before_us=max(work.not_before_us, began_us)) for work in self._works()]
        found = waits(works, self._seen, now_us, self._stall_seconds)
        still = {one.work.name: one.still_us for one in found}
        for work in works:
            self._seen[work.name] = Seen(work.pending, work.mark, work.oldest_us, still.get(work.name), now_us)
        self._tell(found, now)
        self._keep([work.name for work in works])
        return False

    def _tell(self, found: Sequence[Wait], now: float) -> None:
        stalled = {one.work.name: one for one in found if one.stalled}
        for name in self._told.keys() - stalled.keys():
            del self._told[name]
            log.info("work.goes_on", extra={"work": name})
        for name, one in stalled.items():
            if name not in self._told or now - self._told[name] >= _AGAIN_SECONDS:
                self._told[name] = now
                fields = {"work": name, "pending": one.work.pending, "unit": one.work.unit}
                seconds = (self._clock.now_us() - one.still_us) / 1e6
                log.error("work.stalled", extra=fields | {"still_seconds": round(seconds, 1)})

    def _keep(self, names: Sequence[str]) -> None:
        """Write what is news. A database that others hold keeps nothing, and is looked at again."""
        news = {name: self._seen[name] for name in names if _is_news(self._seen[name], self._kept.get(name))}
        if not news:
            return

        def write(connection: sa.Connection) -> None:
            for name, seen in news.items():
                write_seen(connection, name, seen)

        try:
            in_transaction(self._database, write)
        except ContentionError as error:
            log.debug("watchdog.not_kept", extra={"error": str(error)})
            return
        self._kept |= news


def _is_news(seen: Seen, kept: Seen | None) -> bool:
    if kept is None or seen.looked_us - kept.looked_us >= _KEEP_US or seen.looked_us < kept.looked_us:
        return True
    if not seen.pending and seen.oldest_us != kept.oldest_us:
        # An intake that holds nothing can't take anything since then, or can again.
        return True
    # Under load the mark is another one at each look; that it moves is news where it had not, and the rest can wait.
    return (seen.pending > 0) != (kept.pending > 0) or seen.still_us != kept.still_us
