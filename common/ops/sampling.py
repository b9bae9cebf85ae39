"""Takes a sample a minute while the node runs, or is only served."""

import logging
from collections.abc import Callable, Sequence
from functools import partial

import sqlalchemy as sa

from common.clock import Clock
from common.config.model import Config
from common.errors import ContentionError, OutageError
from common.ops.counting import Marks, Totals, counted, read_marks
from common.ops.progress import Side, age_us, joined
from common.ops.samples import MINUTE_US, Gauges, Newest, newest_sample, write_sample
from common.ops.status_reading import read_queues
from common.periodic import Periodic
from common.ports.dialect import Database, NodeFacts
from common.retry import in_transaction
from common.schema import tables as rf

log = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0


class Sampler(Periodic):
    """A `Service` of `run`, and of `serve`. A database that is away costs samples and is said once; nothing stops.

    One `stands_back` writes only once nobody else has written for a minute: `serve` beside a `run` leaves it to that,
    whatever their clocks say of each other."""

    name = "samples"

    def __init__(
        self,
        database: Database,
        config: Config,
        facts: NodeFacts,
        clock: Clock,
        sides: Callable[[], Sequence[Side]],
        *,
        stands_back: bool = False,
    ) -> None:
        """`sides`: asks the parts; raises OutageError."""
        super().__init__()
        self._database = database
        self._config = config
        self._facts = facts
        self._clock = clock
        self._sides = sides
        self._stands_back = stands_back
        self._minute: int | None = None
        """The last one that was looked at."""
        self._seq: int | None = None
        """Of the newest sample, as this process saw it at its last minute."""
        self._fails = False

    def look(self) -> bool:
        """Take the sample of a minute that has begun. Never work: `run --once` does not wait for it."""
        self.look_again_in(_LOOK_SECONDS)
        minute = self._clock.now_us() // MINUTE_US
        if minute == self._minute:
            return False
        self._minute = minute
        try:
            self._sample(minute)
        except (OutageError, ContentionError) as error:
            if not self._fails:
                log.warning("samples.skipped", extra={"error": str(error)})
            self._fails = True
            return False
        if self._fails:
            self._fails = False
            log.info("samples.go_on")
        return False

    def _sample(self, minute: int) -> None:
        newest = in_transaction(self._database, newest_sample)
        seq = newest.seq if newest else 0
        others_write = self._stands_back and seq != self._seq
        self._seq = seq
        if others_write or (newest is not None and newest.minute == minute):
            return
        marks = read_marks(self._database, self._facts)
        totals = self._totals(newest, marks)
        gauges = self._gauges()
        write = partial(
            write_sample, before=newest, totals=totals, gauges=gauges, marks=marks, now_us=self._clock.now_us()
        )
        self._seq = in_transaction(self._database, write)

    def _totals(self, newest: Newest | None, marks: Marks) -> Totals:
        return Totals() if newest is None else counted(self._database, newest.marks, marks, newest.totals)

    def _gauges(self) -> Gauges:
        sides = self._sides()
        progress = in_transaction(self._database, partial(joined, sides))
        now_us = self._clock.now_us()
        own, others = progress.own, progress.others
        letters, conflicts = in_transaction(self._database, _for_people)
        return Gauges(
            unpublished_changes=own.unsealed + max((road.waiting for road in own.roads), default=0) if own else 0,
            unpublished_age_us=age_us(progress.unpublished_since_us, now_us),
            unapplied_changes=sum(source.behind for source in others.sources) if others else 0,
            unapplied_age_us=age_us(progress.unapplied_since_us, now_us),
            dead_letters=letters,
            waiting_conflicts=conflicts,
            log_changes=own.kept if own else 0,
            queue_messages=read_queues(self._config).depths.get(f"rowferry.node.{self._facts.node_id}"),
        )


def _for_people(connection: sa.Connection) -> tuple[int, int]:
    """Return how many dead letters are open, and how many conflicts wait: each along the index of its state."""
    letter, met = rf.dead_letter.c, rf.conflict.c
    letters = sa.select(sa.func.count()).where(letter.state.in_(rf.OPEN_DEAD_LETTERS))
    conflicts = sa.select(sa.func.count()).where(met.state == "waiting")
    return connection.scalar(letters) or 0, connection.scalar(conflicts) or 0
