"""tx ids rise, hybrid clocks never go back, and nobody may write in another's name."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clock import YEAR_2200_US, to_iso
from common.errors import PoisonError, Reason
from common.ids import TxIds, is_tx_id
from common.versions import NEVER, Version, check_settled, check_version, next_hlc

micros = st.integers(0, YEAR_2200_US - 1)


@given(st.lists(micros, min_size=2, max_size=50))
def test_tx_ids_rise_whatever_the_clock_does(clock: list[int]) -> None:
    ids = TxIds()
    given_out = [ids.next(now) for now in clock]
    assert given_out == sorted(set(given_out))
    assert all(is_tx_id(one) for one in given_out)


def test_tx_ids_go_on_above_the_last_one_of_before_a_restart() -> None:
    last = TxIds().next(2_000_000_000_000_000)
    assert TxIds(after=last).next(1_000_000) > last


def test_the_successor_of_the_greatest_random_part_is_still_a_tx_id() -> None:
    greatest = "0192f000-0000-7fff-bfff-ffffffffffff"
    following = TxIds(after=greatest).next(0)
    assert following == "0192f000-0001-7000-8000-000000000000"


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 400])
@pytest.mark.parametrize("ends", ["8000-000000000000", "9234-fffffffffffe", "bfff-fffffffffffd", "bfff-ffffffffffff"])
def test_many_at_once_are_those_that_come_one_by_one(ends: str, steps: int) -> None:
    last = f"0192f000-0000-7fff-{ends}"
    one_by_one = TxIds(after=last)
    many = TxIds(after=last)
    expected = [one_by_one.next(0) for _ in range(steps + 1)]
    assert many.take(steps + 1, 0) == expected
    assert many.next(0) == one_by_one.next(0)
    assert all(map(is_tx_id, expected))


@pytest.mark.parametrize(
    "text", ["", "x", "0192F000-0000-7000-8000-000000000001", "0192f000-0000-4000-8000-000000000001"]
)
def test_other_uuids_are_no_tx_ids(text: str) -> None:
    assert not is_tx_id(text)


@given(micros, micros)
def test_a_write_after_seeing_another_beats_it(now: int, seen: int) -> None:
    assert next_hlc(now, seen) > seen
    assert next_hlc(now, seen) >= now


@given(micros)
def test_instants_come_back(us: int) -> None:
    assert datetime.fromisoformat(to_iso(us)) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


@pytest.mark.parametrize(
    ("version", "base", "from_main"),
    [
        (Version(0, 5, "b"), NEVER, False),
        (Version(0, -1, "a"), NEVER, False),
        (Version(0, YEAR_2200_US, "a"), NEVER, False),
        (Version(1, 5, "a"), NEVER, False),
        (Version(2, 5, "a"), NEVER, True),
        (Version(0, 5, "a"), Version(1, 4, "c"), True),
        (Version(0, 5, "a"), Version(0, 5, "c"), False),
        (Version(2**63, 5, "a"), Version(2**63, 4, "c"), False),
        (Version(2**31, 5, "a"), Version(2**31, 4, "c"), False),
        (Version(-1, 5, "a"), Version(-1, 4, "c"), False),
        (Version(0, 5, "a"), Version(0, -4, "c"), False),
        (Version(0, 5, "a"), Version(0, 4, "c\0"), False),
        (Version(0, 5, "a"), Version(0, 4, ""), False),
        (Version(0, 5, "a"), Version(-1, 4, "c"), True),
    ],
)
def test_a_version_that_its_source_may_not_give_is_poison(version: Version, base: Version, from_main: bool) -> None:
    with pytest.raises(PoisonError) as caught:
        check_version(version, base, "a", from_main=from_main)
    assert caught.value.reason is Reason.VERSION


@pytest.mark.parametrize(
    "settled",
    [(-1, 5, "c"), (0, -1, "c"), (0, YEAR_2200_US, "c"), (0, 5, "c \0"), (0, 5, ""), (-9, -(10**30), "b"), (0, 9, "a")],
)
def test_a_choice_settles_nothing_but_versions_below_it(settled: tuple[int, int, str]) -> None:
    good = Version(0, 8, "c")
    check_settled([good, NEVER], Version(0, 9, "a"))
    with pytest.raises(PoisonError) as caught:
        check_settled([good, Version(*settled)], Version(0, 9, "a"))
    assert caught.value.reason is Reason.VERSION


def test_versions_that_follow_their_base_pass() -> None:
    check_version(Version(0, 5, "a"), Version(0, 4, "z"), "a", from_main=False)
    check_version(Version(1, 5, "a"), Version(0, 4, "z"), "a", from_main=True)


def test_a_write_on_top_of_nothing_may_be_of_the_first_moment_there_is() -> None:
    check_version(Version(0, 0, "a"), NEVER, "a", from_main=False)
    with pytest.raises(PoisonError):
        check_version(Version(0, 0, "b"), Version(0, 0, "a"), "b", from_main=False)
