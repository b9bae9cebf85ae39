"""Where batches come from."""

from dataclasses import dataclass, field
from typing import Protocol

from common.ports.sink import TransportFeatures


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message or file as it came in."""

    body: bytes
    """As it travelled, still wrapped when `content_encoding` says so."""
    origin: str
    """Queue or file, for messages and dead letters."""
    token: object
    """The source's own handle for ack and give_back."""
    content_encoding: str | None = None
    source_node: str | None = None
    """Who sent it, as far as the transport says; batches inside must agree where it is proof (`verified`)."""
    verified: bool = False
    may_forward: bool | None = None
    """Whether the sender may hand on batches of other nodes; None: by the rule for the main node."""
    redelivered: bool = False
    attempts: int = 0
    """How often it was delivered before, as far as the transport counts."""
    headers: dict[str, object] = field(default_factory=dict)
    fault: str | None = None
    """Why it is not whole, where the transport can tell: what holds nothing at all tells nobody by itself."""


class Place(Protocol):
    """Where this node is in what one peer gives; kept in the database."""

    def load(self) -> str | None:
        """Return the last mark that was noted; None before the first."""
        ...

    def save(self, cursor: str) -> None:
        """Note a mark: everything up to it is committed here."""
        ...


class Source(Protocol):
    """Gives deliveries and takes acknowledgements. Belongs to one thread.

    What was neither acknowledged nor given back comes again, also when the process is killed. After an OutageError:
    `close` and make a new one.
    """

    @property
    def features(self) -> TransportFeatures: ...

    @property
    def took_what_stood(self) -> bool:
        """Whether all that stood there when it was opened is acknowledged: others may send more for ever."""
        ...

    def receive(self, max_deliveries: int, timeout_seconds: float) -> list[Delivery]:
        """Return what has come, at most `max_deliveries`; waits up to the timeout for the first one only."""
        ...

    def ack(self, deliveries: list[Delivery]) -> None:
        """Let go of deliveries for good: their txs are committed here, as rows or as dead letters."""
        ...

    def give_back(self, deliveries: list[Delivery], *, failed: bool) -> None:
        """Ask for them again: `failed` when trying them went wrong, else "not now" (an outage on our side)."""
        ...

    def close(self) -> None:
        """Give back connections; unacknowledged deliveries return to the transport. Safe to call twice."""
        ...
