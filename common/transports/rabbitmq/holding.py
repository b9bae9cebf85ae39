"""Messages that have come and nobody has asked for: in memory up to a bound, bodies beyond it in a temporary file.

AMQP lets a consumer say how many messages it holds, and not how many bytes; what the broker has sent can't be refused.
So the bound is kept here. What lies in the file is not acknowledged: it may be lost with the process."""

import logging
import tempfile
from collections import deque
from dataclasses import dataclass, replace
from typing import IO

from common.ports.source import Delivery

log = logging.getLogger(__name__)

_AT_ONCE_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Aside:
    """Where a body lies in the file."""

    start: int
    size: int


class Holding:
    """A queue of deliveries. Not thread-safe: its owner has a lock."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._waiting: deque[tuple[Delivery, _Aside | None]] = deque()
        self._in_memory = 0
        self._file: IO[bytes] | None = None
        self._file_end = 0
        self._has_failed = False

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def bytes_in_memory(self) -> int:
        """What the bodies in memory take."""
        return self._in_memory

    def add(self, delivery: Delivery) -> None:
        """Take a message in. One whose body can't be written to the file stays in memory, and that is told once."""
        size = len(delivery.body)
        aside = self._put_aside(delivery.body) if self._waiting and self._in_memory + size > self._max_bytes else None
        if aside is None:
            self._in_memory += size
            self._waiting.append((delivery, None))
        else:
            self._waiting.append((replace(delivery, body=b""), aside))

    def take(self, most: int) -> list[Delivery]:
        """Return the oldest, about 32 MiB at a time, at least one where there is one. Raises OSError."""
        found: list[Delivery] = []
        size = 0
        while self._waiting and len(found) < most and (not found or size < _AT_ONCE_BYTES):
            delivery, aside = self._waiting.popleft()
            if aside is None:
                self._in_memory -= len(delivery.body)
            else:
                delivery = replace(delivery, body=self._read(aside))
            size += len(delivery.body)
            found.append(delivery)
        if not self._waiting:
            self.close()
        return found

    def close(self) -> None:
        """Give back the file. May be called again, and used again."""
        file, self._file = self._file, None
        self._file_end = 0
        if file is not None:
            file.close()

    def _put_aside(self, body: bytes) -> _Aside | None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115
            self._file.seek(self._file_end)
            self._file.write(body)
            self._file.flush()
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("messages_not_put_aside", extra={"error": str(error)})
            return None
        found = _Aside(self._file_end, len(body))
        self._file_end += len(body)
        return found

    def _read(self, aside: _Aside) -> bytes:
        if self._file is None:
            raise OSError("the file of messages that were put aside is closed")
        self._file.seek(aside.start)
        body = self._file.read(aside.size)
        if len(body) != aside.size:
            raise OSError("the file of messages that were put aside is too short")
        return body
