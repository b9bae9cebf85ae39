"""Shares of keys: no two nodes ever give the same one, whatever they have seen of each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.ports.key_share import KeyShare

BITS = st.integers(31, 63)


@st.composite
def shares(draw: st.DrawFn) -> list[KeyShare]:
    """The shares of all nodes of a small fleet."""
    nodes, bits = draw(st.integers(2, 5)), draw(BITS)
    return [KeyShare(number, nodes, bits) for number in range(1, nodes + 1)]


@given(shares(), st.data())
def test_steps_are_the_nodes_own_and_the_next_one(fleet: list[KeyShare], data: st.DataObject) -> None:
    above = data.draw(st.integers(-10, fleet[0].lower_end))
    found = [share.next_step(above) for share in fleet]
    assert sorted(found) == list(range(max(above, 0) + 1, max(above, 0) + 1 + len(fleet)))
    for share, key in zip(fleet, found, strict=True):
        assert [one.is_step(key) for one in fleet] == [one is share for one in fleet]
        assert share.next_step(key) == key + share.nodes


@given(shares(), st.data())
def test_a_chunk_is_whole_and_one_nodes_own(fleet: list[KeyShare], data: st.DataObject) -> None:
    above = data.draw(st.integers(0, fleet[0].last))
    for share in fleet:
        start = share.next_chunk(above)
        if start is None:
            continue
        last = start + share.chunk - 1
        assert max(above, share.lower_end - 1) < start
        assert last <= share.last < 2**63
        assert start - above <= share.chunk * (share.nodes + 1) or above < share.lower_end
        for key in (start, last):
            assert [one.in_chunk(key) for one in fleet] == [one is share for one in fleet]
        assert (share.room(start), share.room(last)) == (share.chunk, 1)
        assert not share.in_chunk(last + 1)
        assert not share.in_chunk(start - 1)


@given(shares(), st.data())
def test_nodes_that_count_from_the_largest_they_have_seen_never_meet(
    fleet: list[KeyShare], data: st.DataObject
) -> None:
    """Each counts by one from the largest key that stands; now and then one takes all that another has."""
    seen: list[set[int]] = [set() for _ in fleet]
    counted = [0 for _ in fleet]
    given: list[int] = []
    for _ in range(data.draw(st.integers(1, 30))):
        at = data.draw(st.integers(0, len(fleet) - 1))
        if data.draw(st.booleans()):
            seen[at] |= seen[data.draw(st.integers(0, len(fleet) - 1))]
        if not fleet[at].in_chunk(max(counted[at], *seen[at], 0) + 1):
            start = fleet[at].next_chunk(max(counted[at], *seen[at], 0))
            assert start is not None
            counted[at] = start - 1
        counted[at] = max(counted[at], *seen[at], 0) + 1
        seen[at].add(counted[at])
        given.append(counted[at])
    assert len(set(given)) == len(given)


def test_what_the_documentation_says_of_the_sizes() -> None:
    assert KeyShare(1, 64, 53).chunk == 262_144
    assert KeyShare(1, 64, 31).chunk == 512
    assert KeyShare(1, 64, 63).chunk == 4_194_304
    assert KeyShare(1, 64, 53).lower_end == 2**52
