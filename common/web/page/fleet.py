"""The first page: how this node stands, then each node it knows of, and why it is behind."""

from dataclasses import dataclass

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response

from common.clock import to_iso
from common.http.problems import ProblemError
from common.ops.fleet import FleetNode, read_fleet
from common.ops.sending import is_running
from common.ops.series import Window, read_series
from common.ops.status import State
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.web.page.access import SignedIn, asked
from common.web.page.graphs import graphs_of
from common.web.page.looks import Looks
from common.web.page.page import CONFLICTS, HOME, LETTERS, PageRoute, page_of, url_of

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
        letters_url, conflicts_url = in_transaction(node.database, _where_to_look)
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
            letters_url=letters_url,
            conflicts_url=conflicts_url,
        )

    return router


def _where_to_look(connection: sa.Connection) -> tuple[str, str]:
    """Return the addresses of the dead letters and of the conflicts that wait; of the only one, where there is one."""
    letter, met = rf.dead_letter.c, rf.conflict.c
    is_open = letter.state.in_(rf.OPEN_DEAD_LETTERS)
    letters = connection.execute(sa.select(letter.source_node, letter.tx_id).where(is_open).limit(2)).all()
    conflicts = connection.execute(sa.select(met.id).where(met.state == "waiting").limit(2)).all()
    return (
        url_of(f"{LETTERS}/one", source=letters[0].source_node, tx=letters[0].tx_id) if len(letters) == 1 else LETTERS,
        url_of(f"{CONFLICTS}/one", id=conflicts[0].id) if len(conflicts) == 1 else CONFLICTS,
    )


def asked_window(request: Request) -> Window:
    """Return how far back the graphs are to go; an hour unless it is said. Raises ProblemError."""
    text = asked(request, "window")
    if text is not None and text not in set(Window):
        raise ProblemError(422, f"window: {text} is none of {', '.join(Window)}", reason="request")
    return Window(text or Window.HOUR)
