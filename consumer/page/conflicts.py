"""Conflicts on the page: the list, one with both images side by side, choosing between them, and undoing it."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response

from common.errors import UsageError
from common.http.problems import ProblemError
from common.ops.sending import not_sent_yet
from common.runtime.node import Node
from common.versions import Version
from common.web.page.access import FormSent, SignedIn, Submitted, asked
from common.web.page.numbers import numbers_of
from common.web.page.page import CONFLICTS, PageRoute, page_of, to
from common.web.page.paging import back_of, came_from, kept, listed, way_back
from common.web.page.sessions import Session
from common.web.page.words import moment, who
from consumer.conflict.given import read_seen
from consumer.conflict.reading import Wanted, find, read
from consumer.conflict.record import State, Winner
from consumer.met import Settled, UnseenError
from consumer.page.sides import Sides, both, stands
from consumer.settling import Settling
from consumer.statements import reading

_FILTERS = ("table", "source", "state")
_ANY = "any"
_MOST_NUMBER = 2**63 - 1
_DIGITS = 19


def conflict_pages(node: Node) -> APIRouter:
    """Return the routes that show and those that do."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(CONFLICTS)
    def conflicts(request: Request, viewer: SignedIn) -> Response:
        query = {name: asked(request, name) for name in _FILTERS}
        # A person comes for what waits; the rest is on record, and settled.
        state = query["state"] or State.WAITING.value
        if state not in (_ANY, *State):
            raise ProblemError(422, f"state: {state} is none", reason="request")
        wanted_state = None if state == _ANY else state

        def newest(most: int, skip: int) -> list[dict[str, Any]]:
            with reading(node.database) as connection:
                wanted = Wanted(query["table"], query["source"], wanted_state, most=most, skip=skip)
                return [one | {"stands": _stands(one)} for one in find(connection, wanted)[::-1]]

        found = listed(request, query, newest)
        return page_of(request).answer(
            request, viewer, "consumer/conflicts.html", conflicts=found.items, page=found, query=query, state=state
        )

    @router.get(f"{CONFLICTS}/one")
    def conflict(request: Request, viewer: SignedIn) -> Response:
        sides = _sides(node, asked(request, "id"))
        whole = asked(request, "whole") is not None
        back = way_back(request, CONFLICTS, _FILTERS)
        return page_of(request).answer(request, viewer, "consumer/conflict.html", sides=sides, whole=whole, **back)

    @router.get(f"{CONFLICTS}/ask")
    def ask(request: Request, viewer: SignedIn) -> Response:
        sides, what, take = _sides(node, asked(request, "id")), asked(request, "do"), _side(asked(request, "take"))
        if what not in ("resolve", "undo"):
            raise ProblemError(422, "do: resolve or undo", reason="request")
        back = back_of(came_from(request, _FILTERS))
        if (what == "resolve" and not sides.waits) or (what == "undo" and sides.document["winner"] == take.value):
            return _settled_already(viewer.session, sides, back)
        return page_of(request).answer(
            request, viewer, "consumer/ask_conflict.html", sides=sides, what=what, take=take.value, back=back
        )

    @router.post(f"{CONFLICTS}/resolve")
    def resolve(form: FormSent) -> Response:
        def decide(number: int, take: Winner, seen: Version) -> Settled:
            return Settling(node, form.actor).resolve(number, take, seen=seen)

        return _decided(node, form, decide, lambda sides, _: sides.waits, "is settled")

    @router.post(f"{CONFLICTS}/undo")
    def undo(form: FormSent) -> Response:
        def decide(number: int, take: Winner, seen: Version) -> Settled:
            return Settling(node, form.actor).undo(number, take, force=False, seen=seen)

        def can_be_undone(sides: Sides, take: Winner) -> bool:
            return sides.waits or bool(sides.document["winner"] != take.value)

        return _decided(node, form, decide, can_be_undone, "is decided the other way")

    return router


def _decided(
    node: Node,
    form: Submitted,
    decide: Callable[[int, Winner, Version], Settled],
    is_open: Callable[[Sides, Winner], bool],
    done: str,
) -> Response:
    """Carry out the choice in a form. `is_open`: whether a refusal is told as one; else somebody was there before."""
    number = _number(form.one("id"))
    take, seen = _side(form.one("take")), _seen(form.one("seen"))
    try:
        settled = decide(number, take, seen)
    except UnseenError as error:
        return _look_again(form, number, error)
    except UsageError:
        sides = _sides(node, str(number))
        if is_open(sides, take):
            raise
        return _settled_already(form.session, sides, _back(form))
    _tell(node, form.session, settled, done)
    return to(f"{CONFLICTS}/one", id=number, back=_back(form))


def _sides(node: Node, given: str | None) -> Sides:
    number = _number(given or "")
    with reading(node.database) as connection:
        found = read(connection, number)
    if found is None:
        raise ProblemError(404, f"{number}: no such conflict")
    return Sides.of(found, numbers_of(node.captured_tables(), found["table"]))


def _back(form: Submitted) -> str:
    return back_of(kept(form.one("back"), _FILTERS))


def _look_again(form: Submitted, number: int, error: UnseenError) -> Response:
    form.session.say(f"{str(error).removesuffix(': look at it again')}.", is_good=False)
    return to(f"{CONFLICTS}/one", id=number, back=_back(form))


def _settled_already(session: Session, sides: Sides, back: str) -> Response:
    """Say who was there before, on the page of the conflict, from which it can be decided the other way."""
    one = sides.document
    by = "the rule of the table" if not one["settled_by"] else who(one["settled_by"])
    when = "" if not one["settled_at"] else f", {moment(one['settled_at']).removesuffix(' UTC')}"
    done = f"{by} settled it{when}: {sides.side(one['winner'])} stands"
    session.say(f"Nothing was done: conflict {one['id']} is settled already. {done}.", is_good=False)
    return to(f"{CONFLICTS}/one", id=one["id"], back=back)


def _stands(document: dict[str, Any]) -> str:
    return stands(document["winner"], *both(document["our_version"], document["their_version"]))


def _number(text: str) -> int:
    if not (len(text) <= _DIGITS and text.isascii() and text.isdigit() and 0 < int(text) <= _MOST_NUMBER):
        raise ProblemError(404, "no such conflict")
    return int(text)


def _side(text: str | None) -> Winner:
    if text not in (Winner.OURS, Winner.THEIRS):
        raise ProblemError(422, "take: ours or theirs", reason="request")
    return Winner(text)


def _seen(text: str | None) -> Version:
    """Return the version that the row had in what the form had shown: what was written since, nobody has decided on."""
    try:
        return read_seen(text or "")
    except UsageError as error:
        raise ProblemError(422, str(error), reason="request") from error


def _tell(node: Node, session: Session, settled: Settled, what: str) -> None:
    """Say what was done here, and apart from it what of that the other nodes have."""
    side = _sides(node, str(settled.number)).side(settled.winner)
    session.say(f"Done on {node.facts.node_id}: conflict {settled.number} {what}, {side} stands now.")
    with reading(node.database) as connection:
        sent, by_itself = not_sent_yet(connection, node.config, node.clock.now_us())
    if by_itself:
        session.say(sent)
    else:
        session.warn(sent)
