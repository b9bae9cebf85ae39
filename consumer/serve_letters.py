"""`/dead-letters`: what was set aside, why, and trying it again. The functions are those of `rowferry dlq`."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from common.errors import Reason
from common.http.callers import Caller, caller_with
from common.http.problems import ProblemError, guarded
from common.http.scopes import Scope
from common.http.words import Limit, TxId, Word
from common.runtime.node import Node
from consumer.dead_letters.desk import desk_of
from consumer.dead_letters.documents import letter_documents, result_document
from consumer.dead_letters.meaning_one import refuse_several
from consumer.dead_letters.operations import Replay
from consumer.dead_letters.show import show
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Selection, find_newest
from consumer.statements import reading

_SOURCE = "source in the query"
_Ops = Annotated[Caller, Depends(caller_with(Scope.OPS))]


class Replayed(BaseModel):
    """What a replay came to, as `rowferry dlq replay --json` tells it."""

    dry_run: bool = Field(description="Everything was taken back.")
    results: list[dict[str, Any]] = Field(
        description="What each came to: outcome, reason, error. Empty where none is open."
    )


def letter_routes(node: Node) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["dead letters"])

    @router.get(
        "/dead-letters", summary="List dead letters, the open ones unless a state is named", responses=guarded(422)
    )
    def dead_letters(
        caller: _Ops,
        source: Word = None,
        reason: Reason | None = None,
        state: LetterState | None = None,
        limit: Limit = 1_000,
    ) -> list[dict[str, Any]]:
        """As `rowferry dlq list --json`; each is a row of `rf_dead_letter` without its bytes."""
        del caller
        chosen = Selection(source_node=source, reason=reason.value if reason else None, state=state)
        with reading(node.database) as connection:
            newest = find_newest(connection, chosen, limit)
        return letter_documents(newest[::-1])

    @router.get(
        "/dead-letters/{tx_id}", summary="Show one: why, what blocks it now, its rows", responses=guarded(404, 409, 422)
    )
    def dead_letter(caller: _Ops, tx_id: TxId, source: Word = None) -> dict[str, Any]:
        """As `rowferry dlq show --json`. 409 where several sources have one of this id, and none is named."""
        del caller
        with desk_of(node) as desk:
            letters = desk.find(Selection(tx_ids=(tx_id,), source_node=source))
        if not letters:
            raise _unknown(tx_id)
        refuse_several(letters, _SOURCE)
        return show(node, letters[0])

    @router.post("/dead-letters/{tx_id}/replay", summary="Apply one again", responses=guarded(404, 409, 422))
    def replay(
        caller: _Ops,
        tx_id: TxId,
        source: Word = None,
        dry_run: Annotated[bool, Query(description="Try it, and take everything back.")] = False,
    ) -> Replayed:
        """Only rows whose version it beats change. One that is settled already stays as it is: no results.

        409 where several sources have one of this id, and none is named."""
        chosen = Selection(tx_ids=(tx_id,), source_node=source)
        with desk_of(node) as desk:
            letters = desk.find(chosen)
            if not letters:
                raise _unknown(tx_id)
            refuse_several(letters, _SOURCE)
            # The one that was found: another source's may have come meanwhile under the same id.
            chosen = Selection(tx_ids=(tx_id,), source_node=letters[0].source_node)
            results = desk.replay(chosen, Replay(caller.actor, dry_run), lambda _: None)
        return Replayed(dry_run=dry_run, results=[result_document(one) for one in results])

    return router


def _unknown(tx_id: str) -> ProblemError:
    return ProblemError(404, f"{tx_id}: no such dead letter")
