"""One measurement: the workload is written while the workers stand still; then they catch up, or while they work."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from tests.bench.processes import Workers, cpu_seconds, peak_mib
from tests.bench.results import CatchUp, Load

_WARM, _LAST = 1, 2
_WARM_SECONDS, _CATCH_UP_SECONDS = 120, 900


class WrongRowsError(AssertionError):
    """The target does not hold what the source holds."""


class Ends(Protocol):
    """Source and target of one measurement."""

    def settle(self) -> None:
        """See that what came before costs nothing from now on."""

    def between_writes(self) -> AbstractContextManager[None]:
        """Meanwhile no worker is in the middle of a write that keeps the application waiting."""

    def mark(self, number: int) -> None:
        """Write the row by which the end of what was written before it is known."""

    def wait_for_mark(self, number: int, timeout_seconds: float) -> None:
        """Wait until the target has it."""

    def differences(self) -> list[str]:
        """Compare all rows; name the tables that differ."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One system, one load, one fresh pair of databases."""

    system: str
    load: Load
    ends: Ends
    replicating: AbstractContextManager[Workers]
    write: Callable[[], None]

    def catch_up(self) -> CatchUp:
        """Write, catch up, compare all rows. Raises WrongRowsError."""
        with self.replicating as workers:
            self._warm(workers)
            with self.ends.between_writes():
                workers.pause()
            try:
                write_seconds = self._written()
                self.ends.mark(_LAST)
            finally:
                before, started = cpu_seconds(workers.roles), time.perf_counter()
                workers.resume()
            if not workers.roles:
                return CatchUp(self.system, self.load, write_seconds, None)
            self.ends.wait_for_mark(_LAST, _CATCH_UP_SECONDS)
            seconds = time.perf_counter() - started
            return self._ended(workers, write_seconds, seconds, before)

    def live(self) -> CatchUp:
        """The same with the workers at work all the time."""
        with self.replicating as workers:
            self._warm(workers)
            before, started = cpu_seconds(workers.roles), time.perf_counter()
            write_seconds = self._written()
            if not workers.roles:
                return CatchUp(self.system, self.load, write_seconds, None)
            self.ends.mark(_LAST)
            self.ends.wait_for_mark(_LAST, _CATCH_UP_SECONDS)
            seconds = time.perf_counter() - started
            return self._ended(workers, write_seconds, seconds, before)

    def _warm(self, workers: Workers) -> None:
        """One change has gone all the way: everything is connected, planned and loaded."""
        if workers.roles:
            self.ends.mark(_WARM)
            self.ends.wait_for_mark(_WARM, _WARM_SECONDS)
        self.ends.settle()

    def _written(self) -> float:
        started = time.perf_counter()
        self.write()
        return time.perf_counter() - started

    def _ended(self, workers: Workers, write_seconds: float, seconds: float, before: dict[str, float]) -> CatchUp:
        after = cpu_seconds(workers.roles)
        cost = {role: (after[role] - before[role]) * 1e6 / self.load.rows for role in before}
        if differences := self.ends.differences():
            raise WrongRowsError(f"{self.system}, {self.load.name}: {'; '.join(differences)}")
        return CatchUp(self.system, self.load, write_seconds, seconds, cost, peak_mib(workers.own))
