"""Lists that are cut tell that they are."""

from typing import TypeVar

from common.console import Console

T = TypeVar("T")


def newest(console: Console, found: list[T], limit: int, what: str, options: str) -> list[T]:
    """Return the last `limit` of `found`, which holds one more where there are more; that is told.

    `what`: they are. `options`: how the others are had."""
    if len(found) <= limit:
        return found
    console.warn(f"older {what} are left out: these are the newest {limit}; use {options} to see them")
    return found[-limit:]
