"""`GET /sync/pull`: this node's batches, and those that it hands on, as a stream."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Annotated

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse

from common.http.callers import Caller, caller_with, check_again
from common.http.encodings import accepted_encoding, wrapped
from common.http.problems import ProblemError, guarded
from common.http.scopes import Scope
from common.http.streams import CountedStream, while_admitted
from common.http.under_way import UnderWay
from common.http.wire import (
    CURSOR_HEADER,
    LONGEST_WAIT_SECONDS,
    MEDIA_TYPE,
    MORE_HEADER,
    MOST_TXS,
    PULL_PATH,
    TXS_HEADER,
)
from common.runtime.node import Node
from producer.pull_cursor import BadCursorError, PullCursor
from producer.pull_plan import Answer, Planner, Wanted
from producer.pull_progress import PullProgress
from producer.pull_watch import PullWatch

_MOST_ANSWERS = 4
"""Large ones of one node at once. Each has a read of the log in memory, and a node takes one after the other."""
_SMALL_BYTES = 256 * 1024
"""What is answered at one go: to all who waited for a piece of news."""
_MARK_REMEDY = (
    "leave it out to go on where this node knows you to be, or give 0 to begin anew; "
    f"then show the {CURSOR_HEADER} of each answer"
)
_STREAM = {
    "description": "Batches, back to back (`rowferry/1`); empty where there is nothing new.",
    "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
    "headers": {
        CURSOR_HEADER: {
            "description": "The mark to show as `after` once all is taken.",
            "required": True,
            "schema": {"type": "string"},
        },
        TXS_HEADER: {"description": "How many txs there are in it.", "schema": {"type": "integer"}},
        MORE_HEADER: {
            "description": "Whether there was more to give when it was put together.",
            "schema": {"type": "string", "enum": ["true", "false"]},
        },
    },
}


class Answers:
    """Counts large answers, on all ways to ask for them."""

    def __init__(self) -> None:
        self._under_way = UnderWay("large answers to {} are under way", _MOST_ANSWERS)

    def one(self, answer: Answer, node_id: str) -> AbstractContextManager[None]:
        """Return the place of an answer. Entering it raises ProblemError where its node has too many."""
        return nullcontext() if answer.bytes <= _SMALL_BYTES else self._under_way.one(node_id)


def pull_routes(node: Node, watch: PullWatch, answers: Answers) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["sync"])
    pulls = _Pulls(node, watch)

    @router.get(
        PULL_PATH,
        summary="Take batches of this node, and those of others that it hands on",
        responses={**guarded(409, 422, 429), 200: _STREAM},
        response_class=StreamingResponse,
    )
    async def pull(
        request: Request,
        caller: Annotated[Caller, Depends(caller_with(Scope.PULL))],
        after: Annotated[
            str | None,
            Query(
                description="The mark of the last answer: everything up to it was taken. 0: from the beginning. "
                "Without it: where this node knows the caller to be.",
            ),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST_TXS, description="At most so many txs.")] = 1_000,
        wait: Annotated[
            float, Query(ge=0, le=LONGEST_WAIT_SECONDS, description="Seconds to wait for something new.")
        ] = 0,
        forwarded: Annotated[bool, Query(description="Batches of other nodes too.")] = True,
    ) -> StreamingResponse:
        """Each batch is the same bytes on every way. The asker's own batches are left out.

        The mark stands in a header before the batches: show it only once all of them were taken."""
        wanted = Wanted(caller.node_id, limit, forwarded)
        check = partial(check_again, request)
        answer = await pulls.answer(caller, after, wanted, wait, check)
        encoding = accepted_encoding(request.headers.get("accept-encoding"))
        headers = {CURSOR_HEADER: str(answer.cursor), TXS_HEADER: str(answer.txs), "Vary": "Accept-Encoding"}
        headers[MORE_HEADER] = "true" if answer.has_more else "false"
        if encoding is not None and answer.txs:
            headers["Content-Encoding"] = encoding
        batches = wrapped(while_admitted(pulls.stream(answer), check), encoding if answer.txs else None)
        return CountedStream(batches, answers.one(answer, caller.node_id), headers)

    return router


class _Pulls:
    """Answers pulls; what touches the database runs in threads beside the server's loop."""

    def __init__(self, node: Node, watch: PullWatch) -> None:
        self._watch = watch
        self._planner = Planner(node)
        self._progress = PullProgress(node)
        self._held = UnderWay("pulls of {} wait already")

    async def answer(
        self, caller: Caller, after: str | None, wanted: Wanted, wait_seconds: float, check: Callable[[], None]
    ) -> Answer:
        """`check`: raises where the caller may not have it any more."""
        heads = await self._watch.look()
        cursor = await anyio.to_thread.run_sync(self._begin, caller, after)
        answer = await anyio.to_thread.run_sync(self._planner.plan, cursor, wanted)
        waits = not answer.txs and wait_seconds > 0
        if waits:
            with self._held.one(caller.node_id):
                is_news = await self._watch.news(heads, wait_seconds)
            if is_news:
                answer = await anyio.to_thread.run_sync(self._planner.plan, cursor, wanted)
        if answer.txs or waits:
            # Only now: the look took its time, and what was written after a token was revoked is not for its owner.
            await anyio.to_thread.run_sync(check)
        return answer

    def stream(self, answer: Answer) -> Iterator[bytes]:
        return self._planner.stream(answer)

    def _begin(self, caller: Caller, after: str | None) -> PullCursor:
        if after is None:
            return self._progress.stored(caller.node_id)
        try:
            cursor = PullCursor.parse(after)
        except BadCursorError as error:
            raise ProblemError(409, f"after: {error}: {_MARK_REMEDY}", reason="cursor") from error
        is_ahead = self._progress.is_ahead(cursor)
        self._progress.look(caller.node_id, cursor, is_ahead=is_ahead)
        if is_ahead:
            text = "this node's log ends before the mark: it was restored to an earlier state and has to rejoin"
            raise ProblemError(409, text, reason="rewound")
        if after not in ("", "0"):
            self._progress.note(caller.node_id, cursor)
        return cursor
