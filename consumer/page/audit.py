"""The audit on the page: who did what, and when, the newest first."""

from fastapi import APIRouter, Request, Response

from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.page import PageRoute, page_of
from common.web.page.paging import listed
from common.web.page.words import BY_ITSELF
from consumer.audit import APPLIER
from consumer.audit_reading import Asked, find_lines
from consumer.page.audit_words import ACTIONS, Told, tell
from consumer.statements import reading

PATH = "/page/audit"


def audit_pages(node: Node) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(PATH)
    def audit(request: Request, viewer: SignedIn) -> Response:
        query = {name: asked(request, name) for name in ("action", "actor", "source", "tx")}

        def newest(most: int, skip: int) -> list[Told]:
            by = query["actor"]
            name = APPLIER if by is not None and by.lower() == BY_ITSELF else by
            wanted = Asked(
                query["action"], name=name, source_node=query["source"], tx_id=query["tx"], most=most, skip=skip
            )
            with reading(node.database) as connection:
                return tell(connection, find_lines(connection, wanted)[::-1])

        found = listed(request, query, newest)
        return page_of(request).answer(
            request, viewer, "consumer/audit.html", audit_lines=found.items, page=found, query=query, actions=ACTIONS
        )

    return router
