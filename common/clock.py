"""The clock as a port, and the one written form of an instant."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
YEAR_2200_US = 7_258_118_400_000_000


class Clock(Protocol):
    """Where a component gets the time from; tests give their own."""

    def now_us(self) -> int:
        """Return microseconds since the epoch. May go back."""


class SystemClock:
    """The machine's wall clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1000


def from_us(us: int) -> datetime:
    """Return `us` (microseconds since the epoch) as an instant in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def to_us(instant: datetime) -> int:
    """Return an instant, of whatever zone, as microseconds since the epoch."""
    return (instant - _EPOCH) // timedelta(microseconds=1)


def from_iso(text: str) -> int:
    """Return a date or instant in ISO 8601 as microseconds since the epoch; without a zone it is UTC.

    Raises ValueError."""
    instant = datetime.fromisoformat(text)
    return to_us(instant if instant.tzinfo is not None else instant.replace(tzinfo=UTC))


def to_iso(us: int) -> str:
    """Return `us` (microseconds since the epoch) as `2026-11-23T09:00:00.000000Z`."""
    return from_us(us).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
