"""The source that pulls from one peer."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from common.ports.sink import TransportFeatures
from common.ports.source import Delivery, Place
from common.transports.http.asking import Asking
from common.transports.http.client import PeerClient, PullAnswer, RefusedError
from common.transports.http.features import FEATURES
from common.wire.decode import Broken, read_parts
from common.wire.records import Part

log = logging.getLogger(__name__)

MOST_TXS = 5_000
_BEGINNING = "0"
_DELIVERY_BYTES = 4 * 1024 * 1024
_TAKEN_BYTES = 32 * 1024 * 1024
_LONG_FROM_SECONDS = 1.0
"""Who may wait so long goes on asking: `run` does, a command that drains does not."""
_REQUEST_FAULTS = frozenset({400, 414, 422, 431})
"""How servers refuse what stands in a request's line."""
_HELD_SECONDS = 25.0
"""Below what proxies take for a dead connection."""


@dataclass(slots=True)
class _Reading:
    """An answer on its way in."""

    answer: PullAnswer
    items: Iterator[Part | Broken]
    is_read: bool = False
    open: list[Delivery] = field(default_factory=list)
    """Given out and not acknowledged."""


class HttpSource:
    """Gives a peer's batches, and those that it hands on. A `Source`; belongs to one thread.

    The mark of an answer is kept, and shown, only once all of it is acknowledged: so what was not comes again, also
    after a kill. While nothing comes the peer holds the answer back. Where `receive` may wait a
    second the question outlives it: a later one gives what comes."""

    def __init__(
        self,
        client: PeerClient,
        peer: str,
        *,
        may_forward: bool,
        place: Place,
    ) -> None:
        self._client = client
        self._peer = peer
        self._may_forward = may_forward
        self._place = place
        self._cursor = place.load()
        self._reading: _Reading | None = None
        self._asking: Asking | None = None
        self._took_what_stood = False

    @property
    def features(self) -> TransportFeatures:
        return FEATURES

    @property
    def took_what_stood(self) -> bool:
        """So it is after the first answer that held all there was to give."""
        return self._took_what_stood

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        """Raises OutageError, RefusedError."""
        reading = self._reading or self._asked(timeout_seconds)
        if reading is None:
            return []
        found: list[Delivery] = []
        size = 0
        while not reading.is_read and len(found) < max_deliveries and size < _TAKEN_BYTES:
            body = self._piece(reading)
            if body:
                found.append(self._delivery(body))
                size += len(body)
        reading.open += found
        self._end_if_done(reading)
        return found

    def ack(self, deliveries: list[Delivery]) -> None:
        reading = self._reading
        if reading is None:
            return
        done = {id(one) for one in deliveries}
        reading.open = [one for one in reading.open if id(one) not in done]
        self._end_if_done(reading)

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        """Ask for all of the answer again: its mark was not shown yet."""
        del deliveries, failed
        self._drop()

    def close(self) -> None:
        self._drop()
        asking, self._asking = self._asking, None
        if asking is None or not asking.leave():
            self._client.close()

    def _asked(self, timeout_seconds: float) -> _Reading | None:
        answer = self._answer(timeout_seconds)
        if answer is not None:
            self._reading = _Reading(answer, read_parts(answer.body))
        return self._reading

    def _answer(self, timeout_seconds: float) -> PullAnswer | None:
        """Return what comes next; None while the peer has nothing, and holds its answer back."""
        if self._asking is None:
            if timeout_seconds < _LONG_FROM_SECONDS:
                return self._ask(max(0.0, timeout_seconds))
            self._asking = Asking(self._client, partial(self._ask, _HELD_SECONDS))
        try:
            answer = self._asking.answer(timeout_seconds)
        except BaseException:
            self._asking = None
            raise
        if answer is not None:
            self._asking = None
        return answer

    def _ask(self, wait_seconds: float) -> PullAnswer:
        try:
            return self._pull(self._cursor, wait_seconds)
        except RefusedError as error:
            is_mark = error.reason == "cursor" or error.status in _REQUEST_FAULTS
            if not is_mark or self._cursor is None:
                raise
            # Another node stands there now, another release, or one that gave a mark which it can't read.
            log.warning("pull.mark_refused", extra={"peer": self._peer, "error": str(error)})
            return self._pull(None, wait_seconds)

    def _pull(self, after: str | None, wait_seconds: float) -> PullAnswer:
        # Without a mark from the beginning: where the peer believes this node to be, it may have been before it was put
        # back. What comes twice is known.
        return self._client.pull(
            after or _BEGINNING, limit=MOST_TXS, wait_seconds=wait_seconds, forwarded=self._may_forward
        )

    def _piece(self, reading: _Reading) -> bytes:
        waiting: list[bytes] = []
        size = 0
        while size < _DELIVERY_BYTES:
            item = next(reading.items, None)
            if item is None:
                reading.is_read = True
                break
            waiting.append(item.raw)
            size += len(item.raw)
        return b"".join(waiting)

    def _delivery(self, body: bytes) -> Delivery:
        return Delivery(
            body,
            f"http:{self._peer}",
            None,
            source_node=self._peer,
            verified=True,
            may_forward=self._may_forward,
        )

    def _end_if_done(self, reading: _Reading) -> None:
        if not reading.is_read or reading.open:
            return
        reading.answer.close()
        self._reading = None
        self._took_what_stood = self._took_what_stood or not reading.answer.has_more
        if reading.answer.cursor != self._cursor:
            self._place.save(reading.answer.cursor)
            self._cursor = reading.answer.cursor

    def _drop(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.answer.close()
