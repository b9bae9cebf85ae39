"""Conflicts on the page: the list, one with both images side by side, choosing between them, and undoing it."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from common.http.problems import ProblemError
from common.runtime.node import Node
from common.web.page.access import FormSent, SignedIn, asked
from common.web.page.page import PageRoute, page_of, to
from common.web.page.paging import listed
from common.web.page.words import is_cut
from consumer.conflict.reading import Wanted, find, read
from consumer.conflict.record import BETWEEN_ROWS, Kind, State, Winner
from consumer.met import Settled
from consumer.page.rows import Column, side_by_side
from consumer.settling import Settling
from consumer.statements import reading

PATH = "/page/conflicts"
_ANY = "any"
_MOST_NUMBER = 2**63 - 1
_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Sides:
    """A conflict as its page shows it."""

    document: dict[str, Any]
    columns: tuple[Column, ...]
    ours: str
    """Who wrote what the row had here."""
    theirs: str

    @property
    def waits(self) -> bool:
        return bool(self.document["state"] == State.WAITING)

    @property
    def is_long(self) -> bool:
        """Whether a table of it cuts some value."""
        return any(is_cut(one.left) or is_cut(one.right) for one in self.columns)

    @property
    def can_be_undone(self) -> bool:
        return not self.waits and self.document["kind"] not in BETWEEN_ROWS

    @property
    def is_clash(self) -> bool:
        """Between two rows that want one unique value."""
        return bool(self.document["kind"] == Kind.UNIQUE)


def conflict_pages(node: Node) -> APIRouter:
    """Return the routes that show and those that do."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(PATH)
    def conflicts(request: Request, viewer: SignedIn) -> Response:
        query = {name: asked(request, name) for name in ("table", "source", "state")}
        # A person comes for what waits; the rest is on record, and settled.
        state = query["state"] or State.WAITING.value
        if state not in (_ANY, *State):
            raise ProblemError(422, f"state: {state} is none", reason="request")
        wanted_state = None if state == _ANY else state

        def newest(most: int, skip: int) -> list[dict[str, Any]]:
            with reading(node.database) as connection:
                wanted = Wanted(query["table"], query["source"], wanted_state, most=most, skip=skip)
                return find(connection, wanted)[::-1]

        found = listed(request, query, newest)
        return page_of(request).answer(
            request, viewer, "consumer/conflicts.html", conflicts=found.items, page=found, query=query, state=state
        )

    @router.get(f"{PATH}/one")
    def conflict(request: Request, viewer: SignedIn) -> Response:
        sides = _sides(node, asked(request, "id"))
        whole = asked(request, "whole") is not None
        return page_of(request).answer(request, viewer, "consumer/conflict.html", sides=sides, whole=whole)

    @router.get(f"{PATH}/ask")
    def ask(request: Request, viewer: SignedIn) -> Response:
        sides, what, take = _sides(node, asked(request, "id")), asked(request, "do"), _side(asked(request, "take"))
        if what not in ("resolve", "undo"):
            raise ProblemError(422, "do: resolve or undo", reason="request")
        return page_of(request).answer(
            request, viewer, "consumer/ask_conflict.html", sides=sides, what=what, take=take.value
        )

    @router.post(f"{PATH}/resolve")
    def resolve(form: FormSent) -> Response:
        number = _number(form.one("id"))
        settled = Settling(node, form.actor).resolve(number, _side(form.one("take")))
        form.session.say(f"{_told(settled)} It goes to every other node as a write of {node.facts.node_id}.")
        return to(f"{PATH}/one", id=number)

    @router.post(f"{PATH}/undo")
    def undo(form: FormSent) -> Response:
        number = _number(form.one("id"))
        settled = Settling(node, form.actor).undo(number, _side(form.one("take")), force=False)
        form.session.say(f"Undone. {_told(settled)} It goes to every other node as a write of {node.facts.node_id}.")
        return to(f"{PATH}/one", id=number)

    return router


def _sides(node: Node, given: str | None) -> Sides:
    number = _number(given or "")
    with reading(node.database) as connection:
        found = read(connection, number)
    if found is None:
        raise ProblemError(404, f"{number}: no such conflict")
    columns = side_by_side(found["our_image"], found["their_image"])
    return Sides(found, columns, _author(found["our_version"]), _author(found["their_version"]))


def _author(version: Any) -> str:
    """Return who wrote a version; of a row from before the first `migrate` nobody knows."""
    return str(version[2]) if isinstance(version, list) and version[2:] and version[2] else "nobody known"


def _number(text: str) -> int:
    if not (len(text) <= _DIGITS and text.isascii() and text.isdigit() and 0 < int(text) <= _MOST_NUMBER):
        raise ProblemError(404, "no such conflict")
    return int(text)


def _side(text: str | None) -> Winner:
    if text not in (Winner.OURS, Winner.THEIRS):
        raise ProblemError(422, "take: ours or theirs", reason="request")
    return Winner(text)


def _told(settled: Settled) -> str:
    stands = {Winner.OURS: "our image stands now", Winner.THEIRS: "their image stands now"}
    return f"Conflict {settled.number} is settled: {stands.get(settled.winner, 'the row is as it was given')}."
