"""Samples of how the node does, a row of `rf_metric` a minute: written by one process, bounded whatever the clock does.

The minute is the key. A clock that went back writes its minutes anew; `seq` tells which rows are of before, so that
none of what an odd clock left is taken for now. What is kept is bounded by rows, so that no clock can purge it all."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from common.ops.counting import Marks, Totals, decode_marks, encode_marks
from common.schema import tables as rf
from common.wire.records import MAX_LSN

MINUTE_US = 60_000_000
DAYS = 7
MOST = DAYS * 24 * 60
_FRESH_MINUTES = 3
"""What was asked of the broker that long ago is not told any more."""
_OLD_AT_ONCE = 10
"""Rows that go by age at each sample: many times what comes, and a clock that is wrong for a moment takes few along."""


@dataclass(frozen=True, slots=True)
class Gauges:
    """How the node stands at one moment. Ages in microseconds, 0 where nothing waits."""

    unpublished_changes: int
    """Not sealed yet, or not taken by the road that is furthest behind."""
    unpublished_age_us: int
    unapplied_changes: int
    """That other nodes' logs are known to have, and this node has not."""
    unapplied_age_us: int
    dead_letters: int
    waiting_conflicts: int
    log_changes: int
    queue_messages: int | None
    """In the broker's queue of this node; None where there is none, or it was not to be asked."""


@dataclass(frozen=True, slots=True)
class Newest:
    """The sample that was written last, by whatever clock."""

    minute: int
    seq: int
    totals: Totals
    marks: Marks


def newest_sample(connection: sa.Connection) -> Newest | None:
    """Return it; None before the first."""
    table = rf.metric
    row = connection.execute(sa.select(table).order_by(table.c.seq.desc()).limit(1)).mappings().one_or_none()
    if row is None:
        return None
    totals = Totals(**{name: row[name] for name in Totals.__slots__})
    return Newest(row["minute"], row["seq"], totals, decode_marks(row["marks"]))


def sampled_queue(connection: sa.Connection, now_us: int) -> int | None:
    """Return how many messages were in the node's queue when the broker was asked last; None where that is long ago."""
    sample = rf.metric.c
    query = sa.select(sample.minute, sample.queue_messages).order_by(sample.seq.desc()).limit(1)
    row = connection.execute(query).one_or_none()
    is_fresh = row is not None and abs(now_us // MINUTE_US - row.minute) <= _FRESH_MINUTES
    return row.queue_messages if row is not None and is_fresh else None


def write_sample(
    connection: sa.Connection, before: Newest | None, totals: Totals, gauges: Gauges, marks: Marks, now_us: int
) -> int | None:
    """Write the sample of now, as the successor of `before`; return its `seq`, None where another process was first.

    In the same commit the oldest rows go."""
    table = rf.metric
    minute = now_us // MINUTE_US
    if before is not None:
        # Whoever takes the marks away from the newest row is its one successor.
        taken = sa.update(table).where(table.c.seq == before.seq, table.c.marks.is_not(None)).values(marks=None)
        if not connection.execute(taken).rowcount:
            return None
    elif connection.execute(sa.select(table.c.seq).limit(1)).first() is not None:
        return None
    seq = before.seq + 1 if before else 1
    connection.execute(sa.delete(table).where(table.c.minute == minute))
    values: dict[str, Any] = {"minute": minute, "seq": seq, "at_us": now_us, "marks": encode_marks(marks)}
    counts = {name: None if count is None else min(count, MAX_LSN) for name, count in _counts(totals, gauges)}
    connection.execute(sa.insert(table).values(values | counts))
    oldest = minute - MOST
    aged = sa.select(table.c.minute).where(table.c.minute <= oldest).order_by(table.c.minute).limit(_OLD_AT_ONCE)
    gone = sa.or_(table.c.seq <= seq - MOST, table.c.minute.in_(aged.scalar_subquery()))
    connection.execute(sa.delete(table).where(gone))
    return seq


def _counts(totals: Totals, gauges: Gauges) -> Iterator[tuple[str, int | None]]:
    """Yield all by name. What others say of their LSNs may come to more than a column holds, each being right."""
    yield from asdict(totals).items()
    yield from asdict(gauges).items()
