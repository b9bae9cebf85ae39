"""One row's whole history, as `rowferry why` tells it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request, Response

from common.clock import to_iso
from common.errors import UsageError
from common.ops.row_history import RowStory, named, tell
from common.ops.row_words import document, more, whose
from common.ports.part import KnowsRows, Part
from common.ports.row_history import RowEvent
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.page import ROWS, PageRoute, page_of

_MOST_EVENTS = 200
_LOOK = {
    "applied": "good",
    "published": "good",
    "resolved": "good",
    "replayed": "good",
    "chosen": "good",
    "lost": "warn",
    "waits": "bad",
    "dead-letter": "bad",
    "stepped-back": "bad",
}
_SAYS = {
    "captured": "written by the application",
    "sealed": "sealed into the log",
    "published": "sent to the others",
    "received": "came in",
    "applied": "applied here",
    "lost": "lost against another write",
    "met": "met another write",
    "waits": "met another write, and waits for a choice",
    "chosen": "somebody chose",
    "resolved": "a conflict was settled",
    "dead-letter": "could not be applied: a dead letter",
    "replayed": "replayed from the dead letters",
    "discarded": "discarded from the dead letters",
    "stepped-back": "stepped back",
    "left-out": "not all was looked into",
}


@dataclass(frozen=True, slots=True)
class Step:
    """One event as the page shows it."""

    event: RowEvent
    says: str
    look: str
    at: str | None
    whose: str
    more: str


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
            steps=[] if story is None else _steps(story),
            left_out=0 if story is None else max(0, len(story.events) - _MOST_EVENTS),
        )

    return router


def _steps(story: RowStory) -> list[Step]:
    """Return the latest events, the newest first: what happened last is what a person asks about."""
    return [
        Step(
            event=one,
            says=_says(one),
            look="warn" if _is_unsent(one) else _LOOK.get(one.event, ""),
            at=None if one.at_us is None else to_iso(one.at_us),
            whose=whose(one),
            more=more(one),
        )
        for one in story.events[-_MOST_EVENTS:][::-1]
    ]


def _says(one: RowEvent) -> str:
    return "not sent yet" if _is_unsent(one) else _SAYS.get(one.event, one.event)


def _is_unsent(one: RowEvent) -> bool:
    """Whether a change waits for a road, and not for a choice."""
    return one.event == "waits" and "conflict" not in one.detail
