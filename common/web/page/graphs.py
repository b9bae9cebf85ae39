"""The samples as graphs: lines in a box of fixed size, and the same in words for who does not see them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from common.clock import from_us
from common.ops.series import Series, Window
from common.web.page.words import age

WIDTH, HEIGHT = 600, 160
_SPANS = {Window.HOUR: "a minute", Window.DAY: "ten minutes", Window.WEEK: "an hour"}
"""What a point of a rate is the mean of: over a longer span the highest one is lower."""
_ROOM = 6
"""Above the highest value and below zero, so that no line is cut in half."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `runs`: its stretches without a gap, each as points of a polyline."""

    title: str
    look: str
    """`first` or `second`: how it is drawn."""
    runs: tuple[str, ...]
    latest: str
    """As of `as_of`: that is not what stands now."""
    highest: str


@dataclass(frozen=True, slots=True)
class Graph:
    """One graph, whole."""

    name: str
    title: str
    lines: tuple[Line, ...]
    highest: str
    """What the top of the box stands for."""
    begins: str
    ends: str
    as_of: str
    """When the last sample was taken; empty where there is none."""
    is_exact: bool
    """A point is one sample, and not the highest or the mean of several."""

    @property
    def words(self) -> str:
        """What the lines show, in a sentence."""
        told = "; ".join(f"{line.title}: {line.latest}{self.at}, at most {line.highest}" for line in self.lines)
        return f"{self.title} from {self.begins} to {self.ends}. {told}."

    @property
    def at(self) -> str:
        """When that was, as it follows a value."""
        return f" {'at' if self.is_exact else 'in the time up to'} {self.as_of}" if self.as_of else ""


def graphs_of(series: Series, node: str) -> list[Graph]:
    """Return the graphs of throughput, of lag, and of what needs a person, on `node`."""
    per_second = {
        "sealed_changes_a_second": f"written on {node}",
        "applied_changes_a_second": "applied from other nodes",
    }
    waiting = {
        "unpublished_seconds": "oldest change not sent yet",
        "unapplied_seconds": "oldest change not applied yet",
    }
    stuck = {"dead_letters": "dead letters", "waiting_conflicts": "conflicts that wait"}
    return [
        _graph("throughput", f"Throughput of {node}: changes a second", series, per_second, "{:,.1f}"),
        _graph("lag", f"Lag of {node}: how long the oldest change waits", series, waiting, None),
        _graph("stuck", f"What needs a person on {node}", series, stuck, "{:,.0f}"),
    ]


def _graph(name: str, title: str, series: Series, wanted: dict[str, str], form: str | None) -> Graph:
    values = {one: series.values[one] for one in wanted}
    top = max((value for line in values.values() for value in line if value is not None), default=0.0)
    over = "" if form is None or name != "throughput" else f" a second over {_SPANS[series.window]}"
    lines = tuple(
        _line(wanted[one], look, values[one], top or 1.0, form, over)
        for one, look in zip(wanted, ("first", "second"), strict=True)
    )
    return Graph(
        name=name,
        title=title,
        lines=lines,
        highest=_spelled(top, form),
        begins=_moment(series.begins_us[0], series.window),
        ends=_moment(series.ends_us, series.window),
        as_of="" if series.sampled_us is None else _moment(series.sampled_us, series.window),
        is_exact=series.window is Window.HOUR,
    )


def _line(title: str, look: str, values: Sequence[float | None], top: float, form: str | None, over: str) -> Line:
    known = [value for value in values if value is not None]
    return Line(
        title=title,
        look=look,
        runs=tuple(_runs(values, top)),
        latest=_spelled(known[-1], form) if known else "not known",
        highest=_spelled(max(known), form) + over if known else "not known",
    )


def _runs(values: Sequence[float | None], top: float) -> list[str]:
    step = WIDTH / max(1, len(values) - 1)
    room = HEIGHT - 2 * _ROOM
    places = [
        None if value is None else (step * number, HEIGHT - _ROOM - room * value / top)
        for number, value in enumerate(values)
    ]
    runs = [list(run) for is_gap, run in groupby(places, key=lambda place: place is None) if not is_gap]
    # A point alone is no line: it is drawn as a short one.
    return [_points(run if len(run) > 1 else [*run, *((x + step / 2, y) for x, y in _known(run))]) for run in runs]


def _known(run: Sequence[tuple[float, float] | None]) -> list[tuple[float, float]]:
    return [place for place in run if place is not None]


def _points(run: Sequence[tuple[float, float] | None]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in _known(run))


def _spelled(value: float, form: str | None) -> str:
    return age(value) if form is None else form.format(value)


def _moment(us: int, window: Window) -> str:
    """Return an instant as finely as the window needs it, in UTC, as the page's head says."""
    form = "%H:%M" if window is Window.HOUR else "%d %b %H:%M"
    return from_us(us).strftime(form)
