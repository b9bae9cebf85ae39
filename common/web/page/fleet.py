"""The first page: how this node stands, then each node it knows of, and why it is behind."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from common.clock import to_iso
from common.http.problems import ProblemError
from common.ops.fleet import FleetNode, read_fleet
from common.ops.series import Window, read_series
from common.ops.status import LETTERS_COMMAND, Standing, State
from common.ops.status_reading import read_standing
from common.ports.part import Part
from common.retry import in_transaction
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.graphs import graphs_of
from common.web.page.page import HOME, PageRoute, page_of

_FRESH_SECONDS = 3.0
_LOOK = {State.UP_TO_DATE: "good", State.BEHIND: "warn", State.NEEDS_ATTENTION: "bad"}


@dataclass(frozen=True, slots=True)
class Line:
    """One node as the table shows it."""

    node: FleetNode
    look: str
    heard_at: str | None


def fleet_routes(node: Node, parts: Sequence[Part[Node]]) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    looks = Looks(node, parts)

    @router.get(HOME)
    def fleet(request: Request, viewer: SignedIn) -> Response:
        standing = looks.now()
        nodes = in_transaction(node.database, lambda connection: read_fleet(connection, node.config, standing))
        window = _window(asked(request, "window"))
        series = in_transaction(node.database, lambda connection: read_series(connection, window, node.clock.now_us()))
        lines = [Line(one, _LOOK[one.state], None if one.heard_us is None else to_iso(one.heard_us)) for one in nodes]
        return page_of(request).answer(
            request,
            viewer,
            "common/fleet.html",
            standing=standing,
            look=_LOOK[standing.state],
            lines=lines,
            graphs=graphs_of(series, node.facts.node_id),
            window=window.value,
            windows=[one.value for one in Window],
            # Beside each of these sentences stands a button that does it.
            letters_command=LETTERS_COMMAND,
        )

    return router


def _window(text: str | None) -> Window:
    if text is not None and text not in set(Window):
        raise ProblemError(422, f"window: {text} is none of {', '.join(Window)}", reason="request")
    return Window(text or Window.HOUR)


class Looks:
    """Looks at the node now and then: many pages that look again by themselves cost no more than one. Any thread."""

    def __init__(
        self, node: Node, parts: Sequence[Part[Node]], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._node = node
        self._parts = parts
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._last: tuple[float, Standing] | None = None

    def now(self) -> Standing:
        """Return how the node stands, as `rowferry status` reads it, at most some seconds old. Raises OutageError.

        Whoever comes while somebody looks is given what was seen last: a broker that does not answer holds up one."""
        last = self._last
        # The first has to be waited for.
        if not self._lock.acquire(blocking=last is None) and last is not None:
            return last[1]
        try:
            last = self._last
            if last is None or self._monotonic() - last[0] > _FRESH_SECONDS:
                standing = self._look()
                last = self._last = self._monotonic(), standing
            return last[1]
        finally:
            self._lock.release()

    def _look(self) -> Standing:
        node = self._node
        shares: dict[str, Any] = {}
        for part in self._parts:
            shares |= part.status(node)
        return read_standing(node.database, node.config, node.facts, node.clock.now_us(), shares)
