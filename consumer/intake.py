"""The loop: a source gives deliveries, their txs are committed as rows or as dead letters, only then acknowledged."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec

from common.errors import ContentionError, OutageError, PoisonError, Reason
from common.ports.source import Delivery, Source
from common.runtime.node import Node
from consumer.apply.group import Applier
from consumer.arrivals import Arrivals, pieces, sender_of
from consumer.attempts import MOST_ATTEMPTS, Attempts
from consumer.dead_letters.copies import BrokerCopies
from consumer.dead_letters.table_store import bytes_id
from consumer.dedup import TxKey
from consumer.early import EarlyRetries
from consumer.failures import Decision, decide
from consumer.inbox import Inbox
from consumer.incoming import Incoming, Outcome, Result

log = logging.getLogger(__name__)

_MOST_DELIVERIES = 500
_MOST_BYTES = 32 * 1024 * 1024


@dataclass(slots=True)
class _Round:
    """Deliveries whose txs are not committed yet, and these txs."""

    deliveries: list[Delivery] = field(default_factory=list)
    txs: list[Incoming] = field(default_factory=list)
    bytes: int = 0
    changes: int = 0

    def add(self, delivery: Delivery, txs: Sequence[Incoming]) -> None:
        self.deliveries.append(delivery)
        self.txs += txs
        self.bytes += sum(tx.size for tx in txs)
        self.changes += sum(tx.changes for tx in txs)


class Intake:
    """Applies what one source gives. A service of `run`; one thread steps and closes it."""

    def __init__(
        self,
        node: Node,
        name: str,
        open_source: Callable[[], Source],
        copies: BrokerCopies | None,
        stop: threading.Event,
    ) -> None:
        self._node = node
        self._source_name = name
        self._open_source = open_source
        self._stop = stop
        self._copies = copies
        self._source: Source | None = None
        self._applier = Applier(node, stop=stop)
        self._inbox = Inbox(node)
        self._arrivals = Arrivals(node, self._inbox)
        self._attempts = Attempts(node)
        self._early = EarlyRetries(node, self._apply_early)
        self._unacknowledged: list[Delivery] = []
        self._begun = False
        self._wary = False
        self._has_failed = False
        self._copies_due = copies is not None
        self._dead = 0
        self._waiting: set[TxKey] = set()

    @property
    def name(self) -> str:
        """What logs and the supervisor call it."""
        return f"intake-{self._source_name}"

    @property
    def set_aside(self) -> int:
        """How many txs this service set aside for a person, or left waiting."""
        return self._dead + len(self._waiting)

    def step(self, idle_seconds: float) -> bool:
        """Take what has come, commit it, acknowledge it; True when there was something."""
        try:
            return self._step(idle_seconds)
        except Exception as error:
            unforeseen = decide(error) is Decision.STOP
            if unforeseen:
                # What was in hand is tried again with care, and counted as if the process had died.
                self._attempts.crashed()
                self._wary = self._has_failed = True
            self._let_go(failed=unforeseen)
            raise

    def wake(self) -> None:
        """A step waits for its source at most its idle seconds; nothing to end earlier."""

    def close(self) -> None:
        """Close the source. What is not acknowledged comes again."""
        self._let_go(failed=False)
        if self._begun:
            self._begun = False
            with suppress(OutageError, ContentionError):
                # Notes that stay cost the next start one careful round, and what was begun one of its attempts.
                self._attempts.close(self._source_name)
        if self._copies is not None:
            self._copies.close()

    def _step(self, idle_seconds: float) -> bool:
        worked = self._begin()
        source = self._source or self._opened()
        deliveries = source.receive(_MOST_DELIVERIES, idle_seconds)
        self._unacknowledged = list(deliveries)
        for one in self._rounds(deliveries):
            self._finish(source, one)
            worked = True
            if self._stop.is_set():
                # What a large backlog has left is given back by `close`.
                return True
        if deliveries:
            self._wary = False
        return self._settle(self._early.due()) or worked

    def _opened(self) -> Source:
        """Open the source, once the database takes a write.

        What is received and given back counts as a delivery: a long outage of ours must not use up a broker's limit."""
        self._attempts.mark_busy(self._source_name)
        source = self._source = self._open_source()
        return source

    def _begin(self) -> bool:
        """Before the first round of a process: see how the last one ended, and take up what it left."""
        if self._begun:
            return False
        self._wary = self._attempts.mark_busy(self._source_name) or self._wary
        self._begun = True
        if self._wary:
            self._has_failed = True
            log.warning("intake_was_killed", extra={"source": self._source_name})
        return self._settle(self._apply(self._inbox.complete_ones(), guarded=self._wary))

    def _rounds(self, deliveries: Sequence[Delivery]) -> Iterator[_Round]:
        """Cut deliveries into what is applied and acknowledged together."""
        current = _Round()
        for delivery in deliveries:
            current.add(delivery, self._read(delivery))
            if current.bytes >= _MOST_BYTES or current.changes >= self._node.config.limits.group_changes:
                yield current
                current = _Round()
        if current.deliveries:
            yield current

    def _read(self, delivery: Delivery) -> list[Incoming]:
        if not self._is_suspect(delivery):
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

    def _is_suspect(self, delivery: Delivery) -> bool:
        return self._wary or delivery.redelivered or delivery.attempts > 0

    def _finish(self, source: Source, one: _Round) -> None:
        guarded = any(self._is_suspect(delivery) for delivery in one.deliveries)
        results = self._apply(one.txs, guarded=guarded)
        self._settle(results)
        self._settle(self._early.after(results))
        source.ack(one.deliveries)
        done = {id(delivery) for delivery in one.deliveries}
        self._unacknowledged = [delivery for delivery in self._unacknowledged if id(delivery) not in done]

    def _apply(self, txs: Sequence[Incoming], *, guarded: bool) -> list[Result]:
        if not txs:
            return []
        if not guarded:
            return self._applier.apply(txs)
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
            if result.outcome is Outcome.EARLY:
                self._waiting.add(result.incoming.key)
            else:
                self._dead += result.outcome.set_aside
        if self._copies is not None and (aside or self._copies_due):
            self._copies_due = True
            self._copies.publish_missing()
            self._copies.remove_settled()
            self._copies_due = False
        return any(not result.outcome.set_aside for result in results)

    def _let_go(self, *, failed: bool) -> None:
        """Give back what is not acknowledged and close the source; the next step opens it anew."""
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
