"""Dead letters on the page: the list, and one with why it failed, what blocks it, and what a replay would do."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response

from common.errors import Reason
from common.http.problems import ProblemError
from common.ops.status_reading import never_captured
from common.ops.status_words import out_of_date
from common.ports.dialect import TableShape
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.numbers import numbers_of
from common.web.page.page import LETTERS, PageRoute, page_of, to
from common.web.page.paging import listed, way_back
from common.web.page.words import is_cut
from consumer.dead_letters.contents import Contents, contents
from consumer.dead_letters.documents import letter_document
from consumer.dead_letters.grouping import HELPS
from consumer.dead_letters.show import show
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter, Selection, find, find_newest
from consumer.page.prospects import Prospects
from consumer.page.rows import RowChange, effect_of, side_by_side
from consumer.statements import reading

FILTERS = ("source", "reason", "state", "table", "tx")
SHOWN = 20
"""Rows of a letter that its page shows unless all are asked for."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A letter as a page shows it."""

    document: dict[str, Any]
    name: str
    """What stands for it in a form."""
    helps: str
    is_free: bool = False
    """A replay would apply it now, as far as was tried."""

    @property
    def is_open(self) -> bool:
        return LetterState(self.document["state"]).is_open


def letter_pages(node: Node) -> APIRouter:
    """Return the two routes."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    prospects = Prospects(node)

    @router.get(LETTERS)
    def letters(request: Request, viewer: SignedIn) -> Response:
        query = {name: asked(request, name) for name in FILTERS}
        chosen = selection(query)
        with reading(node.database) as connection:
            found = listed(request, query, lambda most, skip: find_newest(connection, chosen, most, skip))
        return page_of(request).answer(
            request,
            viewer,
            "consumer/letters.html",
            letters=[
                replace(shown(letter), is_free=bool(is_free))
                for letter, is_free in zip(
                    found.items, prospects.of(found.items, by_person=not viewer.is_live), strict=True
                )
            ],
            page=found,
            query=query,
            reasons=sorted(reason.value for reason in Reason),
            states=[state.value for state in LetterState],
            open_states=[state.value for state in LetterState if state.is_open],
        )

    @router.get(f"{LETTERS}/one")
    def letter(request: Request, viewer: SignedIn) -> Response:
        source, tx_id = asked(request, "source"), asked(request, "tx")
        whole, tables = asked(request, "whole") is not None, node.captured_tables()
        with reading(node.database) as connection:
            found = find(connection, Selection(tx_ids=(tx_id or "",), source_node=source))
            if not found:
                raise ProblemError(404, f"{tx_id}: no such dead letter")
            if len(found) > 1:
                # Several nodes have one of this id: whoever came here by the id alone chooses.
                return to(LETTERS, tx=tx_id)
            held = contents(connection, found[0], 1_000 if whole else SHOWN)
        document = show(node, found[0])
        return page_of(request).answer(
            request,
            viewer,
            "consumer/letter.html",
            letter=shown(found[0]),
            blocked_by=document["blocked_by"],
            out_of_date=_out_of_date(node, {str(row["table"]) for row in document["rows"]}),
            would=document["would"],
            rows=rows_of(tables, document, None if whole else SHOWN),
            row_count=len(document["rows"]),
            rows_note=document["rows_note"],
            held=held,
            changes=changes_of(tables, held),
            whole=whole,
            **way_back(request, LETTERS, FILTERS),
            is_long=any(is_cut(one[name]) for one in held.changes for name in ("before", "after")),
        )

    return router


def _out_of_date(node: Node, tables: Collection[str]) -> list[str]:
    """Say of which of these tables capture does not fit: what is written to them here would not be sent."""
    wanted = [shape for name, shape in node.captured_tables().items() if name in tables]
    drifted = tuple(node.database.capture(node.config.rules).drifted(wanted)) if wanted else ()
    with reading(node.database) as connection:
        return list(out_of_date(drifted, never_captured(connection, drifted)))


def changes_of(tables: Mapping[str, TableShape], held: Contents) -> list[dict[str, Any]]:
    """Return what a letter holds with its columns side by side: before and after, at its source. `tables`: of here."""
    return [
        one | {"columns": side_by_side(one["before"], one["after"], numbers_of(tables, one["table"]))}
        for one in held.changes
    ]


def rows_of(tables: Mapping[str, TableShape], document: dict[str, Any], most: int | None) -> list[RowChange]:
    """Return what the first rows of a letter would become. `tables`: of here."""
    return [effect_of(row, numbers_of(tables, row["table"])) for row in document["rows"][:most]]


def selection(query: dict[str, str | None]) -> Selection:
    """Return the letters that a filter means. Raises ProblemError for a state that there is not."""
    state = query["state"]
    if state is not None and state not in set(LetterState):
        raise ProblemError(422, f"state: {state} is none", reason="request")
    return Selection(
        tx_ids=(query["tx"],) if query["tx"] else (),
        source_node=query["source"],
        reason=query["reason"],
        state=LetterState(state) if state else None,
        table=query["table"],
    )


def shown(letter: Letter) -> Shown:
    """Return a letter for a template."""
    helps = HELPS[Reason(letter.reason)] if letter.reason in set(Reason) else ""
    return Shown(letter_document(letter), name_of(letter), helps)


def name_of(letter: Letter) -> str:
    """Return what stands for a letter in a form: ids of others may hold any character. With its checksum: what is done
    is done to what was shown."""
    return json.dumps([letter.source_node, letter.tx_id, letter.sha256])


def read_name(text: str) -> tuple[str, str, str | None]:
    """Return what `name_of` wrote; in an address the checksum may be left out. Raises ProblemError."""
    try:
        source, tx_id, *rest = json.loads(text)
        # What JSON escapes may spell is not always text, and no database takes a NUL.
        is_one = all(isinstance(one, str) and "\0" not in one and one.encode() for one in (source, tx_id, *rest))
        is_one = is_one and len(rest) <= 1
    except (ValueError, TypeError, RecursionError) as error:
        raise ProblemError(422, "letter: this is none", reason="request") from error
    if not is_one:
        raise ProblemError(422, "letter: this is none", reason="request")
    return source, tx_id, rest[0] if rest else None
