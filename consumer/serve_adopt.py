"""`POST /sync/adopt`: gives rows of this node their first version, at the wish of one that has compared itself."""

from dataclasses import replace
from typing import Annotated

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from common.errors import PoisonError, Reason, UsageError
from common.http.callers import Caller, caller_with, check_still
from common.http.encodings import sent_encoding
from common.http.problems import ProblemError, guarded, refused_body
from common.http.scopes import Scope
from common.http.under_way import UnderWay
from common.http.wire import ADOPT_PATH, MOST_ADOPTED
from common.ops.incarnation import settle_incarnation
from common.runtime.node import Node
from common.wire.compress import decompress
from common.wire.limits import Limits
from common.wire.unreadable import UNREADABLE
from consumer.adopting.giving import Giving, Named, Outcome
from consumer.verifying.put_back import refuse_put_back

_MOST_BYTES = 64 * 1024 * 1024
"""Of a body, unwrapped."""
_QUESTION = {
    "type": "object",
    "required": ["rows"],
    "additionalProperties": False,
    "properties": {
        "rows": {
            "type": "array",
            "maxItems": MOST_ADOPTED,
            "items": {
                "type": "object",
                "required": ["table", "pk"],
                "additionalProperties": False,
                "properties": {"table": {"type": "string"}, "pk": {"type": "object"}, "each": {"type": "boolean"}},
            },
        },
    },
}


class _AskedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    table: str
    pk: msgspec.Raw
    """As it was written: a key's number may be larger than a float holds."""
    each: bool = False


class _Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rows: Annotated[tuple[_AskedRow, ...], msgspec.Meta(max_length=MOST_ADOPTED)]


_question = msgspec.json.Decoder(_Asked)


class RowGiven(BaseModel):
    """What became of one row."""

    outcome: Outcome = Field(
        description="has-one: it was written since, or given before. gone: there is no such row any more."
    )
    why: str | None


class RowsGiven(BaseModel):
    """What became of the rows. All of it is committed."""

    results: list[RowGiven] = Field(description="One for each row, in the order of the body.")


def adopt_routes(node: Node) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["sync"])
    under_way = UnderWay("question of {} for first versions is under way", 1)

    @router.post(
        ADOPT_PATH,
        summary="Give rows from before the first sync their first version",
        responses=guarded(408, 409, 413, 415, 422),
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _QUESTION}}}},
    )
    async def adopt(request: Request, caller: Annotated[Caller, Depends(caller_with(Scope.PUSH))]) -> RowsGiven:
        """Each row that stands here and was never written since `migrate` is sealed just as it stands, with the weakest
        version of this node, and travels like any change. No row is changed; doing it twice does nothing. The body may
        come in `gzip` or `zstd`."""
        with under_way.one(caller.node_id):
            body = await request.body()
            await check_still(request)
            encoding = sent_encoding(request.headers.get("content-encoding"))
            return await anyio.to_thread.run_sync(_give, node, caller, body, encoding)

    return router


def _give(node: Node, caller: Caller, body: bytes, encoding: str) -> RowsGiven:
    try:
        body = decompress(body, encoding, Limits(max_stream_bytes=_MOST_BYTES))
    except PoisonError as error:
        raise refused_body(error, "nothing was given") from error
    try:
        rows = [Named(one.table, bytes(one.pk), one.each) for one in _question.decode(body).rows]
    except UNREADABLE as error:
        raise PoisonError(Reason.FORMAT, f"the question can't be read: {error}") from error
    for place, one in enumerate(rows):
        if not one.pk.startswith(b"{"):
            raise PoisonError(Reason.FORMAT, f"rows[{place}].pk: must be an object with the key's columns")
    try:
        refuse_put_back(node, "adopt")
    except UsageError as error:
        raise ProblemError(409, str(error), reason="rewound") from error
    # It is served for long, and may have begun anew meanwhile.
    node = replace(node, facts=settle_incarnation(node.database, node.facts, node.clock))
    results = Giving(node, caller.node_id, caller.actor).give(rows)
    return RowsGiven(results=[RowGiven(outcome=one.outcome, why=one.why) for one in results])
