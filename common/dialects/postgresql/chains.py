"""Puts the changes of one row within one transaction into the order in which they happened.

AFTER triggers run at the end of their statement. Where a trigger of the application writes a row that the same
statement has written already, but whose own trigger is still to come, the later change stands in the log first. The
places of the row versions tell: a change begins where the one before it ended.
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import psycopg

Raw = psycopg.Connection[tuple[Any, ...]]

_SWAP = """
UPDATE rf_sealed s SET seq = m.seq FROM unnest(%(lsns)b::bigint[], %(seqs)b::bigint[]) AS m(lsn, seq)
WHERE s.era = %(era)s AND s.lsn = m.lsn
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


def mend_chains(raw: Raw, era: int, rows: Iterable[Sequence[Any]]) -> None:
    """Give the LSNs of each row's changes to its log rows in the order of the chain. `rows`: by LSN, as sealed."""
    entries = sorted((Entry(*row) for row in rows), key=attrgetter("table_id", "key", "place", "lsn"))
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

    Stretches that do not hang together stay in the order in which they were logged."""
    makers = {entry.new_tid: entry for entry in logged if entry.new_tid is not None}
    followers = {
        id(makers[entry.old_tid]): entry for entry in logged if entry.old_tid is not None and entry.old_tid in makers
    }
    followed = {id(entry) for entry in followers.values()}
    stretches = []
    for entry in logged:
        if id(entry) not in followed:
            stretches.append(_stretch(entry, followers))
    stretches.sort(key=lambda stretch: min(entry.seq for entry in stretch))
    ordered = [entry for stretch in stretches for entry in stretch]
    return ordered if len(ordered) == len(logged) else list(logged)


def _stretch(first: Entry, followers: dict[int, Entry]) -> list[Entry]:
    stretch = [first]
    while (following := followers.get(id(stretch[-1]))) is not None:
        stretch.append(following)
    return stretch
