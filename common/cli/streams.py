"""Standard streams that this process was not given, as under `>&-`."""

import errno
import io
import os
import sys
from typing import Any, NoReturn


class _Closed(io.RawIOBase):
    """Refuses what is written, as the system does for a descriptor that is closed."""

    def writable(self) -> bool:
        return True

    def write(self, _: Any) -> NoReturn:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


class ClosedStdout(io.TextIOWrapper):
    """Stands for a stdout that is closed: a result that can't be written is an error, as for any other program."""

    def __init__(self) -> None:
        # Nothing may wait in a buffer: Python would try once more at its end, and say so.
        super().__init__(_Closed(), encoding="utf-8", write_through=True)  # type: ignore[arg-type]


def fill_closed_streams() -> None:
    """Give the process the standard streams that it lacks.

    Else the next file or socket that is opened gets their number, and Python's own are None: a result would be lost
    without a word, or end in an error about None. Reading finds the end; what is written to stderr goes nowhere."""
    lacking = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    for _ in lacking:
        # The lowest free number: one of those that are missing.
        os.open(os.devnull, os.O_RDWR)
    if "stdin" in lacking:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    if "stdout" in lacking:
        sys.stdout = ClosedStdout()
    if "stderr" in lacking:
        sys.stderr = io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8")


def forgive_closed_stdout() -> None:
    """Let what is said on a closed stdout go nowhere: who starts a service so doesn't wait for a result."""
    if isinstance(sys.stdout, ClosedStdout):
        sys.stdout = io.TextIOWrapper(io.FileIO(os.devnull, "w"), encoding="utf-8")
