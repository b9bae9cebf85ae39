"""The source for brokers that kombu drives."""

import logging
import threading
import time
from dataclasses import replace
from typing import Any

from common.errors import OutageError
from common.ports.sink import TransportFeatures
from common.ports.source import Delivery
from common.transports.backlog import Backlog
from common.transports.kombu_broker.connecting import KombuSettings, node_queue, open_connection, outages, release
from common.transports.kombu_broker.routes import Routes
from common.transports.kombu_broker.traits import Unacked, traits_for
from common.transports.kombu_broker.untyped import Producer

log = logging.getLogger(__name__)
ATTEMPTS = "rowferry_attempts"
"""Set on a message that was given back: how often trying it failed."""
_FIRST_PAUSE_SECONDS = 0.05
_RECEIVE_BYTES = 32 * 1024 * 1024


class KombuSource:
    """Reads the node's queue by looking again and again, since not every transport can wait. Belongs to one thread."""

    def __init__(self, settings: KombuSettings) -> None:
        self._settings = settings
        self._name = node_queue(settings.node_id)
        traits = traits_for(settings.url)
        self._features = replace(traits.features, max_message_bytes=settings.max_message_bytes)
        self._unacked = traits.unacked
        self._held: dict[str, Any] = {}
        self._backlog: Backlog[str] = Backlog()
        self._woken = threading.Event()
        self._connection: Any = open_connection(settings)
        try:
            with outages(settings.url, "opening", self._connection):
                self._channel = self._connection.channel()
                self._queue = Routes(settings, self._channel).declare_queue()
                self._producer = Producer(self._channel)
                if self._unacked is Unacked.KEPT:
                    self._channel.recover_held(self._name)
        except BaseException:
            self.close()
            raise

    @property
    def features(self) -> TransportFeatures:
        return self._features

    @property
    def took_what_stood(self) -> bool:
        """So it is once the queue was empty and what it had given is done."""
        return self._backlog.is_taken

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        """Return what the queue holds, about 32 MiB at a time."""
        deadline = time.monotonic() + timeout_seconds
        pause = min(_FIRST_PAUSE_SECONDS, self._settings.poll_seconds)
        while True:
            with self._outages("reading from"):
                found = self._collect(max_deliveries)
            remaining = deadline - time.monotonic()
            if found or remaining <= 0 or self._woken.is_set():
                self._woken.clear()
                return found
            self._woken.wait(min(pause, remaining))
            pause = min(pause * 2, self._settings.poll_seconds)

    def wake(self) -> None:
        """End the wait of a running `receive` early. Any thread."""
        self._woken.set()

    def ack(self, deliveries: list[Delivery]) -> None:
        with self._outages("acknowledging to"):
            for delivery in deliveries:
                self._let_go(self._held.pop(str(delivery.token), None))
                self._backlog.acknowledged(str(delivery.token))

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        """Put them at the end of this node's queue. kombu's own way would send them to every node once more."""
        self._backlog.renamed()
        with self._outages("giving back to"):
            for delivery in deliveries:
                message = self._held.pop(str(delivery.token), None)
                if message is not None:
                    self._publish_again(message, delivery.attempts + failed)
                    self._let_go(message)

    def close(self) -> None:
        connection = self._connection
        if connection is None:
            return
        if self._unacked is Unacked.MEMORY:
            self._put_back_held()
        self._connection = None
        self._held.clear()
        release(self._settings, connection)

    def _put_back_held(self) -> None:
        try:
            with self._outages("giving back to"):
                for message in self._held.values():
                    self._publish_again(message, _attempts(message))
                    self._let_go(message)
        except OutageError as error:
            # The transport's own timeout, or the gap that the receiver notices, brings them again.
            log.warning("kombu.held-not-returned", extra={"held": len(self._held), "error": str(error)})

    def _collect(self, max_deliveries: int) -> list[Delivery]:
        found: list[Delivery] = []
        size = 0
        while len(found) < max_deliveries and size < _RECEIVE_BYTES:
            message = self._queue.get(no_ack=self._unacked is Unacked.KEPT)
            if message is None:
                self._backlog.ran_out(self._held)
                break
            if not self._is_wanted(message):
                self._let_go(message)
                continue
            delivery = self._delivery(message)
            self._held[str(delivery.token)] = message
            found.append(delivery)
            size += len(delivery.body)
        if not found:
            self._restore_overdue()
        return found

    def _is_wanted(self, message: Any) -> bool:
        """Drop, unread, what this node sent itself, and what a transport without bindings brings from elsewhere."""
        source = message.headers.get("source_node")
        if source == self._settings.node_id or message.headers.get("channel") != self._settings.channel:
            return False
        return not self._settings.listen or source in self._settings.listen

    def _delivery(self, message: Any) -> Delivery:
        encoding = message.content_encoding
        source = message.headers.get("source_node")
        attempts = _attempts(message)
        return Delivery(
            body=bytes(message.body),
            origin=self._name,
            token=message.delivery_tag,
            content_encoding=None if encoding == "binary" else encoding,
            source_node=source if isinstance(source, str) else None,
            redelivered=ATTEMPTS in message.headers,
            attempts=attempts,
            headers={key: value for key, value in message.headers.items() if key != ATTEMPTS},
        )

    def _let_go(self, message: Any) -> None:
        if message is None:
            return
        if self._unacked is not Unacked.KEPT:
            message.ack()
        elif not self._held:
            # All that was taken is acknowledged or back in the queue.
            self._channel.forget_held(self._name)

    def _publish_again(self, message: Any, attempts: int) -> None:
        self._producer.publish(
            bytes(message.body),
            exchange="",
            routing_key=self._name,
            content_type=message.content_type,
            content_encoding=message.content_encoding,
            delivery_mode=2,
            message_id=message.properties.get("message_id"),
            headers={**message.headers, ATTEMPTS: attempts},
            retry=False,
        )

    def _restore_overdue(self) -> None:
        """Take back what a killed reader held, on transports that know it by a timeout (Redis)."""
        qos = getattr(self._channel, "qos", None)
        if qos is not None:
            qos.restore_visible()

    def _outages(self, doing: str) -> Any:
        if self._connection is None:
            raise OutageError("the source is closed: open a new one")
        return outages(self._settings.url, doing, self._connection)


def _attempts(message: Any) -> int:
    attempts = message.headers.get(ATTEMPTS, 0)
    return attempts if isinstance(attempts, int) else 0
