"""Ids: UUIDv7 for transactions, random incarnations, the form of node ids."""

import os
import re
import uuid

NODE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_INCARNATION = re.compile(r"[0-9a-f]{32}")

_RAND_BITS = 74
_RAND_MAX = (1 << _RAND_BITS) - 1
_LOW_BITS = (1 << 62) - 1
_NODE_BITS = (1 << 48) - 1
"""Those behind the last hyphen."""


def new_incarnation() -> str:
    """Return a random incarnation id (32 hex digits)."""
    return uuid.uuid4().hex


def is_incarnation(text: str) -> bool:
    """Tell whether `text` is one that `new_incarnation` may have returned."""
    return _INCARNATION.fullmatch(text) is not None


def is_tx_id(text: str) -> bool:
    """Tell whether `text` is a UUID of version 7 in its canonical lower-case form."""
    try:
        parsed = uuid.UUID(text)
    except (ValueError, AttributeError):
        return False
    return parsed.version == 7 and parsed.variant == uuid.RFC_4122 and str(parsed) == text


def tx_id_us(tx_id: str) -> int:
    """Return when a tx id was given by its node's clock, in microseconds since the epoch; to the millisecond."""
    return int(tx_id.replace("-", "")[:12], 16) * 1_000


def least_tx_id(us: int) -> str:
    """Return the least tx id that could have been given at `us`, in microseconds since the epoch."""
    return str(uuid.UUID(int=_compose(us // 1_000, 0)))


class TxIds:
    """Gives tx ids (UUIDv7, RFC 9562) that rise strictly, also past a restart or a clock that went back.

    `after` is the last tx id of this incarnation, or None. One object belongs to one sealer; not thread-safe.
    """

    def __init__(self, after: str | None = None) -> None:
        self._last = uuid.UUID(after).int if after else 0

    def next(self, now_us: int) -> str:
        """Return the next tx id. `now_us`: microseconds since the epoch."""
        return self.take(1, now_us)[0]

    def take(self, count: int, now_us: int) -> list[str]:
        """Return the next `count` tx ids, at least one: the first is random, the others count on from it (RFC 9562,
        6.2, method 2)."""
        value = _compose(now_us // 1000, int.from_bytes(os.urandom(10), "big") & _RAND_MAX)
        if value <= self._last:
            value = _successor(self._last)
        found = [_text(value)]
        while len(found) < count:
            # All that differ in their last 48 bits alone are written at once: a backlog takes thousands of ids.
            begins, low = found[-1][:24], value & _NODE_BITS
            most = min(count - len(found), _NODE_BITS - low)
            found += [f"{begins}{number:012x}" for number in range(low + 1, low + 1 + most)]
            value += most
            if len(found) < count:
                value = _successor(value)
                found.append(_text(value))
        self._last = value
        return found


def _text(value: int) -> str:
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _compose(ms: int, rand: int) -> int:
    rand_a, rand_b = rand >> 62, rand & ((1 << 62) - 1)
    return (ms & ((1 << 48) - 1)) << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b


def _successor(value: int) -> int:
    if value & _LOW_BITS != _LOW_BITS:
        return value + 1
    ms = value >> 80
    rand = ((value >> 64) & 0xFFF) << 62 | value & ((1 << 62) - 1)
    return _compose(ms, rand + 1) if rand < _RAND_MAX else _compose(ms + 1, 0)
