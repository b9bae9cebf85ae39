"""Puts the changes of one row within one transaction into the order in which they happened.

AFTER triggers run at the end of their statement. Where a trigger of the application writes a row that the same
statement has written already, but whose own trigger is still to come, the later change stands in the log first. The
places of the row versions tell: a change begins where the one before it ended. Where two rows change places on a key
that is checked late, the one that comes may be logged before the one that leaves.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

Raw = psycopg.Connection[tuple[Any, ...]]

TRUNCATED = "(4294967295,0)"
"""No row has this place."""

_SWAP = """
UPDATE rf_sealed s SET seq = m.seq FROM unnest(%(lsns)b::bigint[], %(seqs)b::bigint[]) AS m(lsn, seq)
WHERE s.era = %(era)s AND s.lsn = m.lsn
"""
_IMAGES = """
SELECT s.seq, md5(l.before), md5(l.after) FROM unnest(%(seqs)b::bigint[]) AS s(seq)
CROSS JOIN LATERAL (SELECT before, after FROM rf_change_log l WHERE l.xid = ANY(%(xids)s::xid8[]) AND l.seq = s.seq
                    LIMIT 1) l
"""
_DELETED = """
UPDATE rf_row_version v SET deleted = m.deleted
FROM unnest(%(tables)b::int[], %(keys)b::text[], %(deleted)b::bool[]) AS m(table_id, key, deleted)
WHERE v.table_id = m.table_id AND v.key = m.key
"""


class Entry(NamedTuple):
    """One log row of a row that was written more than once in a transaction."""

    table_id: int
    key: str
    place: int
    """Which of the step's transactions it belongs to."""
    lsn: int
    seq: int
    op: str
    old_tid: str | None
    new_tid: str | None
    before: str | None = None
    after: str | None = None
    """Digests of the images."""

    @property
    def is_truncated(self) -> bool:
        """TRUNCATE took it, whatever its place was: places begin anew after it."""
        return self.old_tid == TRUNCATED


def mend_chains(raw: Raw, era: int, xids: str, rows: Iterable[Sequence[Any]]) -> None:
    """Give the LSNs of each row's changes to its log rows in the order of the chain. `rows`: by LSN, as sealed."""
    found = [Entry(*row) for row in rows]
    images = {seq: pair for seq, *pair in raw.execute(_IMAGES, {"seqs": [one.seq for one in found], "xids": xids})}
    entries = sorted(
        (one._replace(before=images[one.seq][0], after=images[one.seq][1]) for one in found),
        key=attrgetter("table_id", "key", "place", "lsn"),
    )
    moves: list[tuple[int, int]] = []
    last: dict[tuple[int, str], Entry] = {}
    for _, group in groupby(entries, key=attrgetter("table_id", "key", "place")):
        logged = list(group)
        happened = in_chain_order(logged)
        moves += [(slot.lsn, entry.seq) for slot, entry in zip(logged, happened, strict=True) if slot is not entry]
        last[happened[-1].table_id, happened[-1].key] = happened[-1]
    if not moves:
        return
    raw.execute(_SWAP, {"era": era, "lsns": [lsn for lsn, _ in moves], "seqs": [seq for _, seq in moves]})
    raw.execute(
        _DELETED,
        {
            "tables": [table_id for table_id, _ in last],
            "keys": [key for _, key in last],
            "deleted": [entry.op == "D" for entry in last.values()],
        },
    )


def in_chain_order(logged: Sequence[Entry]) -> list[Entry]:
    """Return the entries so that each follows the one that made the row version it changed.

    Stretches that do not hang together: the row that was there comes first and the one that stays comes last, if the
    images agree, else they stay in the order in which they were logged (ALTER TABLE may have moved every row)."""
    happened: list[Entry] = []
    for is_truncated, group in groupby(logged, key=attrgetter("is_truncated")):
        part = list(group)
        happened += part if is_truncated else _part_in_order(part)
    return happened


def _part_in_order(logged: Sequence[Entry]) -> list[Entry]:
    stretches = _stretches(logged)
    stretches.sort(key=lambda stretch: (_comes(stretch), _stays(stretch), _first_seq(stretch)))
    ordered = [entry for stretch in stretches for entry in stretch]
    if all(earlier.after == later.before for earlier, later in pairwise(ordered)):
        return ordered
    stretches.sort(key=_first_seq)
    return [entry for stretch in stretches for entry in stretch]


def _stretches(logged: Sequence[Entry]) -> list[list[Entry]]:
    makers = {entry.new_tid: entry for entry in logged if entry.new_tid is not None}
    followers = {
        id(makers[entry.old_tid]): entry for entry in logged if entry.old_tid is not None and entry.old_tid in makers
    }
    followed = {id(entry) for entry in followers.values()}
    stretches = [_stretch(entry, followers) for entry in logged if id(entry) not in followed]
    # A ring of places can't be, unless ALTER TABLE moved the rows.
    return stretches if sum(map(len, stretches)) == len(logged) else [[entry] for entry in logged]


def _comes(stretch: Sequence[Entry]) -> bool:
    return stretch[0].old_tid is None


def _stays(stretch: Sequence[Entry]) -> bool:
    return stretch[-1].new_tid is not None


def _first_seq(stretch: Sequence[Entry]) -> int:
    return min(entry.seq for entry in stretch)


def _stretch(first: Entry, followers: dict[int, Entry]) -> list[Entry]:
    stretch = [first]
    while (following := followers.get(id(stretch[-1]))) is not None:
        stretch.append(following)
    return stretch
