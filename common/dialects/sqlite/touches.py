"""The touch log read back: what each segment changed, net. Pure once the rows are read."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from common.clock import YEAR_2200_US
from common.dialects.sqlite.values import Row, key_text

_LEAVES = ("D", "X", "M")
"""Kinds that say that a row was there and may have gone: before image inside."""
MISSED = "B"
"""Kind of what was found by comparing (see `missed`): key only."""
CHOSEN, CHOSEN_ABSENT = "C", "c"
"""What the kind of a choice begins with (see `choices`), before the JSON list of the versions that it settles: the row
as it was, or the key alone where there was none."""
_SECONDS_A_DAY = 86_400
_JULIAN_EPOCH = 2_440_587.5
NOW = "julianday('now')"
"""When a trigger or a comparison notes something."""
LONG_AGO = str(_JULIAN_EPOCH)
"""The weakest time, for what is no write of anybody: it must not beat what others write."""


class Stretch(NamedTuple):
    """Some entries of a touch log, that follow each other."""

    after: int
    """The seq before its first one."""
    last: int
    """That of its last one; `after` where it has none."""


@dataclass(slots=True)
class Touch:
    """One key within one segment."""

    key: Row
    before: Row | None
    """The row before the segment; None: there was none."""
    last_us: int
    fresh_possible: bool
    """Only updates so far: an `I` would tell that they are of a row that was not there before."""
    missed: bool = False
    """Written while capture was off or did not fit: what the row was before is not known."""
    resolves: str | None = None
    """JSON list of the versions that it settles, if it is a choice."""


@dataclass(slots=True)
class TouchedTable:
    """What one segment did to one table."""

    touches: dict[str, Touch] = field(default_factory=dict)
    """By canonical key, in order of the first touch."""
    unnamed: list[tuple[int, Row]] = field(default_factory=list)
    """When and what: rows with NULL in their key."""

    def add(self, kind: str, at_us: int, row: Row, key: Row) -> None:
        """Take the next entry of the log."""
        if kind == "N":
            self.unnamed.append((at_us, row))
            return
        if None in key:
            return
        text = key_text(key)
        touch = self.touches.get(text)
        resolves = None if len(kind) == 1 else kind[1:]
        if touch is None:
            before = None if kind[0] in "IKBc" else row
            self.touches[text] = Touch(key, before, at_us, kind == "U", kind == MISSED, resolves)
            return
        touch.resolves = resolves or touch.resolves
        # A choice may count from a time to come; what is written on top of it is sealed with it.
        touch.last_us = max(at_us, touch.last_us) if touch.resolves else at_us
        if touch.fresh_possible:
            if kind == "I":
                touch.before, touch.fresh_possible = None, False
            elif kind in _LEAVES:
                touch.fresh_possible = False


def julian(us: int) -> float:
    """Return `us` as the triggers would note it, rounded up to SQLite's milliseconds."""
    return -(-us // 1000) / 1000 / _SECONDS_A_DAY + _JULIAN_EPOCH


def at_us(julian: float | None) -> int:
    """Return microseconds since the epoch for what the triggers noted; SQLite's clock ticks in milliseconds.

    None is what SQLite makes of a clock past the year 9999."""
    if julian is None:
        return YEAR_2200_US
    return round((julian - _JULIAN_EPOCH) * _SECONDS_A_DAY * 1000) * 1000


def split(
    rows: Iterable[tuple[Any, ...]],
    key_places: Sequence[int],
    bounds: Sequence[int],
    last: TouchedTable | None = None,
) -> list[TouchedTable]:
    """Return what each segment touched: one a bound (the last seq that belongs to it), and one for what follows.

    `last`: what is known of that one already."""
    found = [*(TouchedTable() for _ in bounds), TouchedTable() if last is None else last]
    ticks: dict[float | None, int] = {}
    for entry in rows:
        row: Row = entry[3:]
        when = ticks.get(entry[2])
        if when is None:
            when = ticks[entry[2]] = at_us(entry[2])
        segment = found[bisect_left(bounds, entry[0])]
        segment.add(entry[1], when, row, tuple([row[place] for place in key_places]))
    return found
