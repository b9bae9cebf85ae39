"""One node's page: by which road it is reached, what has come from it and what has gone to it, and what is wrong."""

import sqlalchemy as sa
from fastapi import APIRouter, Request, Response

from common.clock import to_iso
from common.http.problems import ProblemError
from common.ops.fleet import read_fleet
from common.ops.node_ways import NodeWays, read_ways
from common.ops.series import Window, read_series
from common.retry import in_transaction
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.fleet import LOOK, asked_window
from common.web.page.graphs import graphs_of
from common.web.page.looks import Looks
from common.web.page.page import NODES, PageRoute, page_of


def node_routes(node: Node, looks: Looks) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(f"{NODES}/one")
    def one_node(request: Request, viewer: SignedIn) -> Response:
        name, window = asked(request, "id"), asked_window(request)
        standing = looks.now()

        def look(connection: sa.Connection) -> NodeWays | None:
            found = [one for one in read_fleet(connection, node.config, standing) if one.name == name]
            return read_ways(connection, node.config, standing, found[0]) if found else None

        ways = in_transaction(node.database, look)
        if ways is None:
            raise ProblemError(404, f"{name or 'no name'}: no node of this name counts here; retired ones do not")
        graphs = []
        if ways.node.is_self:
            series = in_transaction(
                node.database, lambda connection: read_series(connection, window, node.clock.now_us())
            )
            graphs = graphs_of(series, node.facts.node_id)
        return page_of(request).answer(
            request,
            viewer,
            "common/node.html",
            ways=ways,
            one=ways.node,
            look=LOOK[ways.node.state],
            at={name: None if us is None else to_iso(us) for name, us in _instants(ways).items()},
            standing=standing,
            graphs=graphs,
            window=window.value,
            windows=[one.value for one in Window],
        )

    return router


def _instants(ways: NodeWays) -> dict[str, int | None]:
    """Return what the template shows as instants: microseconds since the epoch."""
    return {
        "heard": ways.node.heard_us,
        "spoke": ways.spoke_us,
        "first": ways.first_seen_us,
        "done": None if ways.way_in is None else ways.way_in.done_us,
        "taken": ways.way_out.taken_us,
    }
