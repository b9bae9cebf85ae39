"""Waiting for a socket: `poll` where there is one, for `select` takes no descriptor above 1,023."""

import select


class Readiness:
    """Of one socket, for one round trip."""

    def __init__(self, socket: int) -> None:
        self._socket = socket
        self._poll = select.poll() if hasattr(select, "poll") else None
        self._waits_for = 0

    def wait(self, *, writable: bool = False) -> bool:
        """Wait until there is something to be read, or an error; `writable`: or more can be written. Tell whether
        there is something to be read."""
        if self._poll is None:
            can_read, _, _ = select.select([self._socket], [self._socket] if writable else [], [])
            return bool(can_read)
        waits_for = select.POLLIN | (select.POLLOUT if writable else 0)
        if waits_for != self._waits_for:
            self._poll.register(self._socket, waits_for)
            self._waits_for = waits_for
        return any(event & ~select.POLLOUT for _, event in self._poll.poll())
