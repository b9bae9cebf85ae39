"""What a person does with dead letters on the page: asked once, with what would happen; done; told; audited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Request, Response

from common.errors import OutageError
from common.http.problems import ProblemError
from common.ports.dialect import TableShape
from common.runtime.node import Node
from common.web.page.access import FormSent, SignedIn
from common.web.page.page import LETTERS, ROWS, PageRoute, page_of, to, url_of
from common.web.page.paging import came_from, kept, way_back
from common.web.page.sessions import Session
from common.web.page.words import cell, counted, key
from consumer.apply.handing_on import NOT_FOR_OTHERS
from consumer.dead_letters.contents import contents
from consumer.dead_letters.desk import desk_of
from consumer.dead_letters.documents import result_document
from consumer.dead_letters.operations import DeadLetters, Replay
from consumer.dead_letters.show import show
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter, Selection
from consumer.dead_letters.who_has import what_it_means, who_has
from consumer.incoming import Outcome, Result
from consumer.page.letters import FILTERS, SHOWN, Shown, changes_of, read_name, rows_of, shown
from consumer.page.rows import RowChange
from consumer.statements import reading

MOST = 50
"""Letters that are acted on at once."""
_ROWS_OF_MANY = 5
_LINKED_ROWS = 3
_LINK = 40
_LONGEST_REASON = 1_000


@dataclass(frozen=True, slots=True)
class Tried:
    """A letter, and what a replay would come to."""

    letter: Shown
    would: dict[str, Any] | None = None
    """None: it is settled already."""
    rows: list[RowChange] = field(default_factory=list)
    row_count: int = 0
    rows_note: str | None = None
    held: list[dict[str, Any]] = field(default_factory=list)
    """The first changes as they were sent, where none of them could be a row here."""

    @property
    def is_applied(self) -> bool:
        return self.would is not None and self.would["outcome"] not in ("dead", "early", "forked")


def letter_action_pages(node: Node) -> APIRouter:
    """Return the routes that ask and the routes that do."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get(f"{LETTERS}/replay")
    def ask_replay(request: Request, viewer: SignedIn) -> Response:
        letters = _chosen(node, request.query_params.getlist("letter"))
        if not letters:
            return _none_chosen(request, viewer.session)
        most = SHOWN if len(letters) == 1 else _ROWS_OF_MANY
        tried = _tried(node, letters, most)
        on = goes_on(node, [letter.source_node for letter in letters])
        return page_of(request).answer(
            request,
            viewer,
            "consumer/ask_replay.html",
            tried=tried,
            goes_on=on,
            **way_back(request, LETTERS, FILTERS),
        )

    @router.post(f"{LETTERS}/replay")
    def replay(form: FormSent) -> Response:
        letters = _as_shown(node, form.fields.get("letter", []))
        desk, applied = DeadLetters(node), list[str]()
        for letter in letters:
            links = _row_links(node, letter)
            results = desk.replay(_only(letter), Replay(form.actor), lambda _: None)
            _tell_replayed(form.session, letter, results, links)
            if any(not one.outcome.set_aside and one.settled is None for one in results):
                applied.append(letter.source_node)
        if applied:
            form.session.say(goes_on(node, applied))
        _clear_copies(node, form.session)
        return to(LETTERS, **kept(form.one("back"), FILTERS))

    @router.get(f"{LETTERS}/discard")
    def ask_discard(request: Request, viewer: SignedIn) -> Response:
        letters = _chosen(node, request.query_params.getlist("letter"))
        if not letters:
            return _none_chosen(request, viewer.session)
        most = SHOWN if len(letters) == 1 else _ROWS_OF_MANY
        return page_of(request).answer(
            request,
            viewer,
            "consumer/ask_discard.html",
            tried=_tried(node, letters, most),
            went_on=went_on(node, letters),
            who_has=who_has(node, letters),
            what_it_means=what_it_means(node),
            **way_back(request, LETTERS, FILTERS),
        )

    @router.post(f"{LETTERS}/discard")
    def discard(form: FormSent) -> Response:
        letters, reason = _as_shown(node, form.fields.get("letter", [])), form.one("reason")
        if not reason or len(reason) > _LONGEST_REASON:
            raise ProblemError(422, f"reason: say why, in at most {_LONGEST_REASON} characters", reason="request")
        for letter in letters:
            if DeadLetters(node).discard(_only(letter), reason, form.actor):
                form.session.say(f"{letter.tx_id} of {letter.source_node} was discarded: {reason}")
            else:
                form.session.say(f"{letter.tx_id} of {letter.source_node} was settled already.", is_good=False)
        _clear_copies(node, form.session)
        return to(LETTERS, **kept(form.one("back"), FILTERS))

    return router


def goes_on(node: Node, sources: Sequence[str]) -> str:
    """Say whether what a replay writes goes on from here. `sources`: who wrote it."""
    own, theirs = node.facts.node_id, ", ".join(dict.fromkeys(sources))
    if node.config.forwards:
        return f"Nodes that get others' changes through {own} get these too, as {theirs} sent them (`node.forward`)."
    return (
        f"{own} does not hand these rows on: other nodes get them from {theirs}, or from a node that hands them on "
        "(`node.forward`)."
    )


def went_on(node: Node, letters: Sequence[Letter]) -> str:
    """Say whether what is discarded here has gone on to other nodes: what came is handed on when it comes."""
    own = node.facts.node_id
    theirs = ", ".join(dict.fromkeys(letter.source_node for letter in letters))
    if not node.config.forwards:
        return (
            f"{own} hands on nothing: other nodes get these changes from {theirs}, or from a node that does "
            "(`node.forward`), whatever is discarded here."
        )
    kept = [one for one in letters if one.state is LetterState.FORKED or one.reason in NOT_FOR_OTHERS]
    if len(kept) == len(letters):
        return f"{own} did not hand it on to any node: what it holds, or who sent it, was not proven."
    others = "" if not kept else f" But for {len(kept)} of them: what those hold, or who sent them, was not proven."
    return (
        f"It was handed on when it arrived, as {theirs} sent it, to nodes that get others' changes through {own} "
        f"(`node.forward`); discarding it here does not undo that.{others}"
    )


def _none_chosen(request: Request, session: Session) -> Response:
    session.say("Nothing was done: choose at least one dead letter.", is_good=False)
    return to(LETTERS, **came_from(request, FILTERS))


def _chosen(node: Node, names: Sequence[str]) -> list[Letter]:
    if len(names) > MOST:
        raise ProblemError(422, f"at most {MOST} dead letters at once", reason="request")
    found = []
    for name in dict.fromkeys(names):
        source, tx_id, _ = read_name(name)
        letters = DeadLetters(node).find(Selection(tx_ids=(tx_id,), source_node=source))
        if not letters:
            raise ProblemError(404, f"{tx_id}: no such dead letter")
        found += letters
    return found


def _as_shown(node: Node, names: Sequence[str]) -> list[Letter]:
    """Return the letters that a form was about, if each still holds what the form had shown. Raises ProblemError.

    Of a damaged one the true copy may have come since: it may need nobody, and nobody has seen it."""
    letters = _chosen(node, names)
    seen = {(source, tx_id): sha256 for source, tx_id, sha256 in map(read_name, names)}
    for letter in letters:
        if seen[letter.source_node, letter.tx_id] != letter.sha256:
            text = (
                f"nothing was done: another copy of {letter.tx_id} of {letter.source_node} has come; look at it again"
            )
            raise ProblemError(409, text, reason="state")
    return letters


def _only(letter: Letter) -> Selection:
    return Selection(tx_ids=(letter.tx_id,), source_node=letter.source_node)


def _tried(node: Node, letters: Sequence[Letter], most: int) -> list[Tried]:
    tables = node.captured_tables()
    return [_tried_one(node, letter, tables, most) for letter in letters]


def _tried_one(node: Node, letter: Letter, tables: Mapping[str, TableShape], most: int) -> Tried:
    if not letter.state.is_open:
        return Tried(shown(letter))
    document, held = show(node, letter), list[dict[str, Any]]()
    rows = rows_of(tables, document, most)
    if not rows:
        with reading(node.database) as connection:
            held = changes_of(tables, contents(connection, letter, most))
    return Tried(shown(letter), document["would"], rows, len(document["rows"]), document["rows_note"], held)


def _row_links(node: Node, letter: Letter) -> list[tuple[str, str]]:
    """Return where the letter and the first rows of it are to be seen."""
    with reading(node.database) as connection:
        held = contents(connection, letter, _LINKED_ROWS).changes
    rows = dict.fromkeys((one["table"], key(one["pk"])) for one in held if one["pk"] is not None)
    links = [(url_of(ROWS, table=table, key=pk), f"{table} {cell(pk, _LINK)}") for table, pk in rows]
    return [(url_of(f"{LETTERS}/one", source=letter.source_node, tx=letter.tx_id), "Show it"), *links]


def _tell_replayed(
    session: Session, letter: Letter, results: Sequence[Result], links: Sequence[tuple[str, str]]
) -> None:
    """Say what became of a letter, and of those that went through behind it."""
    if not results:
        session.say(f"{letter.tx_id} of {letter.source_node} was settled already; nothing was done.", is_good=False)
    for result in results:
        document = result_document(result)
        name = f"{document['tx_id']} of {document['source_node']}"
        if result.settled is not None:
            session.say(f"{name}: nothing more was done, {document['error']}.", is_good=False)
            continue
        if result.outcome.set_aside:
            session.say(f"{name} could still not be applied ({document['reason']}): {document['error']}", is_good=False)
            continue
        what = "was here already" if result.outcome is Outcome.DUPLICATE else "was applied"
        follows = "" if result.incoming.tx_id == letter.tx_id else ", which had waited for it"
        won, all_changes = document["won"], counted(document["changes"], "change")
        said = (
            f"{name} {what}{follows}: {won} of {all_changes} {'was' if document['changes'] == 1 else 'were'} written."
        )
        session.say(said, links=() if follows else links)


def _clear_copies(node: Node, session: Session) -> None:
    """Take the broker's copies off; where it is away, `rowferry run` does so later."""
    with desk_of(node) as desk:
        try:
            desk.clear_copies()
        except OutageError as error:
            session.say(f"The broker's own copies stay until rowferry run reaches it: {error}", is_good=False)
