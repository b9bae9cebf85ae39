"""What the consumer hands from step to step: a whole tx as it came in, and what became of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from common.errors import PoisonError, Reason
from common.wire.records import BatchHeader
from consumer.dead_letters.lsns import LsnSet
from consumer.dead_letters.states import LetterState


class Incoming(msgspec.Struct, frozen=True):
    """One whole tx, or bytes that are none. The bytes are here (`raw`) or, for a tx in parts, in `rf_tx_part`."""

    source_node: str
    """Who answers for it: the header's source, or the sender where the header can't be believed."""
    tx_id: str
    """The header's, or made up from the bytes (`bytes-…`)."""
    origin: str
    """Queue or file."""
    header: BatchHeader | None
    raw: bytes | None
    """The batch as it came; None for stored parts."""
    payload: bytes | None = None
    """Its change lines; None for stored parts and for what is broken."""
    error: PoisonError | None = None
    """Why it can't be applied, known before its changes were looked at."""
    replayed_by: str | None = None
    """The account that asked for a dead letter to be tried again."""
    retries: int = 0
    """How often its broker was asked to bring it once more."""
    claims: str | None = None
    """The `tx_id` that its header gives, of bytes that can't be believed and have a name of their own."""
    claims_source: str | None = None
    """The node that its header gives, where that is not who answers for it."""
    applied: LsnSet = LsnSet()
    """Changes of a dead letter that were applied in pieces: they are not applied again."""
    letter: tuple[str, str] | None = None
    """The dead letter that it is tried again from: one whose sender was not proven has a name of its own."""

    @property
    def key(self) -> tuple[str, str]:
        """What dedup and dead letters know it by."""
        return self.source_node, self.tx_id

    @property
    def in_parts(self) -> bool:
        """Whether its parts stand in `rf_tx_part`."""
        return self.raw is None

    @property
    def changes(self) -> int:
        """About how many rows it has, for the size of a group."""
        return self.header.changes if self.header else 1

    @property
    def size(self) -> int:
        """About how many bytes it has in memory."""
        return len(self.raw) if self.raw is not None else 0


class Outcome(StrEnum):
    """What became of a tx."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    DEAD = "dead"
    EARLY = "early"
    FORKED = "forked"

    @property
    def set_aside(self) -> bool:
        """Whether it stands in `rf_dead_letter` now."""
        return self in _SET_ASIDE


_SET_ASIDE = frozenset({Outcome.DEAD, Outcome.EARLY, Outcome.FORKED})


@dataclass(slots=True)
class Counts:
    """What the changes of one tx came to."""

    changes: int = 0
    won: int = 0
    lost: int = 0
    same: int = 0
    late: int = 0
    conflicts: int = 0
    waiting: int = 0
    """Of the conflicts those that wait for a choice."""
    missing: list[dict[str, str]] = field(default_factory=list)
    """The first updates and deletes that found no row: table, pk, op, cause."""
    missing_total: int = 0
    latest_us: int = 0
    """The latest that the source's clock said."""
    ahead_us: int = 0
    """So far was it ahead of this node's, where that is news."""

    def add(self, others: "Counts") -> None:
        """Count what another call came to."""
        for name in ("changes", "won", "lost", "same", "late", "conflicts", "waiting", "missing_total"):
            setattr(self, name, getattr(self, name) + getattr(others, name))
        self.missing += others.missing
        self.latest_us = max(self.latest_us, others.latest_us)

    def as_dict(self) -> dict[str, object]:
        """Return what is not zero, as the audit line keeps it."""
        found: dict[str, object] = {"changes": self.changes, "won": self.won}
        for name in ("lost", "same", "late", "conflicts", "waiting"):
            if value := getattr(self, name):
                found[name] = value
        if self.missing_total:
            found["missing"] = self.missing_total
            found["missing_rows"] = self.missing
        return found


class Result(msgspec.Struct, frozen=True):
    """The end of one tx's way through the consumer."""

    incoming: Incoming
    outcome: Outcome
    counts: Counts = msgspec.field(default_factory=Counts)
    reason: Reason | None = None
    error: str | None = None
    table: str | None = None
    sha256: str = ""
    """Over its change lines, or over the bytes where they can't be read."""
    still_waits: bool = False
    """It was set aside for this before, and is again: nothing that anybody has to be told each time."""
    open_changes: int | None = None
    """Of a dead letter that was applied in pieces: how many of its changes are left."""
    settled: LetterState | None = None
    """Somebody else settled its dead letter in the same moment: nothing more was done with it."""


def written_tables(results: Sequence[Result]) -> list[str]:
    """Return the tables of what was applied."""
    headers = [result.incoming.header for result in results if result.outcome is Outcome.APPLIED]
    return sorted({name for header in headers if header is not None for name in header.tables})
