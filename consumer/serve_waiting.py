"""`GET /sync/waiting`: which batches met conflicts that wait for a choice, for who pushed them."""

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from common.http.callers import Caller, caller_with
from common.http.problems import guarded
from common.http.scopes import Scope
from common.http.wire import WAITING_PATH
from common.runtime.node import Node
from consumer.conflict.reading import all_waiting

_MOST = 10_000


class WaitingTx(BaseModel):
    """A tx that met conflicts."""

    tx_id: str
    source_node: str
    waiting: int = Field(description="How many of its conflicts wait for a choice.")


class Waiting(BaseModel):
    """What waits for a choice."""

    txs: list[WaitingTx] = Field(description=f"The newest, {_MOST} at most.")
    has_more: bool = Field(description="There are more.")


def waiting_routes(node: Node) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["sync"])

    @router.get(
        WAITING_PATH, summary="Which of the caller's batches met conflicts that wait for a choice?", responses=guarded()
    )
    def waiting(caller: Annotated[Caller, Depends(caller_with(Scope.PUSH, Scope.FORWARD))]) -> Waiting:
        """With scope `forward` the batches of all nodes.

        What waited when its batch was pushed may be settled since, by a choice that came in a later body."""
        source = None if Scope.FORWARD in caller.scopes else caller.node_id
        found = all_waiting(node.database, source, _MOST + 1)
        txs = [WaitingTx(source_node=key[0], tx_id=key[1], waiting=count) for key, count in found.items()]
        return Waiting(txs=txs[:_MOST], has_more=len(txs) > _MOST)

    return router
