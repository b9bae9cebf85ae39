"""Snapshots of PostgreSQL as values: which transactions ended between two of them. Pure."""

from dataclasses import dataclass

FOREIGN_XIDS = "9223372036854775808"
"""2^63: no server gives out ids up there, so the log rows of another server's transactions are moved to it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `pg_current_snapshot()` says: all below `xmin` have ended, of those below `xmax` all but `running`."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Snapshot":
        """Return the snapshot of its text form `xmin:xmax:xid,xid`."""
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(int(xid) for xid in running.split(",") if xid))


def ended_between(before: Snapshot, now: Snapshot) -> list[tuple[int, int]]:
    """Return the transactions that were running or not begun in `before` and have ended in `now`.

    As half-open ranges of ids, ascending. A range never covers one that still runs: reading the log by them touches no
    row of an open transaction, however many it has written."""
    resumed = [(xid, xid + 1) for xid in sorted(before.running) if xid < now.xmax and xid not in now.running]
    ranges = []
    low = before.xmax
    for xid in sorted(xid for xid in now.running if xid >= before.xmax):
        if low < xid:
            ranges.append((low, xid))
        low = xid + 1
    if low < now.xmax:
        ranges.append((low, now.xmax))
    return resumed + ranges


def is_quiet_since(before: Snapshot, now: Snapshot, own: int) -> bool:
    """Tell whether no transaction but `own` ended between the two.

    False where ids went backwards: a server that was put back, or another one, whose numbers mean something else."""
    return now.xmax >= before.xmax and all(one == (own, own + 1) for one in ended_between(before, now))


def bounds(ranges: list[tuple[int, int]]) -> tuple[str, str]:
    """Return the lower and upper ends as two PostgreSQL array literals."""
    lows = ",".join(str(low) for low, _ in ranges)
    highs = ",".join(str(high) for _, high in ranges)
    return f"{{{lows}}}", f"{{{highs}}}"
