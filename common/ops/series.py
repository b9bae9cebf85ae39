"""The samples as series, to be drawn: the last hour, day or week in at most some 170 points."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from typing import Any, assert_never

import sqlalchemy as sa

from common.ops.counting import Totals
from common.ops.samples import MINUTE_US, Gauges
from common.schema import tables as rf

AGES = {"unpublished_age_us": "unpublished_seconds", "unapplied_age_us": "unapplied_seconds"}
LEVELS = tuple(AGES.get(name, name) for name in Gauges.__slots__)
"""The worst of each step."""
RATES = tuple(f"{name}_a_second" for name in Totals.__slots__)


class Window(StrEnum):
    """How far back."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"

    @property
    def minutes(self) -> int:
        """How long it is."""
        match self:
            case Window.HOUR:
                return 60
            case Window.DAY:
                return 24 * 60
            case Window.WEEK:
                return 7 * 24 * 60
            case _:
                assert_never(self)

    @property
    def step_minutes(self) -> int:
        """How much of it one point stands for."""
        match self:
            case Window.HOUR:
                return 1
            case Window.DAY:
                return 10
            case Window.WEEK:
                return 60
            case _:
                assert_never(self)


@dataclass(frozen=True, slots=True)
class Series:
    """Values by step. Each of `values` is as long as `begins_us`; None where no sample was taken."""

    window: Window
    step_seconds: int
    begins_us: tuple[int, ...]
    """When each step begins, microseconds since the epoch."""
    ends_us: int
    """The last step goes on until now."""
    sampled_us: int | None
    """When the last sample in it was taken; None where there is none."""
    values: dict[str, tuple[float | None, ...]]
    """`RATES`: what was done a second, over the step. `LEVELS`: the worst in the step."""


def read_series(connection: sa.Connection, window: Window, now_us: int) -> Series:
    """Return the series that end now."""
    step = window.step_minutes
    last = now_us // MINUTE_US // step
    first = last - window.minutes // step + 1
    # One step more: the first rate counts from there.
    found = connection.execute(_steps(step), {"first": (first - 1) * step, "last": now_us // MINUTE_US}).all()
    by_step = {row.step: row for row in found}
    rates = {after.step: (before, after) for before, after in pairwise(found)}
    steps = range(first, last + 1)
    values: dict[str, tuple[float | None, ...]] = {}
    for column, name in zip(Totals.__slots__, RATES, strict=True):
        values[name] = tuple(_rate(rates.get(one), column) for one in steps)
    for column, name in zip(Gauges.__slots__, LEVELS, strict=True):
        scale = 1_000_000 if column in AGES else 1
        values[name] = tuple(_level(by_step.get(one), column, scale) for one in steps)
    sampled_us = max((row.at_us for row in found if row.step in steps), default=None)
    return Series(window, step * 60, tuple(one * step * MINUTE_US for one in steps), now_us, sampled_us, values)


@cache
def _steps(step: int) -> sa.Select[Any]:
    """Return the query for the samples by step: of each value the highest, which of a total is the last.

    What a clock that was ahead for a while wrote is left out: it is older than what stands at an earlier minute."""
    table = rf.metric.c
    latest = sa.func.max(table.seq).over(order_by=table.minute).label("latest")
    window = table.minute.between(sa.bindparam("first"), sa.bindparam("last"))
    samples = sa.select(*(column for column in table if column.name != "marks"), latest).where(window).subquery()
    names = ("at_us", *Totals.__slots__, *Gauges.__slots__)
    by = (samples.c.minute // sa.literal_column(str(step))).label("step")
    query = sa.select(by, *(sa.func.max(samples.c[name]).label(name) for name in names))
    return query.where(samples.c.seq == samples.c.latest).group_by(by).order_by(by)


def _rate(ends: tuple[Any, Any] | None, column: str) -> float | None:
    """Return what was done a second since the last sample before this step, however long that is ago."""
    if ends is None or ends[1].at_us <= ends[0].at_us:
        return None
    before, after = (int(getattr(row, column)) for row in ends)
    elapsed_us: int = ends[1].at_us - ends[0].at_us
    return max(0, after - before) * 1_000_000 / elapsed_us


def _level(row: Any | None, column: str, scale: int) -> float | None:
    value: int | None = None if row is None else getattr(row, column)
    return None if value is None else value / scale
