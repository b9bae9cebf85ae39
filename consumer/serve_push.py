"""`POST /sync/push`: batches in, and for each tx what it came to."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Annotated, Literal

import anyio
import anyio.to_thread
import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from common.errors import Reason
from common.http.callers import Caller, caller_with, check_again, check_still
from common.http.encodings import sent_encoding
from common.http.problems import ProblemError, guarded
from common.http.scopes import Scope
from common.http.under_way import UnderWay
from common.http.wire import MEDIA_TYPE, PUSH_PATH
from common.runtime.node import Node
from common.schema import tables as rf
from common.seldom import Seldom
from common.tracing import NAMES as TRACE
from common.wire.limits import Limits
from consumer.conflict.reading import still_waiting
from consumer.dedup import TxKey, look_up
from consumer.incoming import Counts, Outcome, Result
from consumer.push_body import Body
from consumer.push_queue import Push, PushQueue
from consumer.push_spool import Spools
from consumer.statements import among_given, as_list, reading

log = logging.getLogger(__name__)

_LOOKING = 2
"""Bodies that are looked through at once."""
_AGAIN = {"Retry-After": "5"}

_Outcome = Literal["applied", "duplicate", "conflict", "dead-lettered", "incomplete", "ignored"]
_State = Literal["dead", "early", "forked"]


class PushedTx(BaseModel):
    """What one tx came to."""

    tx_id: str
    source_node: str
    outcome: _Outcome = Field(
        description="conflict: applied, and a row of it met another write; incomplete: parts of it have to come yet; "
        "ignored: said to be of this node's own log, which has it not, or no more."
    )
    state: _State | None = Field(description="Of what is dead-lettered.")
    reason: Reason | None = Field(description="Why it is dead-lettered.")
    error: str | None
    conflicts: int = Field(description="How many of its changes met another write.")
    waiting: int = Field(description="Of these those that wait for a choice.")


class Pushed(BaseModel):
    """What a push came to. Everything in it is committed."""

    results: list[PushedTx] = Field(description="One for each tx, in the order of the body.")
    counts: dict[str, int] = Field(description="How many of each outcome.")


_BODY = {"requestBody": {"required": False, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}}


def push_routes(node: Node, pushes: PushQueue) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["sync"])
    limits = Limits(max_stream_bytes=node.config.server.max_stream_bytes)
    trust = node.config.trust()
    # Looking a large body through takes long: other requests have their threads meanwhile.
    looking = anyio.CapacityLimiter(_LOOKING)
    under_way = UnderWay("pushes of {} are under way")
    seldom = Seldom(log)
    spools = Spools()

    @router.post(
        PUSH_PATH,
        summary="Send batches",
        responses=guarded(408, 413, 415, 422),
        openapi_extra=_BODY,
    )
    async def push(
        request: Request, caller: Annotated[Caller, Depends(caller_with(Scope.PUSH, Scope.FORWARD))]
    ) -> Pushed:
        """The body is batches, back to back (`rowferry/1`), in `gzip` or `zstd` where `Content-Encoding` says so.

        A body that is torn or altered anywhere, or that holds a batch which the token may not send, is refused whole.
        Sending the same again changes nothing."""
        encoding = sent_encoding(request.headers.get("content-encoding"))
        with ExitStack() as held:
            held.enter_context(under_way.one(caller.node_id))
            return await work_off(request, caller, encoding, held)

    async def looked_through(body: Body, caller: Caller, held: ExitStack) -> list[TxKey]:
        work = asyncio.ensure_future(anyio.to_thread.run_sync(body.txs, caller, limiter=looking))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            # A thread ends what it has begun: until then it counts, with its node's and among those that look.
            count = held.pop_all()
            work.add_done_callback(lambda _: count.close())
            raise

    async def work_off(request: Request, caller: Caller, encoding: str, held: ExitStack) -> Pushed:
        body = Body(await spools.take(request), encoding, limits, trust)
        try:
            keys = await looked_through(body, caller, held)
            await check_still(request)
        except BaseException:
            body.close()
            raise
        traced = {name: request.headers[name] for name in TRACE if name in request.headers}
        one = Push(caller, body, keys, partial(check_again, request), traced)
        if not pushes.put(one):
            body.close()
            raise ProblemError(503, "too many pushes wait: try again later", reason="busy", headers=_AGAIN)
        ending, count = asyncio.wrap_future(one.done), held.pop_all()
        # Whoever hangs up leaves it in the queue, where it takes a place until its turn.
        ending.add_done_callback(lambda _: count.close())
        try:
            # A client that goes away leaves it to be worked off: what it brought is whole.
            await asyncio.shield(ending)
        finally:
            pushes.forget(one)
        return await _told(node, one, seldom)

    return router


async def _told(node: Node, push: Push, seldom: Seldom) -> Pushed:
    """Return what a push that was worked off came to, tx by tx."""
    own = [tx_id for source, tx_id in push.keys if source == node.facts.node_id]
    untold = [key for key in push.keys if key not in push.results and key[0] != node.facts.node_id]
    done = await anyio.to_thread.run_sync(_done, node, untold) if untold else frozenset[TxKey]()
    here = await anyio.to_thread.run_sync(_in_own_log, node, own) if own else frozenset[str]()
    if len(here) < len(own):
        by, remedy = push.caller.node_id, "if this database was restored to an earlier state: rowferry rejoin"
        seldom.warn("push.own_unknown", by, by=by, txs=len(own) - len(here), remedy=remedy)
    met = [key for key, result in push.results.items() if result.counts.waiting]
    # The choice may have come in the same body.
    waiting = await anyio.to_thread.run_sync(still_waiting, node.database, met) if met else {}
    return _answer(push, node.facts.node_id, here, done, waiting)


def _in_own_log(node: Node, tx_ids: list[str]) -> frozenset[str]:
    """Return which of them this node's own log has."""
    with reading(node.database) as connection:
        dialect = connection.dialect.name
        query = sa.select(rf.tx.c.tx_id).where(among_given(dialect, rf.tx.c.tx_id, "tx_ids"))
        return frozenset(connection.execute(query, {"tx_ids": as_list(dialect, tx_ids)}).scalars())


def _done(node: Node, keys: list[TxKey]) -> frozenset[TxKey]:
    """Return which of them are over and done with: one part of such a tx comes to nothing, and waits for no other."""
    with reading(node.database) as connection:
        known = look_up(connection, keys)
    return frozenset(key for key, one in known.items() if one.is_settled)


def _answer(
    push: Push, own_id: str, here: frozenset[str], done: frozenset[TxKey], waiting: Mapping[TxKey, int]
) -> Pushed:
    """`here`: which txs the node's own log has. `done`: of which nothing came now, since all was here before.
    `waiting`: conflicts that wait for a choice."""

    def came_to(key: TxKey) -> tuple[_Outcome, _State | None]:
        if key[0] == own_id:
            return _own(key, here)
        return ("duplicate", None) if key in done else _outcome(push.results.get(key))

    results = [_pushed(key, came_to(key), push.results.get(key), waiting.get(key, 0)) for key in push.keys]
    return Pushed(results=results, counts=Counter(one.outcome for one in results))


def _pushed(key: TxKey, came_to: tuple[_Outcome, _State | None], result: Result | None, waiting: int) -> PushedTx:
    outcome, state = came_to
    counts = Counts() if result is None else result.counts
    return PushedTx(
        tx_id=key[1],
        source_node=key[0],
        outcome=outcome,
        state=state,
        reason=None if result is None else result.reason,
        error=None if result is None else result.error,
        conflicts=counts.conflicts,
        waiting=waiting,
    )


def _own(key: TxKey, here: frozenset[str]) -> tuple[_Outcome, None]:
    """This node's own come back from a forwarder, who may have made them up: nothing is done with them."""
    return ("duplicate" if key[1] in here else "ignored"), None


def _outcome(result: Result | None) -> tuple[_Outcome, _State | None]:
    if result is None:
        return "incomplete", None
    match result.outcome:
        case Outcome.APPLIED:
            return ("conflict" if result.counts.conflicts else "applied"), None
        case Outcome.DUPLICATE:
            return "duplicate", None
        case Outcome.DEAD:
            return "dead-lettered", "dead"
        case Outcome.EARLY:
            return "dead-lettered", "early"
        case Outcome.FORKED:
            return "dead-lettered", "forked"
