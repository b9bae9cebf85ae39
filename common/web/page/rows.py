"""One row's whole history, as `rowferry why` tells it."""

from collections.abc import Sequence
from functools import partial

from fastapi import APIRouter, Request, Response

from common.errors import UsageError
from common.ops.row_history import named, tell
from common.ops.row_words import document
from common.ports.part import KnowsRows, Part
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.page import ROWS, PageRoute, page_of
from common.web.page.steps import steps_of

_MOST_LINES = 200


def row_routes(node: Node, parts: Sequence[Part[Node]]) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    tellers = [partial(part.row_events, node) for part in parts if isinstance(part, KnowsRows)]

    @router.get(ROWS)
    def rows(request: Request, viewer: SignedIn) -> Response:
        table, key = asked(request, "table"), asked(request, "key")
        tables = node.captured_tables()
        story, error = None, ""
        if table is not None and key is not None:
            try:
                story = tell(node.database, node.facts, named(tables, table), key, tellers)
            except UsageError as refused:
                # What was typed stays in the form, with what is wrong with it.
                error = str(refused)
        steps, left_out = ([], 0) if story is None else steps_of(story, _MOST_LINES)
        return page_of(request).answer(
            request,
            viewer,
            "common/rows.html",
            status=422 if error else 200,
            tables=sorted(tables),
            table=table,
            key=key,
            error=error,
            story=None if story is None else document(story),
            steps=steps,
            left_out=left_out,
        )

    return router
