"""SIGTERM, Ctrl-C and a terminal that closes: the first one asks for a clean stop, the second one leaves at once."""

import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = tuple(
    number
    for name in ("SIGTERM", "SIGINT", "SIGBREAK", "SIGHUP")
    if (number := getattr(signal, name, None)) is not None
)
_SHELL_OFFSET = 128
"""What a shell adds to the number of the signal that ended a program."""


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` at the first signal; at the second end the process on the spot. Main thread only.

    Leaving on the spot is safe: nothing here counts before it is durable. A terminal that closes says nothing to a
    process that was started to outlive it (`nohup`). The old handlers come back at the end."""
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
    seen: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        if len(seen) > 1:
            os._exit(_SHELL_OFFSET + number)
        asked.put(True)

    def watch() -> None:
        if asked.get():
            stop.set()

    # A handler interrupts the main thread anywhere, also while that holds the event's lock: setting the event there
    # could wait for itself. A SimpleQueue may be filled from a handler; another thread sets the event.
    watcher = threading.Thread(target=watch, name="rowferry-signals", daemon=True)
    watcher.start()
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS if not _outlives_its_terminal(number)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        asked.put(False)
        watcher.join()


def _outlives_its_terminal(number: int) -> bool:
    return signal.Signals(number).name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN
