"""Who stands: the rule against every set of rows that could stand, and circles against what must hold of them."""

from __future__ import annotations

import random
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from consumer.standing.theory import Node, Rank, RowId, standing_among


def row(number: int) -> RowId:
    return RowId("t", str(number))


def rank(number: int) -> Rank:
    return Rank(False, number, "a", "t", b"")


@st.composite
def graphs(draw: st.DrawFn, *, circles: bool) -> tuple[dict[RowId, Node], set[RowId]]:
    """Rows that have parents and rivals among each other and among some outside; without circles each row depends on
    rows before it in a hidden order alone, which need not be that of the ranks."""
    count = draw(st.integers(1, 7))
    order = draw(st.permutations(range(count)))
    place = {number: order.index(number) for number in range(count)}
    outside = [RowId("o", str(number)) for number in range(2)]
    standing_outside = set(draw(st.lists(st.sampled_from(outside), unique=True)))
    nodes = {}
    for number in range(count):
        others = [one for one in range(count) if circles or place[one] < place[number]]
        higher = [row(one) for one in others if one > number]
        anyone = [row(one) for one in others] + outside
        parents = draw(st.lists(st.lists(st.sampled_from(anyone), max_size=2, unique=True).map(tuple), max_size=2))
        rivals = draw(st.lists(st.sampled_from(higher), max_size=2, unique=True)) if higher else []
        nodes[row(number)] = Node(rank(number), draw(st.integers(0, 5)) > 0, tuple(parents), tuple(rivals))
    return nodes, standing_outside


def fits(nodes: dict[RowId, Node], chosen: set[RowId], outside: set[RowId]) -> bool:
    """Tell whether each row stands exactly where the rule lets it."""
    stand = chosen | outside
    for one, node in nodes.items():
        may = node.alive and not stand.intersection(node.rivals) and all(stand.intersection(g) for g in node.parents)
        if may != (one in chosen):
            return False
    return True


@given(graphs(circles=False))
def test_without_circles_there_is_one_answer_and_it_is_found(graph: tuple[dict[RowId, Node], set[RowId]]) -> None:
    nodes, outside = graph
    sets = [set(some) for size in range(len(nodes) + 1) for some in combinations(nodes, size)]
    assert [one for one in sets if fits(nodes, one, outside)] == [standing_among(nodes, outside.__contains__)]


@given(graphs(circles=True), st.integers(0, 99))
def test_circles_are_decided_in_one_way_and_nobody_stands_wrongly(
    graph: tuple[dict[RowId, Node], set[RowId]], seed: int
) -> None:
    nodes, outside = graph
    standing = standing_among(nodes, outside.__contains__)
    for one in standing:
        assert nodes[one].alive
        assert not standing.intersection(nodes[one].rivals)
        assert all((standing | outside).intersection(group) for group in nodes[one].parents)
    shuffled = list(nodes.items())
    random.Random(seed).shuffle(shuffled)
    assert standing_among(dict(shuffled), outside.__contains__) == standing


@given(graphs(circles=True))
def test_without_rivals_all_stand_that_can(graph: tuple[dict[RowId, Node], set[RowId]]) -> None:
    """Rows that point at each other hold each other up."""
    nodes = {one: Node(node.rank, node.alive, node.parents) for one, node in graph[0].items()}
    outside = graph[1]
    sets = [set(some) for size in range(len(nodes) + 1) for some in combinations(nodes, size)]
    largest = max((one for one in sets if fits(nodes, one, outside)), key=len)
    assert standing_among(nodes, outside.__contains__) == largest


def test_a_row_does_not_go_for_its_own_descendant() -> None:
    up, down = row(1), row(2)
    nodes = {up: Node(rank(1), True, (), (down,)), down: Node(rank(2), True, ((up,),))}
    assert standing_among(nodes, lambda _: False) == {up}


def test_a_long_chain_needs_no_recursion() -> None:
    """2,000 rows, each against the next: every other one stands."""
    nodes = {row(n): Node(rank(n), True, (), (row(n + 1),) if n < 2_000 else ()) for n in range(1, 2_001)}
    assert standing_among(nodes, lambda _: False) == {row(n) for n in range(2, 2_001, 2)}
