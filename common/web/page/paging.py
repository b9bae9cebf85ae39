"""Lists in pages, the newest first; and the way back to the page of one from what is on it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request

from common.web.page.access import asked_number
from common.web.page.page import url_of

T = TypeVar("T")

SIZE = 50
_FARTHEST = 1_000_000
_LONGEST_BACK = 2_000
_LONGEST_WORD = 200


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a list."""

    items: Sequence[Any]
    newer: str | None
    older: str | None
    """Addresses of the pages beside it; None where there is none."""
    back: str
    """What leads back to this page from those of its items: see `kept`."""


def listed(
    request: Request, query: Mapping[str, str | None], read: Callable[[int, int], Sequence[Any]], size: int = SIZE
) -> Listed:
    """Return the page that `request` asks for. `read`: takes how many and how many to skip, gives the newest first."""
    skip = asked_number(request, "skip", _FARTHEST) or 0
    items = read(size + 1, skip)
    path = request.url.path
    older = url_of(path, **query, skip=skip + size) if len(items) > size else None
    newer = url_of(path, **query, skip=max(0, skip - size) or None) if skip else None
    return Listed(items[:size], newer, older, back_of({**query, "skip": skip or None}))


def kept(given: str | None, names: Collection[str]) -> dict[str, str]:
    """Return the filter of the list that somebody came from. `given`: as `Listed.back` has it; `names`: what the list
    is filtered by. Nothing else of it is taken: it stands in an address, which anybody may have made."""
    if given is None or len(given) > _LONGEST_BACK:
        return {}
    known = {*names, "skip"}
    return {name: value for name, value in parse_qsl(given) if name in known and len(value) <= _LONGEST_WORD}


def came_from(request: Request, names: Collection[str]) -> dict[str, str]:
    """Return the filter of the list that a page was reached from."""
    return kept(request.query_params.get("back"), names)


def back_of(filters: Mapping[str, Any]) -> str:
    """Return a filter as `kept` takes it, for links and forms of the page."""
    return url_of("", **filters).removeprefix("?")


def way_back(request: Request, path: str, names: Collection[str]) -> dict[str, Any]:
    """Return what a page shows of the list at `path` that it was reached from: where it is, and its filter for links
    and forms."""
    filters = came_from(request, names)
    return {"list_url": url_of(path, **filters), "back": back_of(filters)}
