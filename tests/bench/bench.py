"""A whole run: every system on every workload, in turn, several times over."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.bench.catch_up import Trial, WrongRowsError
from tests.bench.latency import Trickle
from tests.bench.pair import Hosts, Pair
from tests.bench.report import one_line
from tests.bench.results import Load, Results
from tests.bench.sqlite import FileItems
from tests.bench.systems.port import System
from tests.bench.workloads import Workload


@dataclass(slots=True)
class Bench:
    """Two servers, the systems to compare, and where results go."""

    hosts: Hosts
    folder: Path
    systems: Sequence[System]
    results: Results
    _pairs: int = field(default=0)
    _turn: int = field(default=-1)

    def prepare(self, workloads: Sequence[Workload]) -> None:
        """Make the databases that each measurement copies."""
        for workload in {one.template: one for one in workloads}.values():
            for host in dict.fromkeys((self.hosts.source, self.hosts.target)):
                workload.prepare(host)

    def catch_up(self, workload: Workload) -> None:
        for system in self._in_turn():
            with self._trial(system, workload) as trial:
                self.results.catch_up.append(trial.catch_up())
                say(one_line(self.results.catch_up[-1]))

    def files(self, workload: FileItems) -> None:
        """SQLite to SQLite, beside SQLite alone."""
        for system in ("bare", "rowferry"):
            self._pairs += 1
            with self._noting_wrong_rows():
                trial = workload.trial(system, self.folder / f"pair-{self._pairs}")
                self.results.catch_up.append(trial.catch_up())
                say(one_line(self.results.catch_up[-1]))

    def live(self, workload: Workload) -> None:
        for system in self._in_turn():
            with self._trial(system, workload) as trial:
                self.results.live.append(trial.live())
                say(f"live: {one_line(self.results.live[-1])}")

    def latency(self, workload: Workload, trickle: Trickle) -> None:
        for system in self._in_turn():
            if system.name != "bare":
                with self._pair(workload) as pair:
                    self.results.latency.append(trickle.measure(system, pair))
                    say(self.results.latency[-1])

    def _in_turn(self) -> Sequence[System]:
        """Begin with another one each time: whoever comes first may find the machine in another state."""
        self._turn += 1
        first = self._turn % len(self.systems)
        return [*self.systems[first:], *self.systems[:first]]

    @contextmanager
    def _pair(self, workload: Workload) -> Iterator[Pair]:
        self._pairs += 1
        with self.hosts.pair(workload.template, workload.tables, self.folder / f"pair-{self._pairs}") as pair:
            yield pair

    @contextmanager
    def _trial(self, system: System, workload: Workload) -> Iterator[Trial]:
        with self._pair(workload) as pair:
            load, write = Load(workload.name, workload.rows), partial(workload.write, pair.source)
            with self._noting_wrong_rows():
                yield Trial(system.name, load, pair, system.replicating(pair), write)

    @contextmanager
    def _noting_wrong_rows(self) -> Iterator[None]:
        """Wrong rows fail the run in its end, when the others have been measured too."""
        try:
            yield
        except WrongRowsError as error:
            self.results.wrong.append(str(error))
            say(error)


def say(what: object) -> None:
    print(what, file=sys.stderr, flush=True)
