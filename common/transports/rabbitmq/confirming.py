"""Pipelined publishing: many messages under way at once, each confirmed by the broker."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from pika import spec

from common.crash_points import CrashPoint, reach
from common.errors import OutageError, RowferryError, StoppingError
from common.transports.rabbitmq.channel_thread import ChannelThread
from common.transports.rabbitmq.connection import place
from common.transports.rabbitmq.in_flight import InFlight
from common.transports.rabbitmq.messages import Outgoing
from common.transports.rabbitmq.settings import RabbitSettings

_LAST_WAIT_SECONDS = 1.5
"""For what a broker that is well still takes or confirms when the node is asked to stop."""
_LOOK_SECONDS = 0.2


class ConfirmingChannel:
    """Publishes with confirms, `mandatory` and a window. The first failure is final: nothing after it counts.

    `publish`, `position` and `wait_all` belong to one thread; `close` may come from any."""

    def __init__(
        self,
        settings: RabbitSettings,
        role: str,
        on_progress: Callable[[], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Connect. `on_progress` is called on the I/O thread after confirms and after the failure: it must be quick.

        Once `stop` is set nobody waits longer than a moment."""
        self._settings = settings
        self._on_progress = on_progress
        self._stop = stop
        self._changed = threading.Condition()
        self._in_flight = InFlight()
        self._outgoing: deque[Outgoing] = deque()
        self._pump_is_due = False
        self._failure: RowferryError | None = None
        self._last_progress = time.monotonic()
        self._channel: Any = None
        self._thread = ChannelThread(settings, role, prepare=self._prepare, on_lost=self._fail)
        self._thread.start()

    def publish(self, message: Outgoing, closes: int | None = None) -> None:
        """Hand over one message; waits for room in the window. Raises OutageError."""
        size = len(message.body)
        with self._changed:
            self._wait_until(lambda: self._has_room(size))
            if not self._in_flight:
                self._last_progress = time.monotonic()
            self._in_flight.add(closes, size)
            self._outgoing.append(message)
            if self._pump_is_due:
                return
            self._pump_is_due = True
        self._thread.post(self._pump)

    def position(self) -> int:
        """Return the highest `closes` of the confirmed prefix. Raises OutageError, also when confirms stay away."""
        with self._changed:
            self._raise_failure()
            if self._in_flight and self._seconds_left() <= 0:
                self._stalled()
            return self._in_flight.position

    def wait_all(self, timeout_seconds: float) -> int:
        """Wait until every message is confirmed and return `position()`. Raises OutageError, also after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._wait_until(lambda: not self._in_flight, deadline)
            return self._in_flight.position

    def close(self) -> None:
        """Close within seconds; whoever waits gets an OutageError. Safe to call twice."""
        self._fail(OutageError("the publisher was closed"))
        self._thread.close()

    def _has_room(self, size: int) -> bool:
        few = len(self._in_flight) < self._settings.window_messages
        small = self._in_flight.size + size <= self._settings.window_bytes
        return not self._in_flight or (few and small)

    def _wait_until(self, condition: Callable[[], bool], deadline: float | None = None) -> None:
        """Wait while confirms come in; `deadline` bounds the whole, the blocked timeout each pause between them."""
        stopped_at: float | None = None
        while True:
            self._raise_failure()
            if condition():
                return
            left = self._seconds_left()
            if left <= 0:
                self._stalled()
            if self._stop is not None:
                if stopped_at is None and self._stop.is_set():
                    stopped_at = time.monotonic()
                if stopped_at is not None and time.monotonic() >= stopped_at + _LAST_WAIT_SECONDS:
                    raise StoppingError(f"{place(self._settings)}: the node stops, and messages are still unconfirmed")
                left = min(left, _LOOK_SECONDS)
            if deadline is not None:
                left = min(left, deadline - time.monotonic())
                if left <= 0:
                    raise OutageError(f"{place(self._settings)}: {len(self._in_flight)} messages are still unconfirmed")
            self._changed.wait(left)

    def _seconds_left(self) -> float:
        return self._last_progress + self._settings.blocked_timeout_seconds - time.monotonic()

    def _stalled(self) -> None:
        reason = "blocks publishers (memory or disk alarm)" if self._thread.blocked else "confirms nothing"
        limit = self._settings.blocked_timeout_seconds
        self._failure = OutageError(f"{place(self._settings)} {reason} for more than {limit:g} s")
        raise self._failure

    def _raise_failure(self) -> None:
        if self._failure is not None:
            # Anew each time: one exception object would collect the tracebacks of all who met it.
            raise type(self._failure)(*self._failure.args)

    # On the I/O thread ------------------------------------------------------------------------------------------------

    def _prepare(self, channel: Any, ready: Callable[[], None]) -> None:
        self._channel = channel
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: ready())

    def _pump(self) -> None:
        with self._changed:
            self._pump_is_due = False
            batch = [] if self._failure else list(self._outgoing)
            self._outgoing.clear()
        for message in batch:
            if not self._channel.is_open:
                return
            self._channel.basic_publish(
                message.exchange, message.routing_key, message.body, message.properties, mandatory=True
            )
        if batch:
            reach(CrashPoint.PUBLISHED)

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        if isinstance(method, spec.Basic.Nack):
            self._fail(OutageError(f"{place(self._settings)} refused a message (nack): a queue could not store it"))
            return
        with self._changed:
            if self._failure is None:
                self._in_flight.confirm(method.delivery_tag, multiple=method.multiple)
                self._last_progress = time.monotonic()
            self._changed.notify_all()
        self._tell()

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """A returned message is acknowledged right after: the failure must stand before that."""
        self._fail(
            OutageError(
                f"{place(self._settings)}: message {properties.message_id} came back, nobody would get it "
                f"({method.reply_text}): no queue is bound to exchange {method.exchange!r} for key "
                f"{method.routing_key!r}. Either no node that listens has been started yet, or its queue expired; "
                "nothing is lost, it is sent again"
            )
        )

    def _fail(self, error: RowferryError) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
        self._tell()

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress()
