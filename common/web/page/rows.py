"""One row's whole history, as `rowferry why` tells it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from common.errors import UsageError
from common.ops.row_history import named, tell
from common.ops.row_words import document
from common.ports.part import KnowsRows, Part
from common.runtime.node import Node
from common.web.page.access import SignedIn, asked
from common.web.page.numbers import Spellings, numbers_of
from common.web.page.page import ROWS, PageRoute, page_of
from common.web.page.steps import Step, steps_of

_MOST_LINES = 200
_LONGEST_KEY = 16_000
"""Written out in an address it is three times as long at most, which servers still take."""


def row_routes(node: Node, parts: Sequence[Part[Node]]) -> APIRouter:
    """Return the route."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)
    tellers = [partial(part.row_events, node) for part in parts if isinstance(part, KnowsRows)]

    @router.get(ROWS)
    def rows(request: Request, viewer: SignedIn) -> Response:
        table, key = asked(request, "table"), asked(request, "key", _LONGEST_KEY)
        tables = node.captured_tables()
        story, error = None, ""
        if table is not None and key is not None:
            try:
                story = tell(node.database, node.facts, named(tables, table), key, tellers)
            except UsageError as refused:
                # What was typed stays in the form, with what is wrong with it.
                error = str(refused)
        steps, left_out = ([], 0) if story is None else steps_of(story, _MOST_LINES)
        found = None if story is None else document(story)
        if found is not None:
            steps = spelled_alike(found, steps, numbers_of(tables, str(table)))
        return page_of(request).answer(
            request,
            viewer,
            "common/rows.html",
            status=422 if error else 200,
            tables=sorted(tables),
            table=table,
            key=key,
            error=error,
            story=found,
            steps=steps,
            left_out=left_out,
        )

    return router


def spelled_alike(found: dict[str, Any], steps: Sequence[Step], numbers: Collection[str]) -> list[Step]:
    """Spell each number of a row's story in one way, in the row as it is now and in each line; a line does not tell of
    a column that holds the number that it held."""
    row = found["row"] if isinstance(found["row"], dict) else {}
    spellings = {name: Spellings([row.get(name)]) for name in numbers}
    for name, old, new in (one for step in steps for one in step.values if one[0] in numbers):
        spellings[name].add(old)
        spellings[name].add(new)
    if row:
        found["row"] = {name: spellings[name].of(value) if name in numbers else value for name, value in row.items()}
    return [replace(step, values=tuple(_alike(step, spellings))) for step in steps]


def _alike(step: Step, spellings: Mapping[str, Spellings]) -> Iterator[tuple[str, str | None, str]]:
    for name, old, new in step.values:
        if name in spellings:
            old, new = spellings[name].of(old), spellings[name].of(new)
            if old is not None and old == new:
                continue
        yield name, old, new
