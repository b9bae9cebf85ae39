"""What HTTP promises, from either side."""

from common.ports.sink import TransportFeatures

FEATURES = TransportFeatures(
    name="http",
    durable=True,
    ordered=True,
    confirms=True,
    redelivers=True,
    notices_unroutable=True,
    authenticated=True,
    max_message_bytes=None,
    notes=(
        "A push is answered after its commit, so what is confirmed is applied or dead-lettered there.",
        "A pull that was not read to its end begins where it did.",
        "The largest message is what the peer's `server.max_body_bytes` says.",
    ),
)
