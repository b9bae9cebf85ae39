"""Every named place to die is met by a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.runtime.crash_points import CrashPoint

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("point", CrashPoint)
def test_a_test_lets_the_process_die_there(point: CrashPoint) -> None:
    texts = (path.read_text(encoding="utf-8") for path in TESTS.rglob("test_*.py") if path != Path(__file__))
    assert any(f"CrashPoint.{point.name}" in text for text in texts)
