"""What was handed to a sink and is not confirmed yet: how much it is, and what the confirmed prefix lets go."""

from collections import deque

from common.ports.sink import Envelope


class InFlight:
    """Sizes of unconfirmed envelopes in log order. Belongs to one thread."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int]] = deque()
        self._open_size = 0
        self.size = 0
        """Bytes handed over and not confirmed, parts of unfinished large txs included."""

    def add(self, envelope: Envelope) -> None:
        """Count an envelope that `send` has taken. Parts count together: they are confirmed with the last one."""
        self.size += len(envelope.body)
        self._open_size += len(envelope.body)
        if envelope.closes_lsn is not None:
            self._waiting.append((envelope.closes_lsn, self._open_size))
            self._open_size = 0

    def confirm(self, lsn: int) -> None:
        """Let go of everything up to `lsn`."""
        while self._waiting and self._waiting[0][0] <= lsn:
            self.size -= self._waiting.popleft()[1]

    def __bool__(self) -> bool:
        return self.size > 0
