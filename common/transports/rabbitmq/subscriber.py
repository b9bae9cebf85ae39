"""The source: this node's queue, received on a thread of its own and acknowledged by hand."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from common.errors import OutageError, RowferryError
from common.ports.sink import TransportFeatures
from common.ports.source import Delivery
from common.transports.rabbitmq.channel_thread import ChannelThread
from common.transports.rabbitmq.connection import place, user_of
from common.transports.rabbitmq.declare import declare_for_consumer
from common.transports.rabbitmq.holding import Holding
from common.transports.rabbitmq.messages import delivery, features, source_of
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import node_queue


@dataclass(frozen=True, slots=True)
class _Token:
    """A delivery tag, which means something on its own channel alone."""

    source: "RabbitSource"
    tag: int


class RabbitSource:
    """Consumes the node's queue. Implements `Source`.

    Heartbeats are kept and messages come in on the I/O thread while the owner is busy. Where another process of this
    node consumes already, the broker keeps this one waiting (single active consumer) until that one is gone."""

    def __init__(self, settings: RabbitSettings) -> None:
        """Make the topology stand and start to consume. Raises OutageError and ConfigError."""
        declare_for_consumer(settings)
        self._checked_at = time.monotonic()
        self._settings = settings
        self._user = user_of(settings)
        self._changed = threading.Condition()
        self._buffer = Holding(settings.prefetch_bytes)
        self._failure: RowferryError | None = None
        self._channel: Any = None
        # In the order of their tags; only the I/O thread touches it.
        self._unacknowledged: dict[int, None] = {}
        self._left: int | None = None
        self._thread = ChannelThread(settings, "consumer", prepare=self._prepare, on_lost=self._fail)
        self._thread.start()

    @property
    def features(self) -> TransportFeatures:
        return features(self._settings)

    @property
    def took_what_stood(self) -> bool:
        """So it is once as many are acknowledged as stood in the queue: the oldest come first."""
        left = self._left
        return left is not None and left <= 0

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        self._keep_topology()
        with self._changed:
            self._changed.wait_for(lambda: len(self._buffer) or self._failure, timeout_seconds)
            self._raise_failure()
            try:
                return self._buffer.take(max_deliveries)
            except OSError as error:
                raise OutageError(f"messages that were put aside can't be read: {error}; they come again") from error

    def ack(self, deliveries: list[Delivery]) -> None:
        tags = self._tags(deliveries)
        self._thread.post(partial(self._ack, tags))

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        """Failed ones are rejected, the others nacked: from RabbitMQ 4.3 on only a reject counts as an attempt."""
        tags = self._tags(deliveries)
        self._thread.post(partial(self._give_back, tags, failed=failed))

    def close(self) -> None:
        """Acknowledge what was handed to `ack`, let the rest go back, and disconnect. From any thread."""
        self._fail(OutageError("the consumer was closed"))
        self._thread.close()
        with self._changed:
            self._buffer.close()

    def _keep_topology(self) -> None:
        """Bind again what somebody took away: the queue alone stands on, and just gets nothing any more."""
        if time.monotonic() - self._checked_at >= self._settings.topology_check_seconds:
            declare_for_consumer(self._settings, tell=False)
            self._checked_at = time.monotonic()

    def _tags(self, deliveries: Iterable[Delivery]) -> list[int]:
        with self._changed:
            self._raise_failure()
        return sorted(self._tag(one) for one in deliveries)

    def _tag(self, one: Delivery) -> int:
        if not isinstance(one.token, _Token) or one.token.source is not self:
            raise OutageError(f"a delivery of {one.origin} belongs to a connection that is gone: it comes again")
        return one.token.tag

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(*self._failure.args)

    # On the I/O thread ------------------------------------------------------------------------------------------------

    def _prepare(self, channel: Any, ready: Callable[[], None]) -> None:
        self._channel = channel
        channel.add_on_cancel_callback(self._on_cancel)

        def consume(_frame: Any) -> None:
            channel.basic_consume(node_queue(self._settings.node_id), self._on_message, callback=lambda _: ready())

        def count(frame: Any) -> None:
            self._left = frame.method.message_count
            channel.basic_qos(prefetch_count=self._settings.prefetch, callback=consume)

        channel.queue_declare(node_queue(self._settings.node_id), passive=True, callback=count)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        if source_of(properties) == self._settings.node_id:
            # Our own, come back through `<channel>.*`: nobody needs to read it.
            channel.basic_ack(method.delivery_tag)
            self._count(1)
            return
        token = _Token(self, method.delivery_tag)
        one = delivery(method, properties, body, token=token, settings=self._settings, user=self._user)
        self._unacknowledged[method.delivery_tag] = None
        with self._changed:
            self._buffer.add(one)
            self._changed.notify_all()

    def _on_cancel(self, _frame: Any) -> None:
        self._fail(OutageError(f"{place(self._settings)} cancelled the consumer: queue {self._queue_was()}"))

    def _queue_was(self) -> str:
        return f"{node_queue(self._settings.node_id)!r} was deleted or expired, or its leader moved"

    def _ack(self, tags: list[int]) -> None:
        """One frame for all from the oldest on, one for each that leaves a gap before it."""
        if not self._channel.is_open:
            return
        wanted = {tag for tag in tags if tag in self._unacknowledged}
        oldest: list[int] = []
        for tag in self._unacknowledged:
            if tag not in wanted:
                break
            oldest.append(tag)
        if oldest:
            self._channel.basic_ack(oldest[-1], multiple=True)
        for tag in sorted(wanted.difference(oldest)):
            self._channel.basic_ack(tag)
        self._forget(wanted)
        self._count(len(wanted))

    def _give_back(self, tags: list[int], *, failed: bool) -> None:
        if not self._channel.is_open:
            return
        wanted = {tag for tag in tags if tag in self._unacknowledged}
        give = self._channel.basic_reject if failed else self._channel.basic_nack
        for tag in sorted(wanted):
            give(tag, requeue=True)
        self._forget(wanted)

    def _count(self, acknowledged: int) -> None:
        if self._left is not None:
            self._left -= acknowledged

    def _forget(self, tags: Iterable[int]) -> None:
        for tag in tags:
            del self._unacknowledged[tag]

    def _fail(self, error: RowferryError) -> None:
        with self._changed:
            if self._failure is None:
                self._failure = error
            self._changed.notify_all()
