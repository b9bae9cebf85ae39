"""The confirmed prefix: confirms in any order move the position over what is finished, and never further."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.transports.rabbitmq.in_flight import InFlight


def test_a_confirm_before_its_turn_waits_for_those_before_it() -> None:
    in_flight = InFlight()
    for number in (1, 2, 3):
        in_flight.add(number * 10, 100)
    in_flight.confirm(3, multiple=False)
    in_flight.confirm(2, multiple=False)
    assert (in_flight.position, len(in_flight), in_flight.size) == (0, 3, 300)
    in_flight.confirm(1, multiple=False)
    assert (in_flight.position, len(in_flight), in_flight.size) == (30, 0, 0)


def test_parts_move_the_position_with_their_last() -> None:
    in_flight = InFlight()
    for closes in (5, None, None, 9):
        in_flight.add(closes, 1)
    in_flight.confirm(3, multiple=True)
    assert in_flight.position == 5
    in_flight.confirm(4, multiple=False)
    assert in_flight.position == 9


def test_a_multiple_takes_along_single_ones_that_came_before() -> None:
    in_flight = InFlight()
    for number in range(1, 6):
        in_flight.add(number, 1)
    in_flight.confirm(4, multiple=False)
    in_flight.confirm(3, multiple=True)
    assert (in_flight.position, len(in_flight)) == (4, 1)


@given(st.data())
def test_position_is_that_of_the_finished_prefix_in_any_order(data: st.DataObject) -> None:
    closes = data.draw(st.lists(st.sampled_from([None, 1]), min_size=1, max_size=30))
    numbered = [None if one is None else number for number, one in enumerate(closes, start=1)]
    in_flight = InFlight()
    for position in numbered:
        in_flight.add(position, 1)
    finished: set[int] = set()
    confirms = data.draw(st.permutations(range(1, len(numbered) + 1)))
    for tag in confirms:
        multiple = data.draw(st.booleans())
        finished |= set(range(1, tag + 1)) if multiple else {tag}
        in_flight.confirm(tag, multiple=multiple)
        prefix = next(n for n in range(len(numbered) + 1) if n + 1 not in finished)
        assert in_flight.position == max((one for one in numbered[:prefix] if one), default=0)
        assert len(in_flight) == in_flight.size == len(numbered) - prefix
