"""Small words for tables and pictures."""

from __future__ import annotations

from collections.abc import Iterable


def distinct(found: Iterable[str]) -> list[str]:
    """Each once, in the order of their first appearance."""
    return list(dict.fromkeys(found))
