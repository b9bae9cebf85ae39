"""Pushes on their way through the intake: as deliveries of a source in, as an answer for each of their txs out."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future

from common.errors import OutageError, RowferryError
from common.http.callers import Caller
from common.http.problems import ProblemError
from common.http.scopes import Scope
from common.ports.sink import TransportFeatures
from common.ports.source import Delivery
from common.runtime.node import Node
from common.tracing import open_tracing
from common.transports.http.features import FEATURES
from consumer.dedup import TxKey
from consumer.incoming import Outcome, Result
from consumer.intake import Ended, Intake
from consumer.push_body import Body

log = logging.getLogger(__name__)

_MOST_WAITING = 64
_AWAY = "this node's database is away or can't be written, or the node stops: send it again"
_MOST_TAKEN_BYTES = 32 * 1024 * 1024


class Push:
    """One push. Made by the server's threads, worked off by the intake's."""

    def __init__(
        self,
        caller: Caller,
        body: Body,
        keys: Sequence[TxKey],
        check: Callable[[], None],
        headers: Mapping[str, object] | None = None,
    ) -> None:
        """`check` raises where its token is not good any more, `headers`: of the request, what the intake has to know
        of them."""
        self.caller = caller
        self._check = check
        self._headers = dict(headers or {})
        self.keys = keys
        self.results: dict[TxKey, Result] = {}
        self.done: Future[None] = Future()
        self._body = body
        self._pieces: Iterator[bytes] | None = None
        self._open = 0
        self._is_read = False

    def next_delivery(self) -> Delivery | None:
        """Return what comes next of it; None when all was given out, or it was given up."""
        try:
            piece = None if self.done.done() else self._next_piece()
        except (ProblemError, RowferryError, OSError) as error:
            # Its own matter: what others brought before it is in hand already, and must come to its end.
            self.failed(error)
            return None
        if piece is None:
            self._is_read = True
            self._end_if_done()
            return None
        self._open += 1
        caller = self.caller
        return Delivery(
            piece,
            f"http:{caller.node_id}",
            self,
            source_node=caller.node_id,
            verified=True,
            may_forward=Scope.FORWARD in caller.scopes,
            headers=self._headers,
        )

    def _next_piece(self) -> bytes | None:
        if self._pieces is None:
            self._pieces = self._body.pieces()
        piece = next(self._pieces, None)
        if piece is not None:
            # It may have waited for long: also what was sent whole before its token was revoked is taken no more.
            self._check()
        return piece

    def acknowledged(self) -> None:
        """One delivery of it is committed."""
        self._open -= 1
        self._end_if_done()

    def note(self, key: TxKey, result: Result) -> None:
        """Take in what became of one of its txs. That it came with it once more says nothing new of it."""
        if result.outcome is not Outcome.DUPLICATE or key not in self.results:
            self.results[key] = result

    def note_again(self, result: Result) -> None:
        """Take in what became of a tx that waited: is it one that came with it?"""
        was = self.results.get(result.incoming.key)
        if was is not None and was.outcome is Outcome.EARLY and was.sha256 == result.sha256:
            self.results[result.incoming.key] = result

    def failed(self, error: Exception) -> None:
        """Give up on it: what was committed counts as duplicate when it comes again."""
        if not self.done.done():
            self.done.set_exception(error)
            self._body.close()

    def _end_if_done(self) -> None:
        if self._is_read and not self._open and not self.done.done():
            self.done.set_result(None)
            self._body.close()


class PushQueue:
    """Pushes that wait, and the ends of their txs. Any thread."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Push] = queue.Queue(_MOST_WAITING)
        self._asked: set[Push] = set()
        """Those whose answer somebody waits for."""
        self._lock = threading.Lock()
        self._is_closed = False

    def put(self, push: Push) -> bool:
        """Take a push; False where too many wait, or the node stops."""
        if self._is_closed:
            return False
        with self._lock:
            self._asked.add(push)
        try:
            self._waiting.put_nowait(push)
        except queue.Full:
            self.forget(push)
            return False
        return True

    def close(self, error: Exception) -> None:
        """Take nothing more, and tell those who wait."""
        self._is_closed = True
        while (push := self.get(0)) is not None:
            push.failed(error)

    def get(self, timeout_seconds: float) -> Push | None:
        """Return the next one; waits for it."""
        try:
            return self._waiting.get(timeout=timeout_seconds) if timeout_seconds > 0 else self._waiting.get_nowait()
        except queue.Empty:
            return None

    def note(self, ended: Iterable[Ended]) -> None:
        """Take in what became of txs, under the names by which they came: each belongs to the push that brought it, for
        another one may only claim the same name."""
        for one in ended:
            incoming = one.incoming
            if one.brought is not None:
                key = incoming.claims_source or incoming.source_node, incoming.claims or incoming.tx_id
                _push_of(one.brought).note(key, one.result)
                continue
            with self._lock:
                asked = list(self._asked)
            for push in asked:
                push.note_again(one.result)

    def forget(self, push: Push) -> None:
        """Nobody waits for its answer any more."""
        with self._lock:
            self._asked.discard(push)


class PushSource:
    """The pushes as a source of deliveries. A `Source`.

    What is given back is not tried again here: who pushed is told, and sends it again."""

    def __init__(self, pushes: PushQueue) -> None:
        self._pushes = pushes
        self._current: Push | None = None

    @property
    def features(self) -> TransportFeatures:
        return FEATURES

    @property
    def took_what_stood(self) -> bool:
        """Nothing stands here: who pushes waits for the answer."""
        return False

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        found: list[Delivery] = []
        size = 0
        until = time.monotonic() + timeout_seconds
        while len(found) < max_deliveries and size < _MOST_TAKEN_BYTES:
            patience = 0.0 if found else until - time.monotonic()
            push = self._current or self._pushes.get(patience)
            if push is None:
                break
            self._current = push
            delivery = push.next_delivery()
            if delivery is None:
                self._current = None
                continue
            found.append(delivery)
            size += len(delivery.body)
        return found

    def ack(self, deliveries: list[Delivery]) -> None:
        for push in map(_push_of, deliveries):
            push.acknowledged()

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        text = "a fault on this node's side: its log tells more" if failed else _AWAY
        for push in map(_push_of, deliveries):
            push.failed(OutageError(text))

    def close(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.failed(OutageError(_AWAY))


class PushIntake:
    """Works off pushes. A `Service` of `serve`."""

    name = "intake-http"

    def __init__(self, node: Node, pushes: PushQueue, stop: threading.Event) -> None:
        self._pushes = pushes
        tracing = open_tracing(node.config.tracing.enabled)
        self._intake = Intake(node, "http", lambda: PushSource(pushes), None, stop, pushes.note, tracing)

    def step(self, idle_seconds: float) -> bool:
        """Apply what was pushed; the answers go out by themselves."""
        return self._intake.step(idle_seconds)

    def wake(self) -> None:
        self._intake.wake()

    def close(self) -> None:
        """What was not committed is told to who sent it."""
        self._pushes.close(OutageError(_AWAY))
        self._intake.close()


def _push_of(delivery: Delivery) -> Push:
    if not isinstance(delivery.token, Push):
        raise TypeError("a delivery of another source")
    return delivery.token
