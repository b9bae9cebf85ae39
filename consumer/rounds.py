"""Deliveries to rounds of whole txs. In a backlog the next round is read while the database works on this one."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from common.ports.source import Delivery
from consumer.apply.ahead import Ahead
from consumer.incoming import Incoming
from consumer.plain.group import PlainGroup

log = logging.getLogger(__name__)

_MOST_BYTES = 32 * 1024 * 1024
_MOST_CAREFUL = 20
"""Deliveries of a round that is gone about with care: each is committed on its own, and none is acknowledged before all
of the round are. A process that dies every few seconds must come on all the same."""
_WORTH_READING_AHEAD = 100
"""Changes of a round; below it there is no backlog, and a second thread would only take time."""


class Lane(Protocol):
    """The short way, as far as it is read (`consumer.plain.lane`)."""

    def begin(self) -> PlainGroup | None:
        """Return a group for the next round; None where it goes the long way untried."""
        ...

    def take(self, group: PlainGroup, delivery: Delivery) -> bool:
        """Add what `delivery` holds; False, and nothing is added, where some of it is not plain."""
        ...

    def ready(self, group: PlainGroup) -> None:
        """Do ahead what writing it takes beside the database."""
        ...


@dataclass(slots=True)
class Round:
    """Deliveries whose txs are committed and acknowledged together."""

    deliveries: list[Delivery] = field(default_factory=list)
    txs: list[Incoming] = field(default_factory=list)
    brought: list[Delivery] = field(default_factory=list)
    """With which delivery each of `txs` came."""
    careful: bool = False
    """Something of it came before and went wrong: no tx of it may take others along."""
    bytes: int = 0
    changes: int = 0
    ahead: Ahead | None = None
    """What was prepared while another round was applied."""
    plain: PlainGroup | None = None
    """All of it, where all of it is plain; then `txs` is empty."""

    @property
    def txs_in_all(self) -> int:
        """How many it holds, whichever way they go."""
        return len(self.txs) if self.plain is None else len(self.plain.txs)

    @property
    def goes_with_reading(self) -> bool:
        """Whether it pays to read on while this round is applied.

        Not without a backlog; nor beside a tx in parts, which may keep a database's one write lock for long, while
        who reads parts stores them."""
        return self.changes >= _WORTH_READING_AHEAD and not any(tx.in_parts for tx in self.txs)

    def add(self, delivery: Delivery, txs: Sequence[Incoming]) -> None:
        """Take what one delivery holds."""
        self.deliveries.append(delivery)
        self.txs += txs
        self.brought += [delivery] * len(txs)
        self.bytes += sum(tx.size for tx in txs)
        self.changes += sum(tx.changes for tx in txs)


class Rounds:
    """Reads deliveries in their order. Belongs to one thread, and has one of its own to read ahead."""

    def __init__(
        self,
        read: Callable[[Delivery, bool], Sequence[Incoming]],
        prepare: Callable[[Sequence[Incoming]], Ahead],
        most_changes: int,
        lane: Lane,
    ) -> None:
        """`read` gives the txs of a delivery; it is told whether to go about it carefully."""
        self._read = read
        self._lane = lane
        self._prepare = prepare
        self._most_changes = most_changes
        self._waiting: deque[tuple[Delivery, bool]] = deque()
        self._beside: _Beside | None = None
        self._under_way: Future[Round] | None = None

    def has_next(self) -> bool:
        """Tell whether something was taken that was not given out in a round yet."""
        return bool(self._waiting) or self._under_way is not None

    def add(self, deliveries: Sequence[Delivery], *, careful: bool) -> None:
        """Take deliveries; `careful`: whatever they say of themselves."""
        for one in deliveries:
            self._waiting.append((one, careful or one.redelivered or one.attempts > 0))

    def start(self) -> None:
        """Begin to read the next round beside what the caller does, unless some of it must be read with care."""
        if not self._waiting or self._under_way is not None or any(careful for _, careful in self._waiting):
            return
        if self._beside is None:
            self._beside = _Beside(self._read_ahead)
        self._under_way = self._beside.begin()

    def next(self) -> Round:
        """Return the next round. Whatever reading raises comes out here."""
        under_way, self._under_way = self._under_way, None
        return self._read_round() if under_way is None else under_way.result()

    def drop(self) -> None:
        """Forget what was taken; waits for what is under way."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            # How it ended is nobody's business any more: its deliveries come again.
            under_way.exception()
        self._waiting.clear()

    def close(self) -> None:
        """End the thread."""
        self.drop()
        if self._beside is not None:
            self._beside.end()
            self._beside = None

    def _read_ahead(self) -> Round:
        one = self._read_round()
        if one.plain is None:
            one.ahead = self._prepare(one.txs)
        else:
            self._lane.ready(one.plain)
        return one

    def _read_round(self) -> Round:
        group = None if self._waiting[0][1] else self._lane.begin()
        if group is not None:
            one = self._read_plain(group)
            if one.deliveries:
                return one
        one = Round()
        while self._waiting:
            delivery, careful = self._waiting.popleft()
            one.careful = one.careful or careful
            one.add(delivery, self._read(delivery, careful))
            # What follows something that is not plain may be plain again.
            if group is not None or one.bytes >= _MOST_BYTES or one.changes >= self._most_changes:
                break
            if one.careful and len(one.deliveries) >= _MOST_CAREFUL:
                break
        return one

    def _read_plain(self, group: PlainGroup) -> Round:
        """Return a round of what is plain from here on; an empty one where nothing is."""
        one = Round(plain=group)
        while self._waiting and group.bytes < _MOST_BYTES and group.changes < self._most_changes:
            delivery, careful = self._waiting[0]
            if careful or not self._lane.take(group, delivery):
                break
            self._waiting.popleft()
            one.deliveries.append(delivery)
        one.bytes, one.changes = group.bytes, group.changes
        return one


class _Beside:
    """Does one thing on a thread of its own whenever it is asked to.

    A daemon, other than the threads of an executor: one that hangs in a driver must not keep the process from ending.
    """

    def __init__(self, work: Callable[[], Round]) -> None:
        self._work = work
        self._asked: queue.SimpleQueue[Future[Round] | None] = queue.SimpleQueue()
        threading.Thread(target=self._main, name="rowferry-read-ahead", daemon=True).start()

    def begin(self) -> Future[Round]:
        """Ask for one more; what it comes to stands in the future."""
        future: Future[Round] = Future()
        self._asked.put(future)
        return future

    def end(self) -> None:
        """Let the thread end, once it is done with what it was asked for."""
        self._asked.put(None)

    def _main(self) -> None:
        while (future := self._asked.get()) is not None:
            try:
                future.set_result(self._work())
            except Exception as error:
                # It is raised where the round is asked for; here it is only in its way.
                log.debug("read_ahead_failed", exc_info=True)
                future.set_exception(error)
