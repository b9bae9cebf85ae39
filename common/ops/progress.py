"""How far the node is, as numbers: what probes, metrics and samples are made of. Cheap at any size of the log.

`status` tells the same to people, and counts more."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import sqlalchemy as sa

from common.ops.stalls import Wait
from common.schema import tables as rf

NodeT = TypeVar("NodeT", contravariant=True)


@dataclass(frozen=True, slots=True)
class RoadProgress:
    """One way out. Instants are microseconds since the epoch, LSNs count in the present incarnation."""

    name: str
    """Of the sink: `broker`, `directory`, `http-PEER`."""
    taken_lsn: int
    waiting: int
    """Sealed changes that it has not taken, of all incarnations."""
    oldest_us: int | None
    """When the oldest of them was captured."""
    unusable_since_us: int | None
    """None while it can be used."""


@dataclass(frozen=True, slots=True)
class OwnProgress:
    """This node's own changes, on their way out."""

    head_lsn: int
    unsealed: int
    unsealed_since_us: int | None
    kept: int
    """Sealed changes that the log holds."""
    roads: tuple[RoadProgress, ...]
    waits: tuple[Wait, ...]
    """What does not get on, or not yet."""

    @property
    def oldest_us(self) -> int | None:
        """When the oldest change was captured that some road has not taken."""
        return _earliest([self.unsealed_since_us, *(road.oldest_us for road in self.roads)])


@dataclass(frozen=True, slots=True)
class SourceProgress:
    """Another node's log as it was taken here: of its newest incarnation."""

    peer: str
    watermark: int
    behind: int
    """Changes that its log has, as far as that is known, and this node has not."""


@dataclass(frozen=True, slots=True)
class OthersProgress:
    """Other nodes' changes, on their way in."""

    sources: tuple[SourceProgress, ...]
    held: int
    """Messages that the intakes of a running node have taken and not let go of."""
    unfinished_txs: int
    """Large txs of which parts are missing."""
    unfinished_since_us: int | None
    waits: tuple[Wait, ...]

    @property
    def oldest_us(self) -> int | None:
        """Since when the oldest of it waits; what waits as `early` dead letters apart."""
        return _earliest([self.unfinished_since_us, *(one.oldest_us for one in self.waits)])


@runtime_checkable
class KnowsProgress(Protocol[NodeT]):
    """A part that tells how far its side is. Opens no transport."""

    def progress(self, node: NodeT) -> OwnProgress | OthersProgress:
        """Look how far it is now. Raises OutageError."""
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """Both sides together; None where a side is not installed."""

    own: OwnProgress | None
    others: OthersProgress | None
    early_since_us: int | None
    """Since when the oldest batch waits for a parent row, as a dead letter that is tried again by itself."""

    @property
    def unpublished_since_us(self) -> int | None:
        """When the oldest change was captured that is not published yet."""
        return self.own.oldest_us if self.own else None

    @property
    def unapplied_since_us(self) -> int | None:
        """Since when the oldest waits that came, or could have come, and is not applied."""
        return _earliest([self.others.oldest_us if self.others else None, self.early_since_us])

    @property
    def stalled(self) -> list[Wait]:
        """The work that does not get on."""
        both: Iterable[OwnProgress | OthersProgress | None] = (self.own, self.others)
        return [one for side in both if side is not None for one in side.waits if one.stalled]


Side = OwnProgress | OthersProgress


def sides_of(parts: Sequence[object], node: Any) -> list[Side]:
    """Ask each part that knows how far its side is. Raises OutageError."""
    return [part.progress(node) for part in parts if isinstance(part, KnowsProgress)]


def joined(sides: Sequence[Side], connection: sa.Connection) -> Progress:
    """Put together what the parts say."""
    own = next((side for side in sides if isinstance(side, OwnProgress)), None)
    others = next((side for side in sides if isinstance(side, OthersProgress)), None)
    return Progress(own, others, connection.scalar(OLDEST_EARLY))


OLDEST_EARLY = (
    sa.select(rf.dead_letter.c.first_failed_us)
    .where(rf.dead_letter.c.state == "early")
    .order_by(rf.dead_letter.c.first_failed_us)
    .limit(1)
)
"""By the first line of an index; for a minimum all of them may be read."""


def age_seconds(since_us: int | None, now_us: int) -> float:
    """Return an age for gauges, as `age_us` does."""
    return age_us(since_us, now_us) / 1_000_000


def age_us(since_us: int | None, now_us: int) -> int:
    """Return an age: 0 where nothing waits; never negative, whatever the clocks say."""
    return 0 if since_us is None else max(0, now_us - since_us)


def _earliest(instants: Iterable[int | None]) -> int | None:
    return min((one for one in instants if one is not None), default=None)
