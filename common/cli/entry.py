"""What the `rowferry` script calls: Ctrl-C while the program is still being loaded ends it as quietly as later on."""

import signal
import sys
from types import FrameType

INTERRUPTED = 130
"""What a shell reports for a program that Ctrl-C ended. None of the documented codes: nothing was judged."""

_ENDING = tuple(number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)) is not None)

_terminated: list[int] = []


def main() -> None:
    """Load the program and run it; never returns.

    SIGTERM and SIGHUP end a command in the way of Ctrl-C, so that nothing half done stays behind: a copy of the
    database, a `pg_dump` that goes on. Who waits for the command is told of the signal, as of any program that it
    ended."""
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)
    try:
        # Half a second on a small machine, in which nothing else of ours could answer a signal.
        from common.cli.main import main as program

        program()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        if _terminated:
            signal.raise_signal(_terminated[0])


def _terminate(number: int, _frame: FrameType | None) -> None:
    # A second one ends it on the spot.
    signal.signal(number, signal.SIG_DFL)
    _terminated.append(number)
    raise KeyboardInterrupt
