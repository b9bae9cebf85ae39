"""`GET /sync/state`: who this node is, and how far it and its peers have come with each other."""

from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from common.clock import to_iso
from common.http.callers import Caller, caller_with
from common.http.problems import guarded
from common.http.scopes import Scope
from common.http.wire import STATE_PATH
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf

_ANYBODY = tuple(Scope)


class Progress(BaseModel):
    """A row of `rf_sync_state`."""

    peer: str
    direction: Literal["in", "out"] = Field(description="in: what this node has of the peer; out: what it was given.")
    incarnation: str = Field(description="What the LSNs count in.")
    last_lsn: int
    highest_lsn: int = Field(description="The highest LSN that was seen, above gaps too.")
    last_tx_id: str | None
    updated_at: str


class SyncState(BaseModel):
    """How this node stands with its peers."""

    node: str
    role: Literal["main", "branch"]
    incarnation: str
    head_lsn: int = Field(description="The end of this node's sealed log.")
    peers: list[Progress] = Field(description="The caller's own rows; with scope ops everybody's.")


def state_routes(node: Node) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["sync"])

    @router.get(STATE_PATH, summary="How far have this node and its peers come?", responses=guarded())
    def sync_state(caller: Annotated[Caller, Depends(caller_with(*_ANYBODY))]) -> SyncState:
        whose = None if Scope.OPS in caller.scopes else caller.node_id
        rows = in_transaction(node.database, lambda connection: _rows(connection, whose))
        facts = node.facts
        return SyncState(
            node=facts.node_id,
            role="main" if facts.role == "main" else "branch",
            incarnation=facts.incarnation,
            head_lsn=node.database.log(facts).head().lsn,
            peers=[_progress(row) for row in rows],
        )

    return router


def _rows(connection: sa.Connection, whose: str | None) -> list[Any]:
    state = rf.sync_state
    query = sa.select(state).order_by(state.c.peer, state.c.direction, state.c.updated_us)
    return list(connection.execute(query if whose is None else query.where(state.c.peer == whose)))


def _progress(row: Any) -> Progress:
    return Progress(
        peer=row.peer,
        direction=row.direction,
        incarnation=row.incarnation,
        last_lsn=row.last_lsn,
        highest_lsn=max(row.highest_lsn, row.last_lsn),
        last_tx_id=row.last_tx_id,
        updated_at=to_iso(row.updated_us),
    )
