"""The sink: this node's batches to the exchange, confirmed in a pipeline."""

import threading
from collections.abc import Callable

from common.errors import PoisonError, Reason
from common.ports.sink import Envelope, TransportFeatures
from common.transports.rabbitmq.confirming import ConfirmingChannel
from common.transports.rabbitmq.connection import user_of
from common.transports.rabbitmq.declare import declare_for_publisher
from common.transports.rabbitmq.messages import Outgoing, envelope_properties, features
from common.transports.rabbitmq.settings import RabbitSettings
from common.transports.rabbitmq.topology import CHANGES, changes_key, control_key
from common.wire.compress import compress


class RabbitSink:
    """Publishes to `rowferry.changes`, each message persistent, mandatory and confirmed. Implements `Sink`.

    One connection for publishing alone, so that a broker that blocks publishers never stops an apply."""

    def __init__(
        self,
        settings: RabbitSettings,
        on_confirmed: Callable[[], None] | None = None,
        to_node: str | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        """Check the exchange and connect. Raises OutageError and ConfigError.

        `on_confirmed` is called on the I/O thread when `confirmed` may have moved, and after a failure: it must be
        quick, like setting an event. `to_node`: send to that node alone, as for a range that it asked for again.
        Once `stop` is set, `send` and `flush` wait no longer than a moment."""
        declare_for_publisher(settings)
        self._settings = settings
        self._to_node = to_node
        self._user = user_of(settings)
        self._channel = ConfirmingChannel(settings, "publisher", on_confirmed, stop)

    @property
    def features(self) -> TransportFeatures:
        return features(self._settings)

    def send(self, envelope: Envelope) -> None:
        body, encoding = self._wrap(envelope.body)
        if len(body) > self._settings.max_message_bytes:
            raise PoisonError(
                Reason.LIMIT,
                f"the message of tx {envelope.tx_id} has {len(body)} bytes, the broker takes "
                f"{self._settings.max_message_bytes} ([broker] max_message_bytes): lower max_batch_bytes",
            )
        properties = envelope_properties(envelope, user_id=self._user, encoding=encoding)
        self._channel.publish(Outgoing(CHANGES, self._key(envelope), body, properties), envelope.closes_lsn)

    def confirmed(self) -> int:
        return self._channel.position()

    def flush(self, timeout_seconds: float) -> int:
        return self._channel.wait_all(timeout_seconds)

    def close(self) -> None:
        self._channel.close()

    def _key(self, envelope: Envelope) -> str:
        if self._to_node is not None:
            return control_key(self._settings.channel, self._to_node)
        return changes_key(self._settings.channel, envelope.source_node)

    def _wrap(self, body: bytes) -> tuple[bytes, str | None]:
        encoding = self._settings.compression
        if encoding is None or len(body) not in self._settings.compressed_bytes:
            return body, None
        return compress(body, encoding, quick=True), encoding
