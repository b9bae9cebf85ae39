"""The pictures for docs/PERFORMANCE.md. Needs matplotlib: the extra `bench`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.results import CatchUp, Results
from tests.bench.summary import Value, caught, cpu, spread, written
from tests.bench.words import distinct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INCHES = (8.0, 3.6)


def draw(results: Results, folder: Path) -> list[Path]:
    """Draw all pictures as SVG. Raises ImportError without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "rowferry"
    pictures: dict[str, Callable[[Axes], None]] = {
        "catch-up": lambda axes: _bars(axes, results.catch_up, caught, "catching up, 1,000 rows/s"),
        "application": lambda axes: _bars(axes, results.catch_up, written, "application, workers paused, 1,000 rows/s"),
        "cpu": lambda axes: _stacks(axes, results.catch_up),
    }
    return [_drawn(folder / f"{name}.svg", picture) for name, picture in pictures.items()]


def _drawn(path: Path, picture: Callable[[Axes], None]) -> Path:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    picture(figure.subplots())
    figure.savefig(path, metadata={"Date": None})
    return path


def _bars(axes: Axes, runs: Sequence[CatchUp], value: Value, title: str) -> None:
    """A group of bars for each load, a bar for each system; the line is the range over all rounds."""
    loads = distinct(run.load.name for run in runs)
    systems = [
        name for name in distinct(run.system for run in runs) if any(spread(runs, name, load, value) for load in loads)
    ]
    width = 0.8 / max(1, len(systems))
    for number, system in enumerate(systems):
        found = [(place, spread(runs, system, load, value)) for place, load in enumerate(loads)]
        known = [(place + number * width, one) for place, one in found if one is not None]
        axes.bar(
            [place for place, _ in known],
            [one.median / 1000 for _, one in known],
            width,
            label=system,
            yerr=[
                [(one.median - one.low) / 1000 for _, one in known],
                [(one.high - one.median) / 1000 for _, one in known],
            ],
        )
    axes.set_xticks([place + 0.4 - width / 2 for place in range(len(loads))], loads)
    axes.set_title(title)
    axes.legend()


def _stacks(axes: Axes, runs: Sequence[CatchUp]) -> None:
    """A bar for each system and load, cut by who used the CPU."""
    pairs = [
        (load, system)
        for load in distinct(run.load.name for run in runs)
        for system in distinct(run.system for run in runs)
    ]
    found = [(f"{load} {system}", parts) for load, system in pairs if (parts := cpu(runs, system, load))]
    left = [0.0] * len(found)
    for role in distinct(role for _, parts in found for role in parts):
        width = [parts.get(role, 0.0) for _, parts in found]
        axes.barh([name for name, _ in found], width, left=left, label=role)
        left = [before + more for before, more in zip(left, width, strict=True)]
    axes.invert_yaxis()
    axes.set_title("CPU while catching up, µs a row")
    axes.legend()
