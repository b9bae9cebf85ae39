"""What services that look now and then have in common: when the next look is due, and a wait that can be ended."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable


class Periodic(ABC):
    """A `Service` but for its name. It looks when it is time, and between two looks it holds nothing.

    Belongs to one thread, but for `wake`."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`monotonic`: seconds that only rise; tests give their own."""
        self._monotonic = monotonic
        self._due_at: float | None = None
        self._wake = threading.Event()

    @abstractmethod
    def look(self) -> bool:
        """Look, and say with `look_again_in` when to look next; True when there was work to do.

        The next step looks again where nothing was said: also after an error."""

    def look_again_in(self, seconds: float) -> None:
        """Let the next look come so many seconds from now."""
        self._due_at = self._monotonic() + seconds

    def step(self, idle_seconds: float) -> bool:
        """Look when it is time; else wait for that, at most `idle_seconds`. Raises what the look raises."""
        self._wake.clear()
        left_seconds = 0.0 if self._due_at is None else self._due_at - self._monotonic()
        if left_seconds > 0:
            self._wake.wait(min(idle_seconds, left_seconds))
            return False
        return self.look()

    def wake(self) -> None:
        """End the wait of a running `step`. Any thread."""
        self._wake.set()

    def close(self) -> None:  # noqa: B027 - who holds nothing has nothing to give back
        """Nothing is held between two steps."""
