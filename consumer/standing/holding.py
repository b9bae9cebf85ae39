"""In a `manual` table a change that clashes with another row in a unique key waits until somebody chooses."""

from collections.abc import Iterator, Mapping, Set
from typing import NamedTuple

from common.config.model import Policy
from common.ports.dialect import RowWrite
from common.ports.standing import Claim, RowFacts
from common.versions import NEVER
from consumer.conflict.choices import known_choices
from consumer.conflict.record import Conflict, Kind, State, Winner
from consumer.incoming import Counts
from consumer.standing.sight import Sight, by_table
from consumer.standing.theory import Rank, RowId, rank_of
from consumer.tables import TableUse


class Cause(NamedTuple):
    """The change that a row stepped back for, or by."""

    source_node: str
    tx_id: str
    lsn: int
    counts: Counts | None = None
    is_chosen: bool = False
    """Somebody chose it, or settled what it had waited for: no clash keeps it waiting."""


class Proposed(NamedTuple):
    """A write before it is settled whether it may stand."""

    use: TableUse
    write: RowWrite
    facts: RowFacts | None
    """None deletes the row."""


def held_back(sight: Sight, proposed: Mapping[RowId, Proposed], asked: Set[RowId]) -> dict[RowId, RowId]:
    """Return those of `asked` that have to wait, each with the row that is against it.

    What stands here keeps its value; of two that come together the one of lower rank waits. A row whose change waits
    stays as it is, and may be against others by that."""
    for table, some in by_table(asked):
        claiming = [facts for row in some if (facts := proposed[row].facts) is not None and facts.claims]
        if claiming:
            sight.load_own({table: sight.look.rivals(sight.shapes[table], claiming)})
    waits: dict[RowId, RowId] = {}
    free: set[RowId] = set()
    while (pair := _clash(sight, proposed, asked - free, waits)) is not None:
        row, rival = pair
        if _is_settled(sight, proposed[row].write, row, rival):
            free.add(row)
        else:
            waits[row] = rival
    return waits


def _clash(
    sight: Sight, proposed: Mapping[RowId, Proposed], asked: Set[RowId], waits: Mapping[RowId, RowId]
) -> tuple[RowId, RowId] | None:
    """Return the next row that has to wait, and for whom."""
    holders: dict[Claim, list[RowId]] = {}
    for row, facts in _standing(sight, proposed, waits):
        for claim in facts.claims:
            holders.setdefault(claim, []).append(row)
    candidates = sorted(asked - waits.keys(), key=lambda row: _rank(proposed[row], row))
    for row in candidates:
        wanted = proposed[row].facts
        for claim in wanted.claims if wanted is not None else ():
            for rival in holders.get(claim, ()):
                is_stronger = rival not in candidates or _rank(proposed[rival], rival) > _rank(proposed[row], row)
                if rival != row and is_stronger:
                    return row, rival
    return None


def _standing(
    sight: Sight, proposed: Mapping[RowId, Proposed], waits: Mapping[RowId, RowId]
) -> Iterator[tuple[RowId, RowFacts]]:
    """Yield the rows that would stand, as they would be."""
    for row, one in proposed.items():
        if row not in waits and one.facts is not None:
            yield row, one.facts
    for row, seen in sight.seen.items():
        if seen.stood and seen.before is not None and (row not in proposed or row in waits):
            yield row, seen.before


def _rank(one: Proposed, row: RowId) -> Rank:
    return rank_of(one.write.version, one.write.base, row.table, one.write.pk)


def _is_settled(sight: Sight, write: RowWrite, row: RowId, rival: RowId) -> bool:
    """Tell whether a choice that came before this change has settled it already."""
    choices = known_choices(sight.session.connection, row.table, [row.key, rival.key])
    return any(write.version in one.resolves for one in choices)


def waiting_clash(sight: Sight, proposed: Mapping[RowId, Proposed], row: RowId, rival: RowId, cause: Cause) -> Conflict:
    """Return the record of a change that waits, and count it so."""
    if cause.counts is not None:
        cause.counts.waiting += 1
        cause.counts.conflicts += 1
        cause.counts.won -= 1
    one, seen = proposed[row], sight.seen[rival]
    came = proposed.get(rival)
    stands = came.facts if came is not None and came.facts is not None else seen.before
    return Conflict(
        table=row.table,
        row_key=row.key,
        pk=one.write.pk.decode("utf-8"),
        kind=Kind.UNIQUE,
        state=State.WAITING,
        winner=Winner.NEITHER,
        rule=Policy.MANUAL,
        source_node=cause.source_node,
        tx_id=cause.tx_id,
        lsn=cause.lsn,
        our_version=came.write.version if came is not None else seen.version,
        their_version=one.write.version,
        their_base=None if one.write.base == NEVER else one.write.base,
        our_image=None if stands is None else stands.image.encode(),
        their_image=one.write.image,
        our_meta=None,
        their_meta=None if one.use.meta == one.use.shape.meta else one.use.meta,
    )
