"""What processes cost: CPU time and memory, and how they are stopped and continued."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from tests.support.waiting import wait_for

Roles = Mapping[str, tuple[int, ...]]
"""Process ids by what they do."""


@dataclass(frozen=True, slots=True)
class Workers:
    """The processes of one replicating system."""

    paused: tuple[int, ...]
    """All that must stand still while a workload is written."""
    roles: Roles
    """Trees of processes whose CPU counts."""
    own: tuple[int, ...] = ()
    """Processes whose memory is the system's own, and not PostgreSQL's shared buffers."""

    def pause(self) -> None:
        """They stand still when this returns."""
        _signal(self.paused, signal.SIGSTOP)
        for process in map(psutil.Process, self.paused):
            wait_for(partial(_stands_still, process), 10, f"process {process.pid} to stand still")

    def resume(self) -> None:
        _signal(self.paused, signal.SIGCONT)


def _stands_still(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


def cpu_seconds(roles: Roles) -> dict[str, float]:
    """CPU time so far of each role's processes, of those that they started, and of those that have ended since."""
    return {role: sum(_tree_seconds(pid) for pid in pids) for role, pids in roles.items()}


def _tree_seconds(pid: int) -> float:
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                # A child that was waited for stands in its parent's second pair.
                total += times.user + times.system + times.children_user + times.children_system
    return total


def peak_mib(pids: Iterable[int]) -> float:
    """The most memory that these processes ever held, added up."""
    return sum(_high_water_kib(pid) for pid in pids) / 1024


def _high_water_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0
