"""Where batches go to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class TransportFeatures:
    """What a transport promises. Tests and docs read this record; `doctor` warns from it."""

    name: str
    durable: bool
    """`confirmed` means that the bytes survive a crash of the transport's own server or machine."""
    ordered: bool
    """One writer's messages arrive in the order they were sent, as long as nothing fails."""
    confirms: bool
    """The other side acknowledges what it took; without it, `confirmed` means handed over."""
    redelivers: bool
    """A message that was not acknowledged comes again, also when the reader was killed."""
    notices_unroutable: bool
    """A message that nobody would get is an error, not a loss."""
    authenticated: bool
    """The transport proves which node sent a message."""
    max_message_bytes: int | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where in a trace something was sent: W3C's two headers."""

    traceparent: str
    tracestate: str = ""

    def headers(self) -> dict[str, str]:
        """Return them as they travel."""
        state = {"tracestate": self.tracestate} if self.tracestate else {}
        return {"traceparent": self.traceparent, **state}


@dataclass(frozen=True, slots=True)
class Envelope:
    """One message or file: one or more whole batches of one source, back to back, or one part of a large one."""

    body: bytes
    """Uncompressed `rowferry/1`."""
    source_node: str
    incarnation: str
    from_lsn: int
    to_lsn: int
    """LSNs of the first and of the last tx inside."""
    tx_id: str
    """The first tx's."""
    txs: int = 1
    closes_lsn: int | None = None
    """Once this and everything before it is confirmed, the log is out up to here. None: more parts follow."""
    trace: TraceContext | None = None
    """Goes into the headers of transports that have some, never into the body."""


class KnownLog(NamedTuple):
    """Up to where the other side has a log of this node."""

    incarnation: str
    lsn: int
    tx_id: str | None
    """The tx that ends there, where that was said."""


@runtime_checkable
class KnowsPlace(Protocol):
    """A sink whose other side has said how much of the log it has."""

    @property
    def known_lsn(self) -> int:
        """In the present incarnation, without a gap."""
        ...

    @property
    def known_logs(self) -> Sequence[KnownLog]:
        """Of each incarnation, without a gap and above gaps too."""
        ...


class Sink(Protocol):
    """Takes envelopes in log order. Belongs to one thread.

    OutageError from any method: nothing of what is unconfirmed counts; `close`, make a new one, start again after the
    last confirmed LSN. The receiver's dedup makes the overlap harmless.
    """

    @property
    def features(self) -> TransportFeatures: ...

    def send(self, envelope: Envelope) -> None:
        """Hand over one envelope. May return before it is durable; blocks while too many are unconfirmed.

        Raises OutageError (away, blocked, unroutable) and PoisonError with Reason.LIMIT when the envelope is larger
        than the transport may carry: seen before it is sent."""
        ...

    def confirmed(self) -> int:
        """Return the highest `closes_lsn` up to which every envelope is durable; 0 before the first."""
        ...

    def flush(self, timeout_seconds: float) -> int:
        """Wait until all is durable and return `confirmed()`. Raises OutageError when the time is over."""
        ...

    def close(self) -> None:
        """Give back connections. Safe to call twice, after an error, and while blocked by the other side."""
        ...
