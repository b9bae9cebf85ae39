"""Named places where a test lets the process die: between any two steps that touch a disk or a network.

Nothing is armed outside tests: `reach` costs one comparison, and stands where a batch, a group or a file passes, never
where a row does. A process of its own is armed by a variable, `ROWFERRY_TEST_DIE_AT=sealed:3`."""

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

VARIABLE = "ROWFERRY_TEST_DIE_AT"


class CrashPoint(StrEnum):
    """Every place, by what was done last or comes next."""

    SEALING = "sealing"
    """LSNs and versions are written, nothing is committed."""
    SEALED = "sealed"
    """Committed, no relay has been woken."""
    SENT = "sent"
    """A sink has taken a message or a part, nothing is known of it yet."""
    PUBLISHED = "published"
    """Messages are handed to the broker's socket, none is confirmed."""
    CONFIRMED = "confirmed"
    """The other side has something for good, the cursor doesn't know."""
    CURSOR_MOVED = "cursor-moved"
    FILE_WRITTEN = "file-written"
    """A file is whole under its temporary name, and maybe not on the disk."""
    FILE_SYNCED = "file-synced"
    """It is on the disk, under its temporary name."""
    FILE_NAMED = "file-named"
    """It has its name, its folder may not be on the disk, the temporary name still stands."""
    FALLBACK_BEGUN = "fallback-begun"
    """It is noted that files are written in the broker's place; none is."""
    HEARTBEAT_SENT = "heartbeat-sent"
    GAP_ASKED = "gap-asked"
    """The broker has a request, its author has not noted it."""
    ANSWER_SENT = "answer-sent"
    """The asker's queue has the answer, the request still stands."""
    ANSWER_NOTED = "answer-noted"
    RECEIVED = "received"
    """Deliveries are in hand, nothing is done with them."""
    SAYING_STORED = "saying-stored"
    """What a node said beside batches is committed, its delivery not acknowledged."""
    PART_STORED = "part-stored"
    """A part is committed, its delivery not acknowledged."""
    ATTEMPT_BEGUN = "attempt-begun"
    """The attempt is committed, the tx not decoded."""
    ROWS_WRITTEN = "rows-written"
    """Rows are written, the bookkeeping is not, nothing is committed."""
    BEFORE_COMMIT = "before-commit"
    AFTER_COMMIT = "after-commit"
    """Committed, not acknowledged."""
    ACKNOWLEDGED = "acknowledged"
    """The acknowledgement is handed over, and maybe not on its way."""
    LETTER_COPIED = "letter-copied"
    """The broker has its copy of a dead letter, the table doesn't know."""
    LETTER_NOTED = "letter-noted"
    REPLAYED = "replayed"
    """A dead letter is applied and closed, the broker's copy still lies there."""
    COPY_REMOVED = "copy-removed"
    """The broker's copy is taken off, the table doesn't know."""
    CHOICE_WRITTEN = "choice-written"
    """A conflict's row is chosen, nothing is committed."""
    PURGING = "purging"
    """A piece of what is old is deleted, nothing is committed."""
    PURGED = "purged"


@dataclass
class _Armed:
    point: CrashPoint | None = None
    passes_left: int = 0


_armed = _Armed()


def arm(point: CrashPoint, *, after_passes: int = 0) -> None:
    """Let this process die by SIGKILL when it reaches `point` once more than `after_passes` times. Tests only."""
    _armed.point, _armed.passes_left = point, after_passes


def arm_from(environ: Mapping[str, str]) -> None:
    """Arm what `ROWFERRY_TEST_DIE_AT` names: a point, and after a colon at which time it is reached (1). Tests only."""
    point, _, which = environ.get(VARIABLE, "").partition(":")
    if point:
        arm(CrashPoint(point), after_passes=int(which or 1) - 1)


def reach(point: CrashPoint) -> None:
    """Die here, if a test wants that."""
    if _armed.point is not point:
        return
    if _armed.passes_left > 0:
        _armed.passes_left -= 1
        return
    os.kill(os.getpid(), signal.SIGKILL)
