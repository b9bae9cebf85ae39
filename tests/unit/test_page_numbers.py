"""One number, one spelling; what is no number is left alone."""

from __future__ import annotations

from typing import Any

import pytest

from common.web.page.numbers import Spellings
from consumer.page.rows import effect_of, side_by_side


@pytest.mark.parametrize(
    ("left", "right", "shown"),
    [
        ("4.9", "4.90", ("4.90", "4.90")),
        ("4.90", "4.9", ("4.90", "4.90")),
        (5, "5.00", ("5.00", "5.00")),
        ("4.9", "4.91", ("4.9", "4.91")),
        ("-0.10", "-.1", ("-0.10", "-0.10")),
        (None, "1", (None, "1")),
        ("NaN", "NaN", ("NaN", "NaN")),
        (True, 1, (True, 1)),
        ({"$text": "MQ=="}, "1", ({"$text": "MQ=="}, "1")),
        ("1" * 40 + ".0", "1" * 40, ("1" * 40 + ".0", "1" * 40 + ".0")),
        ("1e999999999", "1e999999998", ("1e999999999", "1e999999998")),
        ("no", "No", ("no", "No")),
    ],
)
def test_numbers(left: Any, right: Any, shown: tuple[Any, Any]) -> None:
    spellings = Spellings([left, right])
    assert (spellings.of(left), spellings.of(right)) == shown
    (column,) = side_by_side({"price": left}, {"price": right}, ["price"])
    assert (column.left, column.right, column.differs) == (*shown, shown[0] != shown[1])
    (column,) = side_by_side({"price": left}, {"price": right})
    assert (column.left, column.right) == (left, right)


def test_a_replay_that_spells_a_number_otherwise_changes_nothing() -> None:
    row = {"table": "item", "pk": {"id": 1}, "open": True, "effect": "writes"}
    row |= {"now": {"id": 1, "price": "4.9"}, "then": {"id": 1, "price": "4.90"}}
    assert effect_of(row, {"price"}).says == "would be as it is"
    assert effect_of(row).says == "would be changed"
