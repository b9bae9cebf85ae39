"""Waiting in tests: ask until it is so, with a deadline, and say what was waited for when it never came."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")

_FIRST_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.25


def wait_for(
    predicate: Callable[[], Answer],
    timeout_seconds: float,
    what: str,
    longest_pause_seconds: float = _LONGEST_PAUSE_SECONDS,
) -> Answer:
    """Return the first truthy answer of `predicate`; raise TimeoutError naming `what` when there is none in time.

    An exception of the predicate is the test's business and goes through: a predicate that must live through
    refused connections catches them itself and returns False.
    """
    deadline = time.monotonic() + timeout_seconds
    pause = _FIRST_PAUSE_SECONDS
    never = threading.Event()
    while True:
        answer = predicate()
        if answer:
            return answer
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"waited {timeout_seconds:g} s in vain for {what} (last answer: {answer!r})")
        never.wait(min(pause, longest_pause_seconds, left))
        pause = min(pause * 1.5, longest_pause_seconds)
