"""`/conflicts`: which writes met, and choosing between them. The functions are those of `rowferry conflicts`."""

from dataclasses import dataclass
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
from common.versions import Version
from common.wire.unreadable import UNREADABLE
from consumer.conflict.given import GivenError, Take, read_take, refuse_doubles
from consumer.conflict.reading import Wanted, find, read
from consumer.conflict.record import State, Winner
from consumer.settling import Settling
from consumer.statements import reading

_Ops = Annotated[Caller, Depends(caller_with(Scope.OPS))]
_ROW = {"type": ["object", "null"], "description": "A row of your own: columns not named stay; null deletes it."}
_SEEN = {
    "type": "array",
    "prefixItems": [{"type": "integer"}, {"type": "integer"}, {"type": "string"}],
    "minItems": 3,
    "maxItems": 3,
    "description": "`our_version` as it was shown to who chooses: 409 where the row was written again since.",
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["take"],
                    "properties": {"take": {"anyOf": [{"enum": ["ours", "theirs"]}, _ROW]}, "seen": _SEEN},
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


class _Resolve(msgspec.Struct, forbid_unknown_fields=True):
    # A misspelt `seen` must not choose as if nobody had asked either.
    # Raw: a number's digits are the row's value, and must not go through a float.
    take: msgspec.Raw
    # Null is none: a script that has lost what it saw must not choose as if it had not asked.
    seen: tuple[int, int, str] | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class _Asked:
    take: Take
    seen: Version | None


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
    def resolve(caller: _Ops, number: Number, asked: Annotated[_Asked, Depends(_asked)]) -> Settled:
        """The choice is a write of this node, and reaches every other. 409 where the conflict waits no more, and where
        the row is not what was `seen`: the conflict shows it as it is now."""
        _known(node, number)
        try:
            settled = Settling(node, caller.actor).resolve(number, asked.take, seen=asked.seen)
        except GivenError as error:
            # Only with the row at hand it shows that what was given is none of its table's.
            raise ProblemError(422, str(error), reason="request") from error
        return Settled(**settled.as_dict())

    return router


async def _asked(request: Request) -> _Asked:
    """Return what the body asks for. Raises ProblemError."""
    try:
        body = await request.body()
        await check_still(request)
        wanted = msgspec.json.decode(body, type=_Resolve)
        text = bytes(wanted.take).decode("utf-8")
        take = read_take(text.strip('"') if text in ('"ours"', '"theirs"') else text)
        refuse_doubles(body)
        return _Asked(take, None if wanted.seen is msgspec.UNSET else Version(*wanted.seen))
    except UNREADABLE as error:
        raise ProblemError(422, f'the body must be like {{"take": "ours"}}: {error}', reason="request") from error
    except UsageError as error:
        raise ProblemError(422, str(error), reason="request") from error


def _known(node: Node, number: int) -> dict[str, Any]:
    with reading(node.database) as connection:
        found = read(connection, number)
    if found is None:
        raise ProblemError(404, f"{number}: no such conflict")
    return found
