"""`/conflicts`: which writes met, and choosing between them. The functions are those of `rowferry conflicts`."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from common.errors import UsageError
from common.http.callers import Caller, caller_with, check_still
from common.http.problems import ProblemError, guarded
from common.http.scopes import Scope
from common.http.words import Limit, Number, Word
from common.runtime.node import Node
from consumer.conflict.given import Take, read_take
from consumer.conflict.reading import Wanted, find, read
from consumer.conflict.record import State, Winner
from consumer.settling import Settling
from consumer.statements import reading

_Ops = Annotated[Caller, Depends(caller_with(Scope.OPS))]
_ROW = {"type": ["object", "null"], "description": "A row of your own: columns not named stay; null deletes it."}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["take"],
                    "properties": {"take": {"anyOf": [{"enum": ["ours", "theirs"]}, _ROW]}},
                }
            }
        },
    }
}


class Settled(BaseModel):
    """A settled conflict, as `rowferry conflicts resolve --json` tells it."""

    id: int
    table: str
    pk: Any
    state: str
    winner: str
    resolves: list[list[Any]] = Field(description="The versions that the choice settles.")
    closed: list[int] = Field(description="The conflicts of the row that wait no more.")


class _Resolve(msgspec.Struct):
    # Raw: a number's digits are the row's value, and must not go through a float.
    take: msgspec.Raw


def conflict_routes(node: Node) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["conflicts"])

    @router.get("/conflicts", summary="List conflicts", responses=guarded(422))
    def conflicts(
        caller: _Ops,
        table: Word = None,
        source: Word = None,
        state: State | None = None,
        winner: Winner | None = None,
        lost: Annotated[bool, Query(description="Only those in which a write of this node stepped back.")] = False,
        limit: Limit = 1_000,
    ) -> list[dict[str, Any]]:
        """As `rowferry conflicts list --json`: without their images."""
        del caller
        by = node.facts.node_id if lost else None
        wanted = Wanted(table, source, state.value if state else None, winner.value if winner else None, by, limit)
        with reading(node.database) as connection:
            return find(connection, wanted)

    @router.get("/conflicts/{number}", summary="Show one with both images", responses=guarded(404, 422))
    def conflict(caller: _Ops, number: Number) -> dict[str, Any]:
        """As `rowferry conflicts show --json`."""
        del caller
        return _known(node, number)

    @router.post(
        "/conflicts/{number}/resolve",
        summary="Settle one that waits",
        responses=guarded(404, 408, 409, 413, 422),
        openapi_extra=_BODY,
    )
    def resolve(caller: _Ops, number: Number, take: Annotated[Take, Depends(_take)]) -> Settled:
        """The choice is a write of this node, and reaches every other. 409 where the conflict waits no more."""
        _known(node, number)
        return Settled(**Settling(node, caller.actor).resolve(number, take).as_dict())

    return router


async def _take(request: Request) -> Take:
    """Return what the body asks for. Raises ProblemError."""
    try:
        body = await request.body()
        await check_still(request)
        text = bytes(msgspec.json.decode(body, type=_Resolve).take).decode("utf-8")
        return read_take(text.strip('"') if text in ('"ours"', '"theirs"') else text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(422, f'the body must be like {{"take": "ours"}}: {error}', reason="request") from error
    except UsageError as error:
        raise ProblemError(422, str(error).removeprefix("--"), reason="request") from error


def _known(node: Node, number: int) -> dict[str, Any]:
    with reading(node.database) as connection:
        found = read(connection, number)
    if found is None:
        raise ProblemError(404, f"{number}: no such conflict")
    return found
