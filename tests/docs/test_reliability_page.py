"""docs/RELIABILITY.md has a line for each fault, each point and each safeguard that the code has."""

from __future__ import annotations

from pathlib import Path

from common.crash_points import CrashPoint
from tests.faults.faults import FAULTS
from tests.mutants.catalogue import SAFEGUARDS

PAGE = Path(__file__).parents[2] / "docs" / "RELIABILITY.md"


def test_every_fault_point_and_safeguard_has_a_line() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = {line.split("|")[1].strip(" `") for line in lines if line.startswith("| ")}
    names = [*(one.name for one in FAULTS), *CrashPoint, *SAFEGUARDS]
    assert [name for name in names if name not in rows] == [], "run `make faults`"
