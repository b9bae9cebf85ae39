"""Medians, their spread, and ratios beside the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tests.bench.results import CatchUp, Latency, Results, Spread
from tests.bench.words import distinct

US = "rowferry"
Value = Callable[[CatchUp], float | None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line of the goals: what was reached, what must be, what is aimed at."""

    what: str
    reached: float | None
    """None where this run did not measure it."""
    must: float
    aim: float
    less_is_better: bool = False

    @property
    def verdict(self) -> str:
        if self.reached is None:
            return "not measured"
        for goal, word in ((self.aim, "aim"), (self.must, "must")):
            if self.reached <= goal if self.less_is_better else self.reached >= goal:
                return word
        return "below"


def spread(runs: Iterable[CatchUp], system: str, load: str, value: Value) -> Spread | None:
    """The median of one figure over all rounds."""
    found = [value(run) for run in runs if (run.system, run.load.name) == (system, load)]
    return Spread.of(one for one in found if one is not None)


def caught(run: CatchUp) -> float | None:
    return run.rows_per_second


def written(run: CatchUp) -> float | None:
    return run.written_per_second


def cpu(runs: Iterable[CatchUp], system: str, load: str) -> dict[str, float]:
    """The median of each role's CPU time a row, in µs."""
    found = [run.cpu_us_per_row for run in runs if (run.system, run.load.name) == (system, load)]
    roles = distinct(role for parts in found for role in parts)
    medians = {role: Spread.of(parts[role] for parts in found) for role in roles}
    return {role: one.median for role, one in medians.items() if one is not None}


def goals(results: Results) -> list[Ratio]:
    """The goals for two cores: ratios within this one run."""
    catch_up, live = results.catch_up, results.live
    lines = []
    for peer, wanted in _AGAINST.items():
        for load, (must, aim) in wanted.items():
            reached = _ratio(spread(catch_up, US, load, caught), spread(catch_up, peer, load, caught))
            lines.append(Ratio(f"catch-up against {peer}, {load}", reached, must, aim))
    for load, (must, aim) in _PAUSED.items():
        reached = _ratio(spread(catch_up, US, load, written), spread(catch_up, "bare", load, written))
        lines.append(Ratio(f"application while captured, workers paused, {load}", reached, must, aim))
    reached = _ratio(spread(live, US, "W3", written), spread(live, "bare", "W3", written))
    lines.append(Ratio("application while captured and replicated, W3", reached, 0.6, 0.7))
    ours = [one for one in results.latency if one.system == US]
    lines.append(Ratio("p50 at 50 tx/s, ms", _median(ours, lambda one: one.p50_ms), 12, 6, less_is_better=True))
    lines.append(Ratio("p99 at 50 tx/s, ms", _median(ours, lambda one: one.p99_ms), 25, 15, less_is_better=True))
    return lines


_AGAINST = {
    "native": {"W1": (0.5, 1.0), "W2": (0.4, 0.6), "W3": (0.7, 1.0)},
    "londiste": {"W1": (2.0, 3.5), "W2": (3.0, 4.0), "W3": (2.5, 3.5)},
}
_PAUSED = {"W1": (0.85, 0.9), "W2": (0.65, 0.75), "W3": (0.85, 0.9)}


def _ratio(ours: Spread | None, theirs: Spread | None) -> float | None:
    return None if ours is None or theirs is None else ours.median / theirs.median


def _median(found: list[Latency], value: Callable[[Latency], float]) -> float | None:
    middle = Spread.of(value(one) for one in found)
    return None if middle is None else middle.median
