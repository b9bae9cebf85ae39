"""The sink for brokers that kombu drives."""

from dataclasses import replace
from typing import Any

from common.errors import OutageError, PoisonError, Reason
from common.ports.sink import Envelope, TransportFeatures
from common.transports.kombu_broker.connecting import KombuSettings, open_connection, outages, release
from common.transports.kombu_broker.routes import Routes
from common.transports.kombu_broker.traits import features_for
from common.transports.kombu_broker.untyped import Producer
from common.wire.compress import compress

CONTENT_TYPE = "application/x-ndjson"
_PERSISTENT = 2


class KombuSink:
    """Publishes each envelope as one message; `send` returns when the transport has taken it. Belongs to one thread.

    What that means is in `features`: with `confirms` the other side has it, else it was handed over. After an
    OutageError only `close` works. `to_node` sends to one node alone.
    """

    def __init__(self, settings: KombuSettings, to_node: str | None = None) -> None:
        self._settings = settings
        self._to_node = to_node
        self._features = replace(features_for(settings.url), max_message_bytes=settings.max_message_bytes)
        self._confirmed = 0
        self._connection: Any = open_connection(settings)
        try:
            with outages(settings.url, "opening", self._connection):
                channel = self._connection.channel()
                self._routes = Routes(settings, channel)
                self._producer = Producer(channel)
        except BaseException:
            self.close()
            raise

    @property
    def features(self) -> TransportFeatures:
        return self._features

    def send(self, envelope: Envelope) -> None:
        if self._connection is None:
            raise OutageError("the sink is closed or has failed: open a new one")
        body = compress(envelope.body, self._settings.compression)
        limit = self._settings.max_message_bytes
        if limit is not None and len(body) > limit:
            raise PoisonError(Reason.LIMIT, f"a message of {len(body)} bytes; broker.max_message_bytes is {limit}")
        try:
            with outages(self._settings.url, "publishing to", self._connection):
                for exchange, routing_key in self._routes.targets(self._to_node):
                    self._publish(envelope, body, exchange, routing_key)
        except OutageError:
            self.close()
            raise
        if envelope.closes_lsn is not None:
            self._confirmed = max(self._confirmed, envelope.closes_lsn)

    def confirmed(self) -> int:
        return self._confirmed

    def flush(self, timeout_seconds: float) -> int:
        # Nothing to wait for: `send` returns when the transport has the message.
        del timeout_seconds
        return self._confirmed

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            release(self._settings, connection)

    def _publish(self, envelope: Envelope, body: bytes, exchange: str, routing_key: str) -> None:
        self._producer.publish(
            body,
            exchange=exchange,
            routing_key=routing_key,
            content_type=CONTENT_TYPE,
            content_encoding=self._settings.compression or "binary",
            delivery_mode=_PERSISTENT,
            message_id=envelope.tx_id,
            headers={
                "source_node": envelope.source_node,
                "channel": self._settings.channel,
                "from_lsn": envelope.from_lsn,
                "to_lsn": envelope.to_lsn,
                "incarnation": envelope.incarnation,
                "txs": envelope.txs,
                **(envelope.trace.headers() if envelope.trace else {}),
            },
            retry=False,
        )
