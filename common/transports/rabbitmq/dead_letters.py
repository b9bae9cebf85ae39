"""The broker's copies of dead letters, and delayed retries. The consumer's own table stays the index of both."""

import threading
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import pika

from common.errors import OutageError
from common.ports.dead_letters import DeadLetter, Retry
from common.ports.source import Delivery
from common.transports.rabbitmq.confirming import ConfirmingChannel
from common.transports.rabbitmq.connection import short_connection, user_of
from common.transports.rabbitmq.messages import (
    CONTENT_TYPE,
    MESSAGE_ID,
    PERSISTENT,
    RETRIES,
    Outgoing,
    clipped,
    plain_headers,
    retry_properties,
    text_or_none,
)
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import DEAD, RETRY, dead_queue, retry_queue


class RabbitDeadLetters:
    """Publishes, lists and removes a node's dead letters on the broker. Implements `DeadLetterMirror`.

    Connects at the first call; after an OutageError the next call connects anew. Needs the topology that a
    `RabbitSource` of the node declares."""

    def __init__(self, settings: RabbitSettings, stop: threading.Event | None = None) -> None:
        """Once `stop` is set, nothing waits longer than a moment for a confirm."""
        self._settings = settings
        self._stop = stop
        self._publishing: ConfirmingChannel | None = None

    def publish(self, dead_letter: DeadLetter) -> None:
        """Return once the broker has the dead letter in its queue. Raises OutageError: then it may be there or not."""
        properties = _dead_properties(dead_letter, user_of(self._settings))
        self._publish(Outgoing(DEAD, self._settings.node_id, dead_letter.body, properties))

    def retry_later(
        self, body: bytes, origin: Delivery, delay_seconds: float, *, content_encoding: str | None = None
    ) -> None:
        """Return once `body` lies in the retry queue; it comes back into the node's queue after the delay.

        Never earlier, but later where one with a longer delay stands before it: a queue gives out in order.
        `origin`: the delivery it came with, whose headers and proven sender go along. Acknowledge that one afterwards.
        """
        properties = retry_properties(
            origin, user_id=user_of(self._settings), encoding=content_encoding, delay_seconds=delay_seconds
        )
        self._publish(Outgoing(RETRY, self._settings.node_id, body, properties))

    def retry_all(self, retries: Sequence[Retry]) -> None:
        """Return once all of `retries` lie in the retry queue, each with its own delay. Raises OutageError."""
        messages = [self._retry(one) for one in retries]
        self._publish(*messages)

    def _retry(self, one: Retry) -> Outgoing:
        headers = {**one.headers, RETRIES: one.before, MESSAGE_ID: one.tx_id}
        origin = Delivery(one.body, retry_queue(self._settings.node_id), None, verified=one.verified, headers=headers)
        user_id = user_of(self._settings)
        properties = retry_properties(origin, user_id=user_id, encoding=None, delay_seconds=one.delay_seconds)
        return Outgoing(RETRY, self._settings.node_id, one.body, properties)

    def remove(self, tx_ids: Collection[str]) -> int:
        """Take dead letters off the queue, after a replay or a discard; return how many were there.

        Goes through the whole queue once, since a look that stops halfway would put what it saw behind the rest.
        Killed on the way, it leaves the queue as it was, at worst with some of the wanted gone. What another looker
        holds at the same moment isn't seen: a copy that stays behind does no harm, remove it again."""
        wanted = frozenset(tx_ids)
        removed = 0
        with short_connection(self._settings, "dead letters") as connection:
            channel = connection.channel()
            for method, properties, _ in self._look(channel):
                if properties.message_id in wanted:
                    channel.basic_ack(method.delivery_tag)
                    removed += 1
            _put_back_all(channel)
        return removed

    def read_all(self) -> list[DeadLetter]:
        """Return every dead letter in the queue, oldest first, and leave all there. Holds them in memory."""
        with short_connection(self._settings, "dead letters") as connection:
            channel = connection.channel()
            found = [_dead_letter(properties, body) for _, properties, body in self._look(channel)]
            _put_back_all(channel)
        return found

    def close(self) -> None:
        """Give back the connection. Safe to call twice."""
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.close()

    def _publish(self, *messages: Outgoing) -> None:
        try:
            if self._publishing is None:
                self._publishing = ConfirmingChannel(self._settings, "dead letters", stop=self._stop)
            for message in messages:
                self._publishing.publish(message)
            self._publishing.wait_all(self._settings.blocked_timeout_seconds)
        except OutageError:
            self.close()
            raise

    def _look(self, channel: Any) -> Iterator[tuple[Any, Any, bytes]]:
        queue = dead_queue(self._settings.node_id)
        while True:
            method, properties, body = channel.basic_get(queue)
            if method is None:
                return
            yield method, properties, body


def _put_back_all(channel: Any) -> None:
    """Everything at once and as "not now", which RabbitMQ from 4.3 on doesn't count as an attempt."""
    channel.basic_nack(0, multiple=True, requeue=True)
    channel.close()


def _dead_properties(dead_letter: DeadLetter, user_id: str) -> Any:
    headers = {
        **dead_letter.extra,
        "reason": dead_letter.reason,
        "error": dead_letter.error,
        "attempts": dead_letter.attempts,
        "first_failure": dead_letter.first_failure,
        "last_failure": dead_letter.last_failure,
        "origin_queue": dead_letter.origin,
        "tx_id": dead_letter.tx_id,
        "source_node": dead_letter.source_node,
    }
    return pika.BasicProperties(
        content_type=CONTENT_TYPE,
        content_encoding=dead_letter.content_encoding,
        delivery_mode=PERSISTENT,
        message_id=dead_letter.tx_id,
        user_id=user_id,
        headers={key: clipped(value) for key, value in headers.items() if value is not None},
    )


def _dead_letter(properties: Any, body: bytes) -> DeadLetter:
    headers = plain_headers(properties)
    attempts = headers.get("attempts")
    return DeadLetter(
        tx_id=properties.message_id or "",
        body=body,
        reason=text_or_none(headers.get("reason")) or "",
        error=text_or_none(headers.get("error")) or "",
        source_node=text_or_none(headers.get("source_node")),
        attempts=attempts if isinstance(attempts, int) else 0,
        first_failure=text_or_none(headers.get("first_failure")),
        last_failure=text_or_none(headers.get("last_failure")),
        origin=text_or_none(headers.get("origin_queue")),
        content_encoding=properties.content_encoding,
        extra={key: value for key, value in headers.items() if _is_extra(key) and isinstance(value, str | int | bool)},
    )


_NAMED = frozenset(
    {"reason", "error", "attempts", "first_failure", "last_failure", "origin_queue", "tx_id", "source_node"}
)


def _is_extra(name: str) -> bool:
    """Whether a header is neither one of ours nor the broker's own (`x-delivery-count`, …)."""
    return name not in _NAMED and not name.startswith("x-")
