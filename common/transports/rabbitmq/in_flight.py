"""What was sent and is not yet confirmed. Pure: no broker, no clock, no lock."""

from collections import deque
from typing import NamedTuple


class _Sent(NamedTuple):
    tag: int
    closes: int | None
    size: int


class InFlight:
    """Confirms come in any order; the position moves over the finished prefix alone.

    Tags count from 1 in the order of `add`, as RabbitMQ counts the messages of a channel."""

    def __init__(self) -> None:
        self._sent: deque[_Sent] = deque()
        self._early: set[int] = set()
        self._last_tag = 0
        self.position = 0
        """The highest `closes` up to which everything is confirmed."""
        self.size = 0
        """Bytes of what is not yet in the finished prefix."""

    def __len__(self) -> int:
        return len(self._sent)

    def add(self, closes: int | None, size: int) -> None:
        """Note one message as sent. `closes`: where the position stands once this and all before it is confirmed."""
        self._last_tag += 1
        self._sent.append(_Sent(self._last_tag, closes, size))
        self.size += size

    def confirm(self, tag: int, *, multiple: bool) -> None:
        """Note that the broker has `tag`, with `multiple` everything up to it as well."""
        if not multiple and self._sent and tag > self._sent[0].tag:
            self._early.add(tag)
            return
        while self._sent and (self._sent[0].tag <= tag or self._sent[0].tag in self._early):
            self._finish(self._sent.popleft())

    def _finish(self, sent: _Sent) -> None:
        self._early.discard(sent.tag)
        self.size -= sent.size
        if sent.closes is not None:
            self.position = max(self.position, sent.closes)
