"""`GET /sync/again`: a stretch of one log once more, for a node that has lost it."""

from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from common.http.callers import Caller, caller_with, check_again
from common.http.encodings import wrapped
from common.http.problems import guarded
from common.http.scopes import Scope
from common.http.streams import CountedStream, while_admitted
from common.http.wire import AGAIN_PATH, GONE_HEADER, MEDIA_TYPE, TXS_HEADER
from common.runtime.node import Node
from common.wire.records import MAX_LSN
from producer.pull_plan import Planner
from producer.purge import log_begins
from producer.relay_log import Asked
from producer.serve_pull import Answers

_ID = r"^[A-Za-z0-9_-]{1,64}$"
_STREAM = {
    "description": "Batches, back to back (`rowferry/1`): whole txs, about 16 MiB of them.",
    "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    "headers": {
        TXS_HEADER: {"description": "How many txs there are in it.", "schema": {"type": "integer"}},
        GONE_HEADER: {
            "description": "Up to here the log was asked for, and is not kept any more.",
            "schema": {"type": "integer"},
        },
    },
}


def again_routes(node: Node, answers: Answers) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["sync"])
    planner = Planner(node)

    @router.get(
        AGAIN_PATH,
        summary="Take a stretch of one node's log once more",
        responses={**guarded(422, 429), 200: _STREAM},
        response_class=StreamingResponse,
    )
    async def again(
        request: Request,
        caller: Annotated[Caller, Depends(caller_with(Scope.PULL))],
        source: Annotated[str, Query(pattern=_ID, description="Whose log: this node's, or one that it hands on.")],
        incarnation: Annotated[str, Query(pattern=_ID)],
        after_lsn: Annotated[int, Query(ge=0, le=MAX_LSN, description="The asker has everything up to here.")],
        until_lsn: Annotated[int, Query(ge=0, le=MAX_LSN, description="Up to the tx that holds this.")],
    ) -> StreamingResponse:
        """No mark moves by it. Where less comes than was asked for, the rest is asked for again, or is not here."""
        asked = Asked(source, incarnation, after_lsn, until_lsn)
        # Its own log too: a node that was put back fetches what it has lost of it.
        answer = await anyio.to_thread.run_sync(planner.again, asked)
        headers = {TXS_HEADER: str(answer.txs)}
        gone_lsn = await anyio.to_thread.run_sync(_gone, node, asked)
        check = partial(check_again, request)
        # Only now: the look took its time.
        await anyio.to_thread.run_sync(check)
        if gone_lsn is not None:
            headers[GONE_HEADER] = str(gone_lsn)
        batches = wrapped(while_admitted(planner.stream(answer), check), None)
        return CountedStream(batches, answers.one(answer, caller.node_id), headers)

    return router


def _gone(node: Node, asked: Asked) -> int | None:
    """Return up to where this node's own log was asked for and is purged; None where nothing of that is."""
    if asked.source != node.facts.node_id:
        return None
    begins_lsn = log_begins(node, asked.incarnation)
    return min(begins_lsn, asked.until_lsn) if begins_lsn > asked.after_lsn else None
