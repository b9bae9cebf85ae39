"""When a command that takes what is there has taken enough, though others go on sending."""

import time

LATE_SECONDS = 5.0
"""What was on its way when the command began is there by then."""


class Enough:
    """For one way in."""

    def __init__(self, late_seconds: float = LATE_SECONDS) -> None:
        self._late_seconds = late_seconds
        self._since: float | None = None

    def is_reached(self, *, took_what_stood: bool) -> bool:
        """Tell whether what stood there is taken, and what came within a while after that."""
        if not took_what_stood:
            self._since = None
            return False
        now = time.monotonic()
        if self._since is None:
            self._since = now
        return now - self._since >= self._late_seconds
