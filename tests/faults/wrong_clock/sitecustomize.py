"""For nodes whose clock jumps: the wall clock of this process is off by what a file says, read anew each time."""

import os
import time

_FILE = os.environ.get("ROWFERRY_TEST_CLOCK_FILE")
_time, _time_ns = time.time, time.time_ns


def _off_seconds() -> int:
    with open(_FILE or "", encoding="ascii") as file:
        return int(file.read() or 0)


if _FILE:
    time.time = lambda: _time() + _off_seconds()
    time.time_ns = lambda: _time_ns() + _off_seconds() * 1_000_000_000
