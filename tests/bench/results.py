"""What was measured."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Load:
    """The name of a workload and how many row changes it makes."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class CatchUp:
    """A workload written by the application and carried to the target."""

    system: str
    load: Load
    write_seconds: float
    """What the application needed."""
    seconds: float | None
    """From the moment the workers went on until the target had the last row; None where nothing replicates."""
    cpu_us_per_row: dict[str, float] = field(default_factory=dict)
    """During these seconds, by role."""
    peak_mib: float = 0.0
    """The most memory that the system's own processes held."""

    @property
    def written_per_second(self) -> float:
        return self.load.rows / self.write_seconds

    @property
    def rows_per_second(self) -> float | None:
        return None if self.seconds is None else self.load.rows / self.seconds


@dataclass(frozen=True, slots=True)
class Latency:
    """From the write at the source until it can be seen at the target, under a steady trickle."""

    system: str
    txs_per_second: int
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Results:
    """All of one run of the benchmark, in the order measured."""

    conditions: dict[str, str]
    catch_up: list[CatchUp] = field(default_factory=list)
    live: list[CatchUp] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """What ended with rows that differ."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and what lies around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread | None:
        found = sorted(values)
        return cls(statistics.median(found), found[0], found[-1]) if found else None
