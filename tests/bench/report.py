"""The results as a page of Markdown tables and as one JSON document."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence

from tests.bench.results import CatchUp, Latency, Results, Spread
from tests.bench.summary import Value, caught, cpu, goals, spread, written
from tests.bench.words import distinct


def as_json(results: Results) -> str:
    """All single measurements, and the ratios made of them."""
    document = {**dataclasses.asdict(results), "ratios": [dataclasses.asdict(one) for one in goals(results)]}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def as_markdown(results: Results) -> str:
    """What a person wants to see of them."""
    return "\n".join(_lines(results)) + "\n"


def _lines(results: Results) -> Iterator[str]:
    if results.wrong:
        yield "**Wrong rows:**"
        yield from (f"- {one}" for one in results.wrong)
        yield ""
    yield from _table(["this run", ""], results.conditions.items())
    yield from _table(
        ["ratio or ms", "reached", "must", "aim", ""],
        ([one.what, _number(one.reached), f"{one.must:g}", f"{one.aim:g}", one.verdict] for one in goals(results)),
    )
    yield from _figures("catch-up, 1,000 rows/s", results.catch_up, caught)
    yield from _figures("application, workers paused, 1,000 rows/s", results.catch_up, written)
    yield from _figures("application, replicated at once, 1,000 rows/s", results.live, written)
    yield from _latency(results.latency)
    yield from _cpu(results.catch_up)


def one_line(run: CatchUp) -> str:
    """One measurement for those who wait."""
    done = "" if run.rows_per_second is None else f", carried {run.rows_per_second / 1000:.1f}"
    return f"{run.load.name} {run.system}: 1,000 rows/s written {run.written_per_second / 1000:.1f}{done}"


def _figures(title: str, runs: Sequence[CatchUp], value: Value) -> Iterator[str]:
    """A line for each system, a column for each load, median and range."""
    loads, systems = distinct(run.load.name for run in runs), distinct(run.system for run in runs)
    found = {system: [spread(runs, system, load, value) for load in loads] for system in systems}
    rows = ([system, *(_range(one) for one in line)] for system, line in found.items() if any(line))
    if runs:
        yield from _table([title, *loads], rows)


def _latency(found: Sequence[Latency]) -> Iterator[str]:
    rows = []
    for system in distinct(one.system for one in found):
        ours = [one for one in found if one.system == system]
        spreads = Spread.of(one.p50_ms for one in ours), Spread.of(one.p99_ms for one in ours)
        rows.append([system, *(f"{one.median:.1f} ({one.low:.1f}–{one.high:.1f})" for one in spreads if one)])
    if rows:
        yield from _table(["latency at 50 tx/s, ms", "p50", "p99"], rows)


def _cpu(runs: Sequence[CatchUp]) -> Iterator[str]:
    rows = []
    for system in distinct(run.system for run in runs):
        for load in distinct(run.load.name for run in runs):
            parts = cpu(runs, system, load)
            text = " · ".join(f"{role} {part:.1f}" for role, part in parts.items())
            peaks = [run.peak_mib for run in runs if (run.system, run.load.name) == (system, load)]
            peak = max(peaks, default=0.0)
            if parts:
                rows.append([system, load, f"{sum(parts.values()):.0f}", text, f"{peak:.0f}" if peak else "–"])
    if rows:
        yield from _table(["CPU while catching up, µs a row", "load", "all", "of which", "peak MiB of its own"], rows)


def _range(one: Spread | None) -> str:
    return "–" if one is None else f"{one.median / 1000:.1f} ({one.low / 1000:.1f}–{one.high / 1000:.1f})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""
