"""The audit on the page: who did what, and when, the newest first; and what is filtered as a file."""

from collections.abc import Mapping

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from common.clock import from_us
from common.http.problems import ProblemError
from common.http.words import asked_instant
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked, still_admitted
from common.web.page.page import HEADERS, PageRoute, page_of, url_of
from common.web.page.paging import listed
from common.web.page.words import BY_ITSELF
from consumer.audit import APPLIER
from consumer.audit_reading import Asked, find_lines
from consumer.page.audit_file import KINDS, file_name, pieces
from consumer.page.audit_words import ACTIONS, Told, tell
from consumer.statements import reading

PATH = "/page/audit"
_FILTERS = ("action", "actor", "source", "tx", "from", "to")


def audit_pages(node: Node) -> APIRouter:
    """Return the two routes."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(PATH)
    def audit(request: Request, viewer: SignedIn) -> Response:
        query = _query(request)

        def newest(most: int, skip: int) -> list[Told]:
            with reading(node.database) as connection:
                return tell(connection, find_lines(connection, _asked(query, most, skip))[::-1])

        found = listed(request, query, newest)
        return page_of(request).answer(
            request,
            viewer,
            "consumer/audit.html",
            audit_lines=found.items,
            page=found,
            query=query,
            actions=ACTIONS,
            files=[(url_of(f"{PATH}/file", **query, kind=kind), words) for kind, (_, words) in KINDS.items()],
        )

    @router.get(f"{PATH}/file")
    def audit_file(request: Request, viewer: SignedIn) -> Response:
        del viewer
        query, kind = _query(request), asked(request, "kind")
        if kind not in KINDS:
            raise ProblemError(422, f"kind: one of {', '.join(KINDS)}", reason="request")
        saved_as = file_name(node.facts.node_id, query, kind, node.clock.now_us())
        headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{saved_as}"'}
        # Each piece is read in a thread, in a transaction of its own: a file of any size holds up nobody.
        found = still_admitted(request, pieces(node, _asked(query), kind))
        return StreamingResponse(found, headers=headers, media_type=KINDS[kind][0])

    return router


def _query(request: Request) -> dict[str, str | None]:
    """Return what is filtered; instants as the form's fields hold them, in UTC. Raises ProblemError."""
    query = {name: asked(request, name) for name in _FILTERS}
    for name in ("from", "to"):
        us = asked_instant(name, query[name])
        query[name] = None if us is None else from_us(us).replace(tzinfo=None).isoformat(timespec="seconds")
    if query["from"] and query["to"] and query["from"] > query["to"]:
        told = f"from: {query['from']} is after to: {query['to']}: no line is in between"
        raise ProblemError(422, told, reason="request")
    return query


def _asked(query: Mapping[str, str | None], most: int = 0, skip: int = 0) -> Asked:
    """Return the lines that a filter means."""
    by = query["actor"]
    return Asked(
        query["action"],
        name=APPLIER if by is not None and by.lower() == BY_ITSELF else by,
        source_node=query["source"],
        tx_id=query["tx"],
        since_us=asked_instant("from", query["from"]),
        until_us=asked_instant("to", query["to"]),
        most=most,
        skip=skip,
    )
