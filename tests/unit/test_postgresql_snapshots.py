"""Which transactions ended between two snapshots."""

from __future__ import annotations

import pytest

from common.dialects.postgresql.snapshots import Snapshot, ended_between, is_quiet_since


@pytest.mark.parametrize(
    ("before", "now", "ended"),
    [
        ("5:5:", "5:5:", []),
        ("5:5:", "6:6:", [(5, 6)]),
        ("5:8:5,7", "5:8:5", [(7, 8)]),
        ("5:8:5", "8:10:8", [(5, 6), (9, 10)]),
        ("5:5:", "5:9:5,7", [(6, 7), (8, 9)]),
        # One that still runs is in no range, however many began after it.
        ("5:6:5", "5:20:5", [(6, 20)]),
    ],
)
def test_what_ended(before: str, now: str, ended: list[tuple[int, int]]) -> None:
    assert ended_between(Snapshot.parse(before), Snapshot.parse(now)) == ended


@pytest.mark.parametrize(
    ("before", "now", "quiet"),
    [
        ("5:5:", "5:5:", True),
        # Its own alone, with one that has begun beside it.
        ("5:5:", "6:6:", True),
        ("5:5:", "6:7:6", True),
        ("5:6:5", "6:6:", True),
        # Somebody else's, beside its own or in its place.
        ("5:5:", "7:7:", False),
        ("4:5:4", "6:6:", False),
        ("4:6:4", "6:6:", False),
        # Numbers that went backwards are another server's.
        ("9:9:", "5:5:", False),
        ("9:9:", "6:6:", False),
    ],
)
def test_nothing_but_its_own_ended(before: str, now: str, quiet: bool) -> None:
    assert is_quiet_since(Snapshot.parse(before), Snapshot.parse(now), 5) is quiet
