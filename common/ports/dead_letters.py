"""The broker's copies of dead letters: for its own tools and a central operator. `rf_dead_letter` stays the truth."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One batch set aside, or one part of it, as it lies on the broker."""

    tx_id: str
    """What `remove` finds it by: the tx's id, or one made up where the bytes give none."""
    body: bytes
    reason: str
    error: str = ""
    source_node: str | None = None
    attempts: int = 0
    first_failure: str | None = None
    last_failure: str | None = None
    """Both as ISO 8601."""
    origin: str | None = None
    """The queue or file it came from."""
    content_encoding: str | None = None
    extra: dict[str, str | int | bool] = field(default_factory=dict)


class DeadLetterMirror(Protocol):
    """Publishes, lists and removes the broker's copies of this node's dead letters. Belongs to one thread.

    OutageError from any method: what was asked may be done or not; asking again does no harm, since a letter may lie
    there twice and `remove` takes every copy.
    """

    def publish(self, dead_letter: DeadLetter) -> None:
        """Return once the broker has it for good."""
        ...

    def remove(self, tx_ids: Collection[str]) -> int:
        """Take copies off, after a replay or a discard; return how many were there."""
        ...

    def read_all(self) -> Sequence[DeadLetter]:
        """Return every copy, oldest first, and leave all there."""
        ...

    def close(self) -> None:
        """Give back the connection. Safe to call twice."""
        ...


@dataclass(frozen=True, slots=True)
class Retry:
    """A batch that shall come once more by its broker, after a delay."""

    tx_id: str
    body: bytes
    headers: dict[str, object]
    """`source_node`, `from_lsn`, `to_lsn`, `incarnation`, as its message had them."""
    verified: bool
    """Its sender was proven."""
    before: int
    """How often it was sent to be retried already."""
    delay_seconds: float


@runtime_checkable
class RetryTimer(Protocol):
    """The broker as the clock of retries: what is given to it comes again as a delivery. Belongs to one thread.

    The table stays the truth: a retry that is lost, or comes twice, does no harm."""

    def retry_all(self, retries: Sequence[Retry]) -> None:
        """Return once the broker has them all. Raises OutageError: then some may be there."""
        ...
