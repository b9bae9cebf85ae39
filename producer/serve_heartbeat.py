"""`GET /sync/heartbeat`: what this node says of itself, and what others have said to it, for who meets it alone."""

from functools import partial
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Response

from common.http.callers import Caller, caller_with
from common.http.problems import guarded
from common.http.scopes import Scope
from common.http.wire import HEARTBEAT_PATH, MEDIA_TYPE
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.control import encode_control
from producer.clients import Clients
from producer.heartbeat import NOBODY_KNOWS_SECONDS, own_heartbeat

_A_DAY_US = 86_400_000_000
_MOST_BYTES = 1024 * 1024
_LINES = {
    "description": "Heartbeats, a line each; this node's own comes first.",
    "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
}


def heartbeat_routes(node: Node) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["sync"])
    clients, signer = Clients(node.database, node.clock), node.config.signer()
    every_seconds = node.config.limits.announce_seconds or NOBODY_KNOWS_SECONDS

    @router.get(
        HEARTBEAT_PATH,
        summary="Hear this node's heartbeat, and those of the nodes that it hands on",
        responses={**guarded(), 200: _LINES},
        response_class=Response,
    )
    def heartbeat(caller: Annotated[Caller, Depends(caller_with(Scope.PULL))]) -> Response:
        """How far this node's log goes, what it has of others, its clock, release, tables and policies."""
        own = own_heartbeat(node, partial(clients.last_lsn, caller.node_id), every_seconds)
        lines = encode_control(own, signer)
        if node.config.forwards:
            lines += b"".join(_handed_on(node, caller.node_id))
        return Response(lines, media_type=MEDIA_TYPE)

    return router


def _handed_on(node: Node, caller: str) -> list[bytes]:
    """Return what other nodes said last, within a day, as they said it: those that were heard last, 1 MiB at most."""
    peer = rf.node.c
    query = (
        sa.select(peer.said)
        .where(
            peer.is_self.is_(False),
            peer.node_id != caller,
            peer.retired_us.is_(None),
            peer.said.is_not(None),
            peer.heard_us > node.clock.now_us() - _A_DAY_US,
        )
        .order_by(peer.heard_us.desc())
    )
    found: list[bytes] = []
    left = _MOST_BYTES
    for text in in_transaction(node.database, lambda connection: list(connection.execute(query).scalars())):
        line = text.encode("utf-8")
        left -= len(line)
        if left < 0:
            break
        found.append(line)
    return found
