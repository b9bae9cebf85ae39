"""What the RabbitMQ transport needs to know. The configuration model makes it; nothing here reads a file."""

from dataclasses import dataclass, field

from common.wire.compress import Encoding

_MIB = 1024 * 1024
FOURTEEN_DAYS_MS = 14 * 24 * 3600 * 1000


WORTH_WRAPPING = range(1024, 2**40)
"""Sizes in bytes."""


@dataclass(frozen=True, slots=True)
class RabbitSettings:
    """Settings of one node's way to one broker. The URL holds the password, so `repr` leaves it out."""

    url: str = field(repr=False)
    """`amqp://` or `amqps://`; pika's query parameters (`heartbeat`, `ssl_options`, …) win over the fields here."""
    node_id: str
    channel: str = "default"
    listen: tuple[str, ...] = ()
    """Peers whose batches are wanted; empty: everybody's."""
    prefetch: int = 200
    """Messages held unacknowledged. AMQP counts messages, not bytes."""
    prefetch_bytes: int = 64 * _MIB
    """How much of them is held in memory; the rest waits in a temporary file."""
    max_message_bytes: int = 16 * _MIB
    """As `max_message_size` on the broker; 16 MiB is RabbitMQ 4's default (3.10: 128 MiB)."""
    queue_max_bytes: int = 8 * 1024 * _MIB
    """Where the node's queue starts to drop its oldest messages instead of filling the broker's disk."""
    queue_expires_ms: int = FOURTEEN_DAYS_MS
    """How long the node's queue stays without a consumer."""
    verify_user: bool = False
    """Demand that the broker's user, the header and the routing key name the same node."""
    compression: Encoding | None = None
    compressed_bytes: range = WORTH_WRAPPING
    """Which sizes of messages are compressed."""
    blocked_timeout_seconds: float = 30.0
    """How long a publisher waits while the broker blocks it, or confirms nothing, before that is an outage."""
    heartbeat_seconds: int = 30
    connect_timeout_seconds: float = 5.0
    topology_check_seconds: float = 60.0
    """How often a consumer makes sure that exchanges, queues and bindings stand: without a binding it hears nothing."""
    window_messages: int = 1_000
    """Messages sent and not yet confirmed, at most."""
    window_bytes: int = 32 * _MIB
    tls_ca_file: str | None = None
    """Certificates to trust instead of the system's."""
    tls_cert_file: str | None = None
    tls_key_file: str | None = None
