"""`/healthz`: the process lives. `/readyz`: the node can do its work now, and how old the oldest is that waits."""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import sqlalchemy as sa
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from common.errors import RowferryError
from common.http.problems import problems
from common.ports.part import Part
from common.runtime.node import Node
from common.web.fresh import Fresh
from common.web.metrics import is_local
from common.web.progress import Waits, read_waits

log = logging.getLogger(__name__)
DATABASE_AWAY = "the database can't be used: the node's log tells more"
_STALLED = "work waits and does not move: `rowferry status` on the node tells which"


class Health(BaseModel):
    """That the process answers."""

    status: str = Field(description="Always ok.")


class Readiness(BaseModel):
    """Whether the node can do its work."""

    ready: bool
    reason: str | None = Field(description="Why not.")
    oldest_unpublished_seconds: float | None = Field(description="Age of the oldest change that no sink has taken yet.")
    oldest_unapplied_seconds: float | None = Field(description="Age of the oldest batch that came and waits.")


def probes(node: Node, parts: Sequence[Part[Node]]) -> APIRouter:
    """Return the two open routes."""
    router = APIRouter(tags=["probes"])
    has_proxies = bool(node.config.server.proxies)
    # It is open to anybody: how often they ask is not for the database to bear.
    latest = Fresh(partial(_waits, node, parts))
    # Nor how long that takes for those who are known: who waits for it takes none of their threads.
    asking = anyio.CapacityLimiter(1)

    @router.get("/healthz", summary="Does the process live?", responses=problems())
    async def healthz() -> Health:
        return Health(status="ok")

    @router.get(
        "/readyz",
        summary="Can the node do its work now?",
        responses={**problems(), 503: {"model": Readiness, "description": "Not now; `reason` says why."}},
    )
    async def readyz(request: Request, response: Response) -> Readiness:
        waits = await anyio.to_thread.run_sync(latest.get, limiter=asking)
        if waits is None:
            response.status_code = 503
            return readiness(DATABASE_AWAY, Waits())
        if waits.stalled is not None:
            # Whoever is asked by HTTP still answers; but that work stands still is to be loud.
            response.status_code = 503
            # Which peers this node has is nobody's business who is not on this machine.
            return readiness(waits.stalled if not has_proxies and is_local(request) else _STALLED, waits)
        return readiness(None, waits)

    return router


def _waits(node: Node, parts: Sequence[Part[Node]]) -> Waits | None:
    """Return what waits; None where the database can't tell."""
    try:
        return read_waits(node, parts)
    except (RowferryError, sa.exc.SQLAlchemyError) as error:
        # Also tables that are gone: what a database answers then is nothing that a retry mends, but it is a no.
        log.warning("readyz.no", extra={"error": str(error)})
        return None


def readiness(reason: str | None, waits: Waits) -> Readiness:
    """Return the answer. `reason`: why the node can't do its work; None where it can."""
    ages: dict[str, Any] = {
        "oldest_unpublished_seconds": waits.unpublished_seconds,
        "oldest_unapplied_seconds": waits.unapplied_seconds,
    }
    return Readiness(ready=reason is None, reason=reason, **ages)
