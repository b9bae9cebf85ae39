"""Graphs as points: gaps stay gaps, nothing leaves the box, and the words say what the lines show."""

from __future__ import annotations

import pytest

from common.ops.series import LEVELS, RATES, Series, Window
from common.web.page.graphs import HEIGHT, WIDTH, graphs_of
from common.web.page.words import age, cell, clock_words, is_cut, key, moment


def series(window: Window = Window.HOUR, **values: tuple[float | None, ...]) -> Series:
    none: tuple[float | None, ...] = (None,) * 5
    filled = dict.fromkeys((*LEVELS, *RATES), none) | values
    begins = tuple(1_800_000_000_000_000 + number * 60_000_000 for number in range(5))
    sampled_us = begins[-1] + 1_000_000 if values else None
    return Series(window, 60, begins, begins[-1] + 20_000_000, sampled_us, filled)


def points(run: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (one.split(",") for one in run.split())]


def test_without_samples_there_is_an_empty_box() -> None:
    for graph in graphs_of(series(), "main"):
        assert all(line.runs == () for line in graph.lines)
        assert ": not known, at most not known" in graph.words
        assert graph.at == ""


def test_a_gap_is_no_line() -> None:
    throughput = graphs_of(series(sealed_changes_a_second=(1.0, 2.0, None, 4.0, 2.0)), "main")[0]
    first = throughput.lines[0]
    assert len(first.runs) == 2
    assert points(first.runs[0])[1] == (150.0, 80.0)
    assert "written on main: 2.0 at 08:04, at most 4.0 a second over a minute" in throughput.words


def test_a_value_says_when_it_was_so() -> None:
    """The table beside it tells how it is now, which may be something else."""
    hour, week = (
        graphs_of(series(window, dead_letters=(1.0,) * 5), "main")[2] for window in (Window.HOUR, Window.WEEK)
    )
    assert "dead letters: 1 at 08:04" in hour.words
    assert "dead letters: 1 in the time up to 15 Jan 08:04" in week.words


@pytest.mark.parametrize("top", [0.0, 1e-9, 1.0, 1e15])
def test_every_point_is_in_the_box(top: float) -> None:
    lag = graphs_of(
        series(unpublished_seconds=(0.0, top, None, top, None), unapplied_seconds=(None, top, 0.0, 0, 0)), "main"
    )
    for graph in lag:
        for line in graph.lines:
            for run in line.runs:
                found = points(run)
                assert len(found) >= 2, "a point alone would not be seen"
                assert all(0 <= x <= WIDTH * 1.2 and 0 <= y <= HEIGHT for x, y in found)


def test_lag_is_told_as_an_age() -> None:
    lag = graphs_of(series(unpublished_seconds=(0.0, 780.0, 0.0, 0.0, 1.0)), "main")[1]
    assert (lag.highest, lag.lines[0].latest, lag.lines[0].highest) == ("13 min", "1 s", "13 min")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (-3, "0 s"), (59.9, "59 s"), (60, "1 min"), (3_600, "1 h"), (172_800, "2 d")],
)
def test_ages(seconds: float | None, text: str) -> None:
    assert age(seconds) == text


def test_values() -> None:
    assert (cell(None), cell("a"), cell(1.5), cell({"a": [1]})) == ("null", "a", "1.5", '{"a": [1]}')
    assert (cell("x" * 300), is_cut("x" * 300), is_cut("x" * 200)) == ("x" * 200 + "…", True, False)
    assert (key({"id": 7}), key({"a": 1, "b": 2}), key("raw")) == ("7", '{"a": 1, "b": 2}', "raw")
    assert (clock_words(0.4), clock_words(-90), clock_words(7_200)) == ("right", "1 min behind", "2 h ahead")
    assert (moment(None), moment("2026-11-23T09:00:01.5Z")) == ("–", "2026-11-23 09:00:01 UTC")
