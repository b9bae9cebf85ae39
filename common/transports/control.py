"""What nodes say beside batches, as it travels: one small message of its own, confirmed before it counts as said."""

from common.ports.sink import Envelope, Sink
from common.wire.control import Control, encode_control
from common.wire.signing import Signer


def control_envelope(
    control: Control, incarnation: str, from_lsn: int, to_lsn: int, tx_id: str, signer: Signer | None
) -> Envelope:
    """Return the message of one line. `incarnation` is its sender's; the LSNs and `tx_id` say what it is about."""
    body = encode_control(control, signer)
    return Envelope(body, control.sender, incarnation, from_lsn, to_lsn, tx_id, txs=0)


def say(sink: Sink, envelope: Envelope, confirm_seconds: float) -> None:
    """Send one message, wait until it is confirmed, and close the sink. Raises OutageError."""
    try:
        sink.send(envelope)
        sink.flush(confirm_seconds)
    finally:
        sink.close()
