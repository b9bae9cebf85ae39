"""Which rows stand, from what they are: the rule, and nothing else. Pure.

A row stands if it is not deleted, every parent it points to stands, and no row of higher rank that stands has one of
its unique values. Rows that depend on each other in a circle (only tables whose references lead back to themselves can
have such) are decided together: all of them stand, as far as nothing else is against it, and of two with one unique
value the lower goes, or the one that is a descendant of the other.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from common.versions import Version


class RowId(NamedTuple):
    """A row: its table and its canonical key."""

    table: str
    key: str


class Rank(NamedTuple):
    """What decides between rows with one unique value: the greater stands. No two rows have the same."""

    by_main: bool
    """Main wrote it last, in a table where main wins: its version is an epoch above the one it replaced."""
    hlc: int
    node_id: str
    table: str
    pk: bytes
    """As every kind of database writes it: a tx may give one clock value to several rows."""


def rank_of(version: Version, base: Version, table: str, pk: bytes) -> Rank:
    """Return the rank of a row at `version`, written on top of `base`."""
    return Rank(version.main_epoch > base.main_epoch, version.hlc, version.node_id, table, pk)


@dataclass(frozen=True, slots=True)
class Node:
    """One row with what it depends on."""

    rank: Rank
    alive: bool
    """Not deleted, and known well enough to stand at all."""
    parents: tuple[tuple[RowId, ...], ...] = ()
    """For each reference the rows that have what it names: one of them must stand."""
    rivals: tuple[RowId, ...] = ()
    """Rows of higher rank with one of its unique values."""

    @property
    def needs(self) -> Iterator[RowId]:
        """All rows that this one depends on."""
        for group in self.parents:
            yield from group
        yield from self.rivals


def standing_among(nodes: Mapping[RowId, Node], stands_outside: Callable[[RowId], bool]) -> set[RowId]:
    """Return which of `nodes` stand. `stands_outside` tells it of rows that are not among them."""
    decided: set[RowId] = set()

    def stands(row: RowId) -> bool:
        return row in decided if row in nodes else stands_outside(row)

    for circle in _circles(nodes):
        if len(circle) == 1 and circle[0] not in nodes[circle[0]].needs:
            if _may_stand(nodes[circle[0]], stands):
                decided.add(circle[0])
        else:
            decided |= _decide_circle(circle, nodes, stands)
    return decided


def _may_stand(node: Node, stands: Callable[[RowId], bool]) -> bool:
    if not node.alive or any(stands(rival) for rival in node.rivals):
        return False
    return all(any(stands(one) for one in group) for group in node.parents)


def _decide_circle(circle: Sequence[RowId], nodes: Mapping[RowId, Node], stands: Callable[[RowId], bool]) -> set[RowId]:
    inside = set(circle)
    rest = {row for row in circle if nodes[row].alive}
    rest -= {row for row in rest if any(stands(one) for one in nodes[row].rivals if one not in inside)}
    while True:
        rest = _with_parents(rest, nodes, inside, stands)
        loser = _loser(rest, nodes)
        if loser is None:
            return rest
        rest.discard(loser)


def _with_parents(
    rows: set[RowId], nodes: Mapping[RowId, Node], inside: set[RowId], stands: Callable[[RowId], bool]
) -> set[RowId]:
    """Leave out rows without a parent, and those that point to them, until every one that is left has its parents."""
    while True:
        left = {
            row
            for row in rows
            if all(any(one in rows if one in inside else stands(one) for one in group) for group in nodes[row].parents)
        }
        if left == rows:
            return left
        rows = left


def _loser(rows: set[RowId], nodes: Mapping[RowId, Node]) -> RowId | None:
    """Return the row that goes first: of the highest pair with one value the lower, never for its own descendant."""
    pairs = [(rival, row) for row in rows for rival in nodes[row].rivals if rival in rows]
    if not pairs:
        return None
    higher, lower = max(pairs, key=lambda pair: (nodes[pair[0]].rank, nodes[pair[1]].rank))
    return higher if _descends(higher, lower, rows, nodes) else lower


def _descends(row: RowId, ancestor: RowId, rows: set[RowId], nodes: Mapping[RowId, Node]) -> bool:
    seen: set[RowId] = set()
    waiting = [row]
    while waiting:
        for group in nodes[waiting.pop()].parents:
            for one in group:
                if one == ancestor:
                    return True
                if one in rows and one not in seen:
                    seen.add(one)
                    waiting.append(one)
    return False


def _circles(nodes: Mapping[RowId, Node]) -> Iterator[list[RowId]]:
    """Yield the rows in groups that depend on each other, each after what it depends on (Tarjan 1972, no recursion)."""
    number: dict[RowId, int] = {}
    low: dict[RowId, int] = {}
    stack: list[RowId] = []
    on_stack: set[RowId] = set()
    for start in nodes:
        if start in number:
            continue
        work: list[tuple[RowId, Iterator[RowId]]] = []
        _open(start, nodes, number, low, stack, on_stack, work)
        while work:
            row, needs = work[-1]
            following = _next_inside(needs, nodes)
            if following is None:
                work.pop()
                if work:
                    above = work[-1][0]
                    low[above] = min(low[above], low[row])
                if low[row] == number[row]:
                    yield _close(row, stack, on_stack)
            elif following not in number:
                _open(following, nodes, number, low, stack, on_stack, work)
            elif following in on_stack:
                low[row] = min(low[row], number[following])


def _open(
    row: RowId,
    nodes: Mapping[RowId, Node],
    number: dict[RowId, int],
    low: dict[RowId, int],
    stack: list[RowId],
    on_stack: set[RowId],
    work: list[tuple[RowId, Iterator[RowId]]],
) -> None:
    number[row] = low[row] = len(number)
    stack.append(row)
    on_stack.add(row)
    work.append((row, iter(list(nodes[row].needs))))


def _close(row: RowId, stack: list[RowId], on_stack: set[RowId]) -> list[RowId]:
    circle: list[RowId] = []
    while not circle or circle[-1] != row:
        circle.append(stack.pop())
        on_stack.discard(circle[-1])
    return circle


def _next_inside(needs: Iterable[RowId], nodes: Mapping[RowId, Node]) -> RowId | None:
    return next((one for one in needs if one in nodes), None)
