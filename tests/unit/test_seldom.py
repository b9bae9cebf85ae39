"""What others can cause as often as they like is told once a minute, with how much was left out."""

from __future__ import annotations

import logging

import pytest

from common.seldom import TELL_SECONDS, Seldom


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_once_a_minute_with_how_many_were_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    seldom = Seldom(logging.getLogger("test"), clock)
    for _ in range(5):
        seldom.warn("refused", "a", source_node="a")
    seldom.warn("refused", "b", source_node="b")
    clock.now += TELL_SECONDS
    seldom.warn("refused", "a", source_node="a")
    seldom.warn("refused", "b", source_node="b")
    told = [(vars(one)["source_node"], vars(one).get("left_out_before")) for one in caplog.records]
    assert told == [("a", None), ("b", None), ("a", 4), ("b", None)]


def test_made_up_names_fill_neither_the_log_nor_the_memory(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    seldom = Seldom(logging.getLogger("test"), clock)
    for number in range(10_000):
        seldom.warn("refused", f"n{number}", source_node=f"n{number}")
    assert len(caplog.records) <= 101
    assert len(seldom._told) <= 101
    caplog.clear()
    clock.now += TELL_SECONDS
    seldom.warn("refused", "real", source_node="real")
    # Whoever comes after that is told of again.
    assert [vars(one)["source_node"] for one in caplog.records] == ["real"]
