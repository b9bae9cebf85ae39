"""Every named place to die stands in the code, and a process can be told to die there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.crash_points import VARIABLE, CrashPoint

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("point", CrashPoint)
def test_the_code_reaches_it(point: CrashPoint) -> None:
    paths = (path for part in ("common", "producer", "consumer") for path in (ROOT / part).rglob("*.py"))
    assert any(f"reach(CrashPoint.{point.name})" in path.read_text(encoding="utf-8") for path in paths)


@pytest.mark.parametrize(("which", "code"), [("sealed", -signal.SIGKILL), ("sealed:2", -signal.SIGKILL), ("sent", 0)])
def test_a_process_dies_where_the_variable_says(which: str, code: int) -> None:
    program = (
        "import os; from common.crash_points import CrashPoint, arm_from, reach; arm_from(os.environ);"
        "reach(CrashPoint.SEALED); print('passed', flush=True); reach(CrashPoint.SEALED)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={VARIABLE: which}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert ("passed" in done.stdout) == (which != "sealed")


def test_nothing_is_armed_without_the_variable() -> None:
    program = "import common.crash_points as one; one.arm_from({}); print(one._armed.point)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "None"
