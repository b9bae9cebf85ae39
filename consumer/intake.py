"""The loop: a source gives deliveries, their txs are committed as rows or as dead letters, only then acknowledged."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import msgspec

from common.crash_points import CrashPoint, reach
from common.errors import ContentionError, OutageError, PoisonError, Reason
from common.ports.source import Delivery, Source
from common.runtime.node import Node
from common.runtime.transports import DIRECTORY
from common.tracing import Tracing
from consumer.apply.ahead import Ahead
from consumer.apply.group import Applier
from consumer.arrivals import Arrivals, is_talk, pieces, sender_of
from consumer.attempts import MOST_ATTEMPTS, Attempts
from consumer.conflict.reading import still_waiting
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.retries import BrokerRetries
from consumer.dead_letters.table_store import bytes_id
from consumer.dedup import TxKey
from consumer.early import EarlyRetries
from consumer.failures import Decision, decide
from consumer.inbox import Inbox
from consumer.incoming import Incoming, Outcome, Result
from consumer.plain.lane import PlainLane
from consumer.rounds import Round, Rounds
from consumer.waiting import Holding

log = logging.getLogger(__name__)

_MOST_DELIVERIES = 500
_MOST_CONFLICTING = 10_000
"""Of so many txs it is kept that their conflicts waited; a node that runs for a year meets any number."""


class Ended(NamedTuple):
    """A tx that came to an end."""

    brought: Delivery | None
    """What it came with; None: before, and it waited until now."""
    incoming: Incoming
    """With the name under which it came."""
    result: Result


OnEnded = Callable[[Sequence[Ended]], None]


class Intake:
    """Applies what one source gives. A service of `run`; one thread steps and closes it."""

    def __init__(
        self,
        node: Node,
        name: str,
        open_source: Callable[[], Source],
        copies: BrokerCopies | None,
        stop: threading.Event,
        on_ended: OnEnded | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`on_ended` is told of each tx that came to an end before its delivery is acknowledged, in the thread that
        steps."""
        self._node = node
        self._source_name = name
        self._open_source = open_source
        self._stop = stop
        self._copies = copies
        self._on_ended = on_ended
        self._tracing = tracing
        self._source: Source | None = None
        self._applier = Applier(node, stop=stop)
        self._inbox = Inbox(node)
        self._arrivals = Arrivals(node, self._inbox)
        self._attempts = Attempts(node)
        self._early = EarlyRetries(node, self._apply_early)
        self._lane = PlainLane(node, self._applier.tables, tells_each=on_ended is not None)
        self._rounds = Rounds(self._read, self._applier.prepare_ahead, node.config.limits.group_changes, self._lane)
        self._unacknowledged: list[Delivery] = []
        self._holding = Holding()
        self._begun = False
        self._wary = False
        self._has_failed = False
        self._has_looked_at_parts = False
        self._copies_due = copies is not None
        timer = copies.timer if copies is not None else None
        verified = node.config.broker is not None and node.config.broker.verify_user
        self._retries = BrokerRetries(timer, node.clock, verified=verified) if timer is not None else None
        self._dead = 0
        self._waiting: set[TxKey] = set()
        self._conflicting: set[TxKey] = set()
        self._waiting_conflicts = 0

    @property
    def name(self) -> str:
        """What logs and the supervisor call it."""
        return f"intake-{self._source_name}"

    @property
    def holding(self) -> Holding:
        """What it has taken and not yet let go of. Any thread."""
        return self._holding

    @property
    def source_name(self) -> str:
        """What the way in is called."""
        return self._source_name

    @property
    def may_be_on_its_way(self) -> bool:
        """Whether the source may get more that was sent before. What was put into a folder stands there."""
        return self._source_name != DIRECTORY

    @property
    def took_what_stood(self) -> bool:
        """Whether all that stood in the source when it was opened has come to an end."""
        return self._source is not None and self._source.took_what_stood

    @property
    def set_aside(self) -> int:
        """How many txs this service set aside for a person or left waiting, and conflicts that wait for a choice."""
        return self._dead + len(self._waiting) + self._waiting_conflicts

    def count_again(self) -> None:
        """Leave out conflicts that were settled since they came."""
        self._waiting_conflicts = sum(still_waiting(self._node.database, self._conflicting).values())

    @property
    def has_more(self) -> bool:
        """Whether something was taken from the source that no step has applied yet."""
        return self._rounds.has_next()

    def step(self, idle_seconds: float) -> bool:
        """Take what has come, commit it, acknowledge it; True when there was something."""
        try:
            worked = self._step(idle_seconds)
        except Exception as error:
            self._holding = replace(self._holding, shut_us=self._holding.shut_us or self._node.clock.now_us())
            unforeseen = decide(error) is Decision.STOP
            if unforeseen:
                # What was in hand is tried again with care, and counted as if the process had died.
                self._attempts.crashed()
                self._wary = self._has_failed = True
            self._let_go(failed=unforeseen)
            raise
        if self._holding.shut_us is not None:
            self._holding = replace(self._holding, shut_us=None)
        return worked

    def wake(self) -> None:
        """A step waits for its source at most its idle seconds; nothing to end earlier."""

    def close(self) -> None:
        """Close the source. What is not acknowledged comes again."""
        self._let_go(failed=False)
        self._rounds.close()
        if self._begun:
            self._begun = False
            with suppress(OutageError, ContentionError):
                # Notes that stay cost the next start one careful round, and what was begun one of its attempts.
                self._attempts.close(self._source_name)
        if self._copies is not None:
            self._copies.close()

    def _step(self, idle_seconds: float) -> bool:
        """Apply one round. While it is applied the next one is read, so that may have to wait for the next step."""
        self._begin()
        worked = False
        source = self._source or self._opened()
        if not self._rounds.has_next():
            self._take(source, idle_seconds)
        if self._rounds.has_next():
            one = self._rounds.next()
            if one.goes_with_reading:
                # Not after what is gone about with care: that would never come to an end in a backlog.
                if not (one.careful or self._rounds.has_next()):
                    self._take(source, 0)
                self._rounds.start()
            if self._tracing is None:
                self._finish(source, one)
            else:
                headers = [delivery.headers for delivery in one.deliveries]
                with self._tracing.applying(self._source_name, headers, one.txs_in_all):
                    self._finish(source, one)
            # What others say beside batches never ends, and leaves nothing to be done here.
            worked = worked or bool(one.changes) or not all(map(is_talk, one.deliveries))
            if self._stop.is_set():
                # What a large backlog has left is given back by `close`.
                return True
        elif not self._has_looked_at_parts:
            worked = self._take_up_parts()
        return self._settle(self._early.due()) or worked

    def _take(self, source: Source, idle_seconds: float) -> None:
        deliveries = source.receive(_MOST_DELIVERIES, idle_seconds)
        if deliveries:
            reach(CrashPoint.RECEIVED)
        self._unacknowledged += deliveries
        self._hold(moved=False)
        self._rounds.add(deliveries, careful=self._wary)

    def _opened(self) -> Source:
        """Open the source, once the database takes a write.

        What is received and given back counts as a delivery: a long outage of ours must not use up a broker's limit."""
        self._attempts.mark_busy(self._source_name)
        source = self._source = self._open_source()
        return source

    def _begin(self) -> None:
        """Before the first round of a process: see how the last one ended."""
        if self._begun:
            return
        self._wary = self._attempts.mark_busy(self._source_name) or self._wary
        self._begun = True
        if self._wary:
            self._has_failed = True
            log.warning("intake_was_killed", extra={"source": self._source_name})

    def _take_up_parts(self) -> bool:
        """Apply txs whose parts are all there and came before this process. Not before what comes again: a process that
        read ahead may have died over what was sent before them."""
        worked = self._settle(self._apply(self._inbox.complete_ones(), guarded=self._has_failed))
        self._has_looked_at_parts = True
        return worked

    def _read(self, delivery: Delivery, careful: bool) -> list[Incoming]:
        if not careful:
            return list(self._arrivals.read(delivery))
        key = sender_of(delivery), bytes_id(delivery.body)
        attempt = self._attempts.begin([key])[key]
        if attempt == 1:
            found = list(self._arrivals.read(delivery))
        else:
            found = [tx for piece in pieces(delivery) for tx in self._read_alone(piece)]
        self._attempts.end_now([key])
        return found

    def _read_alone(self, piece: Delivery) -> list[Incoming]:
        """Read one batch of a message that was begun before and never came to an end."""
        key = sender_of(piece), "piece-" + bytes_id(piece.body)
        if self._attempts.begin([key])[key] > MOST_ATTEMPTS:
            found = [_crashing(Incoming(key[0], bytes_id(piece.body), piece.origin, None, piece.body))]
        else:
            found = list(self._arrivals.read(piece))
        self._attempts.end_now([key])
        return found

    def _finish(self, source: Source, one: Round) -> None:
        if one.plain is not None and self._lane.apply(one.plain):
            self._settle(self._early.after_writing(one.plain.tables))
        else:
            self._go_the_long_way(one)
        source.ack(one.deliveries)
        reach(CrashPoint.ACKNOWLEDGED)
        done = {id(delivery) for delivery in one.deliveries}
        self._unacknowledged = [delivery for delivery in self._unacknowledged if id(delivery) not in done]
        self._hold(moved=True)
        if not self._unacknowledged:
            self._wary = False

    def _go_the_long_way(self, one: Round) -> None:
        txs, brought = one.txs, one.brought
        if one.plain is not None:
            anew = Round()
            for delivery in one.deliveries:
                anew.add(delivery, self._read(delivery, False))
            txs, brought = anew.txs, anew.brought
        results = self._apply(txs, guarded=one.careful, ahead=one.ahead)
        self._settle(results)
        retried = self._early.after(results)
        self._settle(retried)
        if self._on_ended is not None:
            ended = [Ended(*each) for each in zip(brought, txs, results, strict=True)]
            self._on_ended([*ended, *(Ended(None, again.incoming, again) for again in retried)])

    def _apply(self, txs: Sequence[Incoming], *, guarded: bool, ahead: Ahead | None = None) -> list[Result]:
        if not txs:
            return []
        if not guarded:
            return self._applier.apply(txs, ahead=ahead)
        results: list[Result] = []
        expected = self._attempts.next_ones([tx.key for tx in txs])
        # Those that were never begun go together; one that was begun before and never ended goes alone.
        for run in _runs(txs, lambda tx: expected[tx.key] == 1):
            counts = self._attempts.begin([tx.key for tx in run])
            careful = [_crashing(tx) if counts[tx.key] > MOST_ATTEMPTS else tx for tx in run]
            results += self._applier.apply(careful, guarded=True)
            self._attempts.ended([tx.key for tx in run])
        return results

    def _apply_early(self, txs: Sequence[Incoming]) -> list[Result]:
        """Nobody delivers these, so nobody tells of a second try: once something went wrong all are begun with care."""
        return self._apply(txs, guarded=self._has_failed)

    def _settle(self, results: Sequence[Result]) -> bool:
        """Count what was set aside and see to the broker's copies; True when something was applied."""
        aside = sum(result.outcome.set_aside for result in results)
        for result in results:
            self._waiting.discard(result.incoming.key)
            self._waiting_conflicts += result.counts.waiting
            if result.counts.waiting and len(self._conflicting) < _MOST_CONFLICTING:
                self._conflicting.add(result.incoming.key)
            if result.outcome is Outcome.EARLY:
                self._waiting.add(result.incoming.key)
            else:
                self._dead += result.outcome.set_aside and not result.still_waits
        if self._copies is not None and (aside or self._copies_due):
            self._copies_due = True
            self._copies.publish_missing()
            self._copies.remove_settled()
            self._copies_due = False
        if self._retries is not None:
            self._retries.later(results)
        return any(not result.outcome.set_aside for result in results)

    def _hold(self, *, moved: bool) -> None:
        """Note what is held now; what was given back stays noted until the source was asked again.

        After progress the rest counts as taken now: it was taken at most one round ago."""
        now_us, count = self._node.clock.now_us(), len(self._unacknowledged)
        since_us = now_us if moved else (self._holding.since_us or now_us)
        moved_us = now_us if moved else self._holding.moved_us
        self._holding = Holding(count, since_us if count else None, moved_us, self._holding.shut_us)

    def _let_go(self, *, failed: bool) -> None:
        """Give back what is not acknowledged and close the source; the next step opens it anew."""
        self._rounds.drop()
        source, self._source = self._source, None
        deliveries, self._unacknowledged = self._unacknowledged, []
        if source is None:
            return
        try:
            if deliveries:
                source.give_back(deliveries, failed=failed)
        except OutageError as error:
            log.debug("give_back_failed", extra={"source": self._source_name, "error": str(error)})
        finally:
            source.close()


def _runs(txs: Sequence[Incoming], together: Callable[[Incoming], bool]) -> Iterator[list[Incoming]]:
    """Cut `txs` so that neighbours for which `together` holds stay together, and every other one is alone."""
    run: list[Incoming] = []
    for tx in txs:
        if together(tx):
            run.append(tx)
            continue
        if run:
            yield run
        yield [tx]
        run = []
    if run:
        yield run


def _crashing(tx: Incoming) -> Incoming:
    text = f"began {MOST_ATTEMPTS} times and never came to an end: the process died, or failed as the log tells"
    return msgspec.structs.replace(tx, error=PoisonError(Reason.CRASH, text))
