"""What follows from a change for every row that it may touch, and for no other: who stands, who steps back.

`theory` says what is right; here the rows are found that it has to be asked about. A row's values bind it to others
with the same; a row that stands no longer, or anew, binds its children."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

from common.ports.dialect import TableShape
from common.ports.standing import Claim, RowFacts
from consumer.standing.sight import Seen, Sight, by_table
from consumer.standing.theory import Node, RowId, standing_among


@dataclass(frozen=True, slots=True)
class Settled:
    """How things stand after a change."""

    nodes: Mapping[RowId, Node]
    """Every row that was asked about."""
    standing: frozenset[RowId]

    def against(self, row: RowId) -> RowId | None:
        """Return who keeps `row` from standing: the rival of highest rank, else None for its parents."""
        rivals = [one for one in self.nodes[row].rivals if one in self.standing]
        return max(rivals, key=lambda one: self.nodes[one].rank, default=None)


def settle(sight: Sight, changed: Iterable[RowId]) -> Settled:
    """Return who stands once `changed` are as `sight` was told."""
    circles = cache(partial(leads_back, sight.shapes))
    region = _with_rivals(sight, set(changed))
    if any(circles(row.table) and sight.seen[row].is_elsewhere for row in region):
        # Who descends from whom decides between rivals, and may be another now, however far from here.
        region |= _with_rivals(sight, _copies_in_circles(sight, circles) - region)
    while True:
        nodes = _nodes(sight, region)
        pulled = {one for row in region if circles(row.table) for one in nodes[row].needs if circles(one.table)}
        if not pulled <= region:
            region |= _with_rivals(sight, pulled - region)
            continue
        standing = standing_among(nodes, lambda row: row in sight.seen and sight.seen[row].stood)
        moved = [row for row in region if _is_moved(sight.seen[row], row in standing)]
        children = _children(sight, moved) - region
        if not children:
            return Settled(nodes, frozenset(standing))
        region |= _with_rivals(sight, children)


def leads_back(shapes: Mapping[str, TableShape], table: str) -> bool:
    """Tell whether a table's references may lead back to itself, over others or not."""
    seen: set[str] = set()
    waiting = [table]
    while waiting:
        for key in shapes[waiting.pop()].foreign_keys:
            if key.parent == table:
                return True
            if key.parent in shapes and key.parent not in seen:
                seen.add(key.parent)
                waiting.append(key.parent)
    return False


def _copies_in_circles(sight: Sight, circles: Callable[[str], bool]) -> set[RowId]:
    """Return every row that has stepped back of tables whose references lead back: of two rivals one has."""
    tables = [name for name in sight.shapes if circles(name)]
    sight.load_copies({name: sight.copies.keys(name) for name in tables})
    return {row for row, seen in sight.seen.items() if seen.copy is not None and row.table in tables}


def _is_moved(seen: Seen, stands: bool) -> bool:
    return stands != seen.stood or seen.is_other_parent


def _with_rivals(sight: Sight, rows: set[RowId]) -> set[RowId]:
    """Return `rows` and all that are bound to them by unique values, from one to the next."""
    region, fresh = set(rows), rows
    while fresh:
        for table, some in by_table(fresh):
            claiming = [one for one in _facts(sight, some) if one.claims]
            if claiming:
                sight.load_own({table: sight.look.rivals(sight.shapes[table], claiming)})
        wanted = [claim for row in fresh for claim in sight.seen[row].claims]
        if not wanted:
            break
        sight.load_copies(sight.copies.claimants(wanted))
        having = sight.having(lambda one: one.claims)
        fresh = {one for claim in wanted for one in having.get(claim, ())} - region
        region |= fresh
    return region


def _children(sight: Sight, parents: Iterable[RowId]) -> set[RowId]:
    """Return the rows that point to one of `parents`, as it was or as it shall be."""
    wanted: list[Claim] = []
    for table, some in by_table(parents):
        seen = [sight.seen[row] for row in some]
        facts = [one for each in seen for one in each.course if one is not None and one.pointed]
        if facts:
            wanted += [claim for one in facts for claim in one.pointed]
            sight.load_own(sight.look.children(sight.shapes[table], facts))
    if not wanted:
        return set()
    sight.load_copies(sight.copies.pointing(wanted))
    having = sight.having(lambda one: [pointer.claim for pointer in one.points])
    return {one for claim in wanted for one in having.get(claim, ())}


def _nodes(sight: Sight, rows: Iterable[RowId]) -> dict[RowId, Node]:
    """Return rows with what they depend on, all of it loaded."""
    region = sorted(rows)
    _load_parents(sight, region)
    holders = sight.having(lambda one: one.pointed)
    claimants = sight.having(lambda one: one.claims)
    found = {}
    for row in region:
        seen = sight.seen[row]
        groups = [
            tuple(holders.get(pointer.claim, ()))
            for pointer in seen.points
            # Who points to what is not known here yet has come too early: that is found after the writing.
            if holders.get(pointer.claim) or not (seen.changed and sight.is_unknown(seen, pointer))
        ]
        claims = seen.facts.claims if seen.facts is not None else ()
        same = {one for claim in claims for one in claimants[claim] if one != row}
        rank = seen.rank
        rivals = tuple(sorted(one for one in same if sight.seen[one].rank > rank))
        found[row] = Node(rank, seen.facts is not None and not seen.unfit, tuple(groups), rivals)
    return found


def _load_parents(sight: Sight, rows: Sequence[RowId]) -> None:
    wanted: list[Claim] = []
    for table, some in by_table(rows):
        pointing = [one for one in _facts(sight, some) if one.points]
        if pointing:
            wanted += [pointer.claim for one in pointing for pointer in one.points]
            sight.load_own(sight.look.parents(sight.shapes[table], pointing))
    if wanted:
        sight.load_copies(sight.copies.claimants(wanted))


def _facts(sight: Sight, rows: Iterable[RowId]) -> list[RowFacts]:
    found = [sight.seen[row].facts for row in rows]
    return [one for one in found if one is not None]
