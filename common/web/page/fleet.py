"""The first page: how this node stands, then each node it knows of, and why it is behind."""

from dataclasses import dataclass

from fastapi import APIRouter, Request, Response

from common.clock import to_iso
from common.http.problems import ProblemError
from common.ops.fleet import FleetNode, read_fleet
from common.ops.sending import is_running
from common.ops.series import Window, read_series
from common.ops.status import LETTERS_COMMAND, State
from common.retry import in_transaction
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.graphs import graphs_of
from common.web.page.looks import Looks
from common.web.page.page import HOME, PageRoute, page_of

LOOK = {State.UP_TO_DATE: "good", State.BEHIND: "warn", State.NEEDS_ATTENTION: "bad"}


@dataclass(frozen=True, slots=True)
class Line:
    """One node as the table shows it."""

    node: FleetNode
    look: str
    heard_at: str | None


def fleet_routes(node: Node, looks: Looks) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(HOME)
    def fleet(request: Request, viewer: SignedIn) -> Response:
        standing = looks.now()
        nodes = in_transaction(node.database, lambda connection: read_fleet(connection, node.config, standing))
        window, now_us = asked_window(request), node.clock.now_us()
        runs = in_transaction(node.database, lambda connection: is_running(connection, now_us))
        series = in_transaction(node.database, lambda connection: read_series(connection, window, now_us))
        lines = [Line(one, LOOK[one.state], None if one.heard_us is None else to_iso(one.heard_us)) for one in nodes]
        return page_of(request).answer(
            request,
            viewer,
            "common/fleet.html",
            standing=standing,
            look=LOOK[standing.state],
            lines=lines,
            graphs=graphs_of(series, node.facts.node_id),
            window=window.value,
            windows=[one.value for one in Window],
            is_running=runs,
            # Beside each of these sentences stands a button that does it.
            letters_command=LETTERS_COMMAND,
        )

    return router


def asked_window(request: Request) -> Window:
    """Return how far back the graphs are to go; an hour unless it is said. Raises ProblemError."""
    text = asked(request, "window")
    if text is not None and text not in set(Window):
        raise ProblemError(422, f"window: {text} is none of {', '.join(Window)}", reason="request")
    return Window(text or Window.HOUR)
