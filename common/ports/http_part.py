"""What a part answers over HTTP. The routes are FastAPI's; this module names no web framework, since all import it."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from common.ports.part import Service

NodeT = TypeVar("NodeT", contravariant=True)


@dataclass(frozen=True, slots=True)
class PageLink:
    """An entry of the operations page's menu."""

    title: str
    path: str


@dataclass(frozen=True, slots=True)
class HttpShare:
    """One part's share of `rowferry serve`."""

    routers: Sequence[Any] = ()
    """FastAPI `APIRouter`s. Each route asks for a token by itself (`common.http.callers`)."""
    services: Sequence[Service] = ()
    """Loops that run as long as the node is served, in the order in which they are stopped."""
    pages: Sequence[PageLink] = ()
    """The part's pages, whose routes are among the routers."""
    templates: Path | None = None
    """The folder of their templates."""


@runtime_checkable
class AnswersHttp(Protocol[NodeT]):
    """A part with routes of its own."""

    def http(self, node: NodeT, stop: threading.Event) -> HttpShare:
        """Build routes and the loops behind them; touches nothing yet. `stop` is set when the node stops."""
        ...
