"""`POST /sync/digests`: what this node's tables hold, to be compared; `POST /sync/rows`: takes rows once more."""

import io
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from common.errors import ContentionError, OutageError, PoisonError, Reason
from common.http.callers import Caller, caller_with, check_again, check_still
from common.http.encodings import accepted_encoding, sent_encoding, wrapped
from common.http.problems import ProblemError, guarded, refused_body
from common.http.scopes import Scope
from common.http.streams import CountedStream, while_admitted
from common.http.under_way import UnderWay
from common.http.wire import DIGESTS_PATH, MEDIA_TYPE, ROWS_PATH
from common.ops.incarnation import settle_incarnation
from common.runtime.node import Node
from common.wire.compress import open_decompressed
from common.wire.control import MOST_SEEN
from common.wire.digests import Reading, RowLine, encoded, read_asked
from common.wire.forms import Form
from common.wire.limits import Limits
from common.wire.row_digests import MOST_BITS
from consumer.verifying.answering import answer, check_asked
from consumer.verifying.moment import open_moment
from consumer.verifying.put_back import note_seen_by
from consumer.verifying.taking import Outcome, RowTaking

_AT_ONCE = 4
"""Of one node: each reads whole tables. One comparison asks one question after the other."""
_MOST_ROWS = 20_000
_MOST_BYTES = 64 * 1024 * 1024
"""Of a body, unwrapped."""
_NUMBERS = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_QUESTION = {
    "type": "object",
    "properties": {
        "tables": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["forms"],
                "properties": {
                    "forms": {"type": "object", "additionalProperties": {"enum": [form.value for form in Form]}},
                    "bits": {"type": "integer", "minimum": 0, "maximum": MOST_BITS},
                    "chunks": _NUMBERS,
                    "keys": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
        "images": {"type": "boolean"},
        "seen": {
            "type": "array",
            "maxItems": MOST_SEEN,
            "items": {
                "type": "object",
                "required": ["incarnation", "lsn"],
                "properties": {
                    "incarnation": {"type": "string"},
                    "lsn": {"type": "integer", "minimum": 0},
                    "tx_id": {"type": "string"},
                },
            },
        },
    },
}
_STREAM = {
    "description": "Lines of digests; with `chunks` or `keys` of rows.",
    "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
}


class RowTaken(BaseModel):
    """What one row came to."""

    outcome: Outcome
    why: str | None
    reason: str | None = Field(description="Of what is refused, a word for programs.")


class RowsTaken(BaseModel):
    """What rows came to. Everything in it is committed."""

    results: list[RowTaken] = Field(description="One for each row, in the order of the body.")


def digest_routes(node: Node) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["sync"])
    under_way = UnderWay("comparisons with {} are under way", _AT_ONCE)

    @router.post(
        DIGESTS_PATH,
        summary="Ask what the tables hold, to compare them",
        responses={**guarded(413, 422), 200: _STREAM},
        response_class=StreamingResponse,
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _QUESTION}}}},
    )
    async def digests(
        request: Request, caller: Annotated[Caller, Depends(caller_with(Scope.PULL))]
    ) -> StreamingResponse:
        """Changes nothing. Each answer is one moment of this node, as it is sealed."""
        asked = read_asked(await request.body())
        held = ExitStack()
        try:
            held.enter_context(under_way.one(caller.node_id))
            await check_still(request)
            if asked.seen:
                await anyio.to_thread.run_sync(note_seen_by, node, caller.node_id, asked.seen)
            moment = await anyio.to_thread.run_sync(open_moment, node, held)
            check_asked(moment, asked)
        except BaseException:
            held.close()
            raise
        lines = _unbroken(encoded(moment.head, answer(moment, asked), node.config.signer()))
        # Digests are all but random, and a sign of life must not wait until a frame is full.
        encoding = accepted_encoding(request.headers.get("accept-encoding")) if asked.images else None
        pieces = while_admitted(lines if asked.images else _in_pieces(lines), partial(check_again, request))
        headers = {"Vary": "Accept-Encoding"} | ({"Content-Encoding": encoding} if encoding else {})
        chunks = wrapped(pieces, encoding) if asked.images else (piece for piece in pieces)
        return CountedStream(chunks, held, headers)

    @router.post(
        ROWS_PATH,
        summary="Send rows once more, with their versions",
        responses=guarded(408, 413, 415, 422),
        openapi_extra={"requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": {"type": "string"}}}}},
    )
    async def rows(
        request: Request, caller: Annotated[Caller, Depends(caller_with(Scope.PUSH, Scope.FORWARD))]
    ) -> RowsTaken:
        """The body is what `/sync/digests` answers with `images`. Each row is decided as a change in a batch would be:
        nothing lower overwrites anything, and sending the same again changes nothing. Rows that another node wrote
        need scope `forward`."""
        with under_way.one(caller.node_id):
            body = await request.body()
            await check_still(request)
            encoding = sent_encoding(request.headers.get("content-encoding"))
            return await anyio.to_thread.run_sync(_take, node, caller, body, encoding)

    return router


def _unbroken(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Yield lines. Raises OutageError where a table was altered in between: this answer ends there."""
    try:
        yield from lines
    except ContentionError as error:
        raise OutageError(str(error)) from error


def _in_pieces(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines put together, but a sign of life at once."""
    waiting: list[bytes] = []
    for line in lines:
        waiting.append(line)
        if len(waiting) >= 500 or line.startswith(b'{"type":"scanned"'):
            yield b"".join(waiting)
            waiting = []
    if waiting:
        yield b"".join(waiting)


def _take(node: Node, caller: Caller, body: bytes, encoding: str) -> RowsTaken:
    try:
        stream = open_decompressed(io.BytesIO(body), encoding, len(body), Limits(max_stream_bytes=_MOST_BYTES))
        reading = Reading(stream, node.config.trust())
        if reading.head.source_node != caller.node_id:
            text = f"the token speaks for {caller.node_id}, not for {reading.head.source_node}"
            raise ProblemError(403, text, reason="source")
        lines = _rows(reading)
    except PoisonError as error:
        raise refused_body(error, "nothing of the body was taken") from error
    # It is served for long, and may have begun anew meanwhile.
    node = replace(node, facts=settle_incarnation(node.database, node.facts, node.clock))
    taking = RowTaking(node, caller.node_id, caller.actor, may_forward=Scope.FORWARD in caller.scopes)
    results = taking.take(lines, reading.head.tables)
    return RowsTaken(results=[RowTaken(outcome=one.outcome, why=one.why, reason=one.reason) for one in results])


def _rows(reading: Reading) -> list[RowLine]:
    found: list[RowLine] = []
    for line in reading:
        if isinstance(line, RowLine):
            found.append(line)
        if len(found) > _MOST_ROWS:
            raise PoisonError(Reason.LIMIT, f"more than {_MOST_ROWS} rows in one body")
    return found
