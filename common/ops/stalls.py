"""Work that waits without getting on: since when, as far as can be told from what the watchdog saw last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.schema import tables as rf

SEALER = "sealer"
OF_SOURCE, OF_SINK, INTAKE = "source ", "sink ", "intake "
"""What names of work begin with that is about one source, one sink, or one way in."""


@dataclass(frozen=True, slots=True)
class Work:
    """Some work of this node as it stands now. Instants are microseconds since the epoch."""

    name: str
    """`sealer`, `sink broker`, `intake directory`, `source shop`: fixed for one kind of work."""
    pending: int
    """How much waits, in `unit`; 0 where nothing does."""
    unit: str
    """What waits, in words."""
    mark: str
    """Another one whenever some of it was done."""
    oldest_us: int | None = None
    """Since when the oldest of it waits."""
    not_before_us: int = 0
    """It can't have stood still before this: work came, or went on, then."""
    excused: str | None = None
    """Why nobody has to be called for it, however long it stands."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The same as the watchdog saw it last."""

    pending: int
    mark: str
    oldest_us: int | None
    still_us: int | None
    """Since when it had stood still; None where nothing waited."""
    looked_us: int


FRESH_US = 90_000_000
"""A watchdog that runs writes at least twice in this time."""


def is_fresh(seen: Seen, now_us: int) -> bool:
    """Tell whether the watchdog that saw this is still looking."""
    return still_looks(seen.looked_us, now_us)


def still_looks(looked_us: int | None, now_us: int) -> bool:
    """Tell whether a watchdog that looked last then is still looking; None: none ever did."""
    # One that looked in the future looked before the clock was set back.
    return looked_us is not None and -FRESH_US < now_us - looked_us < FRESH_US


@dataclass(frozen=True, slots=True)
class Wait:
    """Work that waits. `still_us`: since when nothing of it was done."""

    work: Work
    still_us: int
    stalled: bool

    @property
    def oldest_us(self) -> int:
        """Since when the oldest of it waits, as far as that is known."""
        return min(self.work.oldest_us or self.still_us, self.still_us)

    def document(self, now_us: int) -> dict[str, Any]:
        """Return it as `status --json` gives it."""
        return {
            "work": self.work.name,
            "pending": self.work.pending,
            "unit": self.work.unit,
            "oldest_seconds": _seconds(self.oldest_us, now_us),
            "still_since": to_iso(self.still_us),
            "still_seconds": _seconds(self.still_us, now_us),
            "stalled": self.stalled,
            "excused": self.work.excused,
        }


def told(document: Mapping[str, Any]) -> str:
    """Return what a person is told of work that does not get on. `document`: as `Wait.document` gave it."""
    return f"no progress since {document['still_since']}: {document['pending']} {document['unit']}"


def still_since(work: Work, seen: Seen | None, now_us: int) -> int | None:
    """Return since when `work` stands still; None where nothing waits. Pure.

    What a look did not find waiting came after it, and what has moved since moved after it: so a node whose watchdog
    looks is never told to have stood still for longer than that, however long ago its changes were made."""
    if not work.pending:
        return None
    if seen is None:
        since_us = work.oldest_us or now_us
    elif seen.mark == work.mark and seen.still_us is not None:
        since_us = seen.still_us
    else:
        since_us = max(seen.looked_us, work.oldest_us or 0)
    return min(now_us, max(since_us, work.not_before_us))


def waits(works: Sequence[Work], seen: Mapping[str, Seen], now_us: int, stall_seconds: float) -> list[Wait]:
    """Return what waits, and what of it has stood still for `stall_seconds`. Pure."""
    found = []
    for work in works:
        still_us = still_since(work, seen.get(work.name), now_us)
        if still_us is not None:
            late = now_us - still_us >= stall_seconds * 1_000_000
            found.append(Wait(work, still_us, stalled=late and work.excused is None))
    return found


def read_seen(connection: sa.Connection) -> dict[str, Seen]:
    """Return what the watchdog saw last, by the name of the work."""
    table = rf.watch.c
    columns = (table.work, table.pending, table.mark, table.oldest_us, table.still_us, table.looked_us)
    return {row.work: Seen(*row[1:]) for row in connection.execute(sa.select(*columns))}


def write_seen(connection: sa.Connection, name: str, seen: Seen) -> None:
    """Keep what the watchdog saw."""
    values = {
        "pending": seen.pending,
        "mark": seen.mark,
        "oldest_us": seen.oldest_us,
        "still_us": seen.still_us,
        "looked_us": seen.looked_us,
    }
    if not connection.execute(sa.update(rf.watch).where(rf.watch.c.work == name).values(values)).rowcount:
        connection.execute(sa.insert(rf.watch).values(work=name, **values))


def _seconds(since_us: int, now_us: int) -> float:
    return round(max(0, now_us - since_us) / 1e6, 3)
