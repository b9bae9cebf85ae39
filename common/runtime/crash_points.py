"""Named places where a test lets the process die. Nothing is armed outside tests: `reach` costs one comparison."""

import os
import signal
from dataclasses import dataclass
from enum import StrEnum


class CrashPoint(StrEnum):
    """Every place, by the step that comes next."""

    PART_STORED = "part-stored"
    """A part is committed, its delivery not acknowledged."""
    ATTEMPT_BEGUN = "attempt-begun"
    """The attempt is committed, the tx not decoded."""
    ROWS_WRITTEN = "rows-written"
    """Rows are written, the bookkeeping is not, nothing is committed."""
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    """Committed, not acknowledged."""
    LETTER_COPIED = "letter-copied"
    """The broker has its copy of a dead letter, the table doesn't know."""
    REPLAYED = "replayed"
    """A dead letter is applied and closed, the broker's copy still lies there."""


@dataclass
class _Armed:
    point: CrashPoint | None = None
    passes_left: int = 0


_armed = _Armed()


def arm(point: CrashPoint, *, after_passes: int = 0) -> None:
    """Let this process die by SIGKILL when it reaches `point` once more than `after_passes` times. Tests only."""
    _armed.point, _armed.passes_left = point, after_passes


def reach(point: CrashPoint) -> None:
    """Die here, if a test wants that."""
    if _armed.point is not point:
        return
    if _armed.passes_left > 0:
        _armed.passes_left -= 1
        return
    os.kill(os.getpid(), signal.SIGKILL)
