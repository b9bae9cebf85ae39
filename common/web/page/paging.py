"""Lists in pages, the newest first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request

from common.web.page.access import asked_number
from common.web.page.page import url_of

T = TypeVar("T")

SIZE = 50
_FARTHEST = 1_000_000


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a list."""

    items: Sequence[Any]
    newer: str | None
    older: str | None
    """Addresses of the pages beside it; None where there is none."""


def listed(
    request: Request, query: Mapping[str, str | None], read: Callable[[int, int], Sequence[Any]], size: int = SIZE
) -> Listed:
    """Return the page that `request` asks for. `read`: takes how many and how many to skip, gives the newest first."""
    skip = asked_number(request, "skip", _FARTHEST) or 0
    items = read(size + 1, skip)
    path = request.url.path
    older = url_of(path, **query, skip=skip + size) if len(items) > size else None
    newer = url_of(path, **query, skip=max(0, skip - size) or None) if skip else None
    return Listed(items[:size], newer, older)
