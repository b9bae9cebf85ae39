"""`POST /sync/heartbeat`: what a node that pushes says of itself, as over a broker."""

from typing import Annotated

import anyio.to_thread
import msgspec
import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from common.http.callers import Caller, caller_with, check_still
from common.http.problems import ProblemError, guarded
from common.http.scopes import Scope
from common.http.wire import HEARTBEAT_PATH, MEDIA_TYPE
from common.ports.source import Delivery
from common.runtime.node import Node
from common.schema import tables as rf
from common.seldom import Seldom
from common.wire.control import Heartbeat, Said, encode_control, said_in
from common.wire.signing import NO_PROOF
from consumer.control import Controls, log
from consumer.gaps import Gap, find_gaps
from consumer.peers import PeerIds
from consumer.statements import reading

_READERS = (Scope.PULL, Scope.FORWARD)
"""Who may say how far it has this node's log: whoever has more of it than is here shows that it was put back."""
_BODY = {"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}


class MissingHere(BaseModel):
    """The first stretch of the caller's log that this node has not."""

    incarnation: str
    after_lsn: int
    until_lsn: int


class Heard(BaseModel):
    """What a heartbeat came to."""

    missing: MissingHere | None = Field(description="What to send once more; null: nothing.")


def heartbeat_routes(node: Node) -> APIRouter:
    """Return the route."""
    router, seldom = APIRouter(tags=["sync"]), Seldom(log)

    @router.post(
        HEARTBEAT_PATH,
        summary="Tell this node of oneself",
        responses=guarded(413, 422),
        openapi_extra=_BODY,
    )
    async def heartbeat(
        request: Request, caller: Annotated[Caller, Depends(caller_with(Scope.PUSH, Scope.PULL, Scope.FORWARD))]
    ) -> Heard:
        """The body is one heartbeat line of the token's node."""
        body = await request.body()
        await check_still(request)
        said = _read(body)
        return await anyio.to_thread.run_sync(_take, node, said, caller, seldom)

    return router


def _read(body: bytes) -> Said:
    match said_in(body):
        case [Said(what=Heartbeat()) as said]:
            return said
        case _:
            raise ProblemError(422, "the body is no heartbeat: one line of rowferry/1", reason="format")


def _of_its_own_log(said: Said, heartbeat: Heartbeat) -> Said:
    """Return a heartbeat without what it says to have seen of others' logs; handed on it says that no more, but where
    its node has signed it."""
    told = msgspec.structs.replace(heartbeat, seen={})
    return said._replace(what=told, line=encode_control(told) if said.proof == NO_PROOF else said.line)


def _take(node: Node, said: Said, caller: Caller, seldom: Seldom) -> Heard:
    if isinstance(said.what, Heartbeat) and not caller.scopes.intersection(_READERS):
        said = _of_its_own_log(said, said.what)
    delivery = Delivery(b"", f"http:{caller.node_id}", None, source_node=caller.node_id, verified=True)
    problem = Controls(node, PeerIds(node), seldom).take(said, delivery)
    if problem is not None:
        raise ProblemError(403, problem, reason="source")
    with reading(node.database) as connection:
        gap = _gap_of(connection, caller.node_id)
    if gap is None:
        return Heard(missing=None)
    return Heard(missing=MissingHere(incarnation=gap.incarnation, after_lsn=gap.after_lsn, until_lsn=gap.until_lsn))


def _gap_of(connection: sa.Connection, node_id: str) -> Gap | None:
    current = sa.select(rf.node.c.head_incarnation).where(rf.node.c.node_id == node_id)
    incarnation = connection.execute(current).scalar()
    return next((gap for gap in find_gaps(connection) if gap.key == (node_id, incarnation)), None)
