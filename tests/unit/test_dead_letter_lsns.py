"""The set of LSNs that were applied in pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consumer.dead_letters.lsns import LsnSet

numbers = st.sets(st.integers(1, 40))


@given(numbers, numbers)
def test_it_holds_what_was_put_in_and_nothing_else(first: set[int], then: set[int]) -> None:
    found = LsnSet().with_(first).with_(then)
    assert {lsn for lsn in range(42) if lsn in found} == first | then
    assert len(found) == len(first | then)
    assert LsnSet.parse(found.text()) == found
    assert all(one[1] + 1 < other[0] for one, other in zip(found.ranges, found.ranges[1:], strict=False))


def test_nothing_is_noted_yet() -> None:
    assert LsnSet.parse(None) == LsnSet()
