"""`/audit`: who did what, and when. The function is that of `rowferry audit`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query

from common.http.callers import Caller, caller_with
from common.http.problems import guarded
from common.http.scopes import Scope
from common.http.words import Limit, Since, Until, Word, asked_instant, check_span
from common.runtime.node import Node
from consumer.audit_reading import Asked, find_lines
from consumer.statements import reading

_LONGEST_SECONDS = 100 * 366 * 86_400


def audit_routes(node: Node) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["audit"])

    @router.get("/audit", summary="Tell who did what, and when, oldest first", responses=guarded(422))
    def audit(
        caller: Annotated[Caller, Depends(caller_with(Scope.OPS))],
        action: Word = None,
        actor: Word = None,
        source: Word = None,
        tx_id: Word = None,
        since_seconds: Annotated[
            float | None, Query(ge=0, le=_LONGEST_SECONDS, description="Not longer ago than that.")
        ] = None,
        since: Since = None,
        until: Until = None,
        limit: Limit = 1_000,
    ) -> list[dict[str, Any]]:
        """As `rowferry audit --json`."""
        del caller
        aged_us = None if since_seconds is None else node.clock.now_us() - int(since_seconds * 1_000_000)
        begins = [one for one in (aged_us, asked_instant("since", since)) if one is not None]
        since_us, until_us = max(begins, default=None), asked_instant("until", until)
        check_span("since", since_us, "until", until_us)
        with reading(node.database) as connection:
            return find_lines(connection, Asked(action, actor, source, tx_id, since_us, until_us, limit))

    return router
