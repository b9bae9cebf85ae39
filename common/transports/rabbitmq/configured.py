"""From the configuration to this transport's settings."""

from pathlib import Path
from typing import Literal

from common.config.model import BrokerSection
from common.transports.rabbitmq.settings import WORTH_WRAPPING, RabbitSettings
from common.wire.compress import Encoding

_WRAPPED_BY_ITSELF = range(32 * 1024, 8 * 1024 * 1024)
"""Those of a backlog: packing takes a tenth of the time that the bytes take at the broker and both ends. Single ones
stay as they are for whoever looks at a queue, and what is larger, so that no receiver takes it for a bomb."""


def settings_from(node_id: str, broker: BrokerSection) -> RabbitSettings:
    """Return what the RabbitMQ transport needs to know of one node."""
    return RabbitSettings(
        url=broker.url,
        node_id=node_id,
        channel=broker.channel,
        listen=broker.listen,
        prefetch=broker.prefetch,
        prefetch_bytes=broker.prefetch_bytes,
        max_message_bytes=broker.max_message_bytes,
        queue_max_bytes=broker.queue_max_bytes,
        queue_expires_ms=int(broker.queue_expires_seconds * 1000),
        verify_user=broker.verify_user,
        compression=_encoding(broker.compression),
        compressed_bytes=_WRAPPED_BY_ITSELF if broker.compression == "auto" else WORTH_WRAPPING,
        blocked_timeout_seconds=broker.blocked_timeout_seconds,
        heartbeat_seconds=broker.heartbeat_seconds,
        tls_ca_file=_path(broker.tls_ca_file),
        tls_cert_file=_path(broker.tls_cert_file),
        tls_key_file=_path(broker.tls_key_file),
    )


def _encoding(chosen: Literal["auto", "none", "gzip", "zstd"]) -> Encoding | None:
    if chosen == "none":
        return None
    return "zstd" if chosen == "auto" else chosen


def _path(file: Path | None) -> str | None:
    return None if file is None else str(file)
