"""What happened to a row, step by step, in words for people."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.clock import to_iso
from common.ops.row_history import RowStory
from common.ops.row_words import more, whose
from common.ops.status_words import place
from common.ports.row_history import RowEvent, Sealed, changed
from common.versions import Version
from common.web.page.page import CONFLICTS, LETTERS, url_of
from common.web.page.words import cell, who

_LOOK = {
    "applied": "good",
    "published": "good",
    "resolved": "good",
    "replayed": "good",
    "chosen": "good",
    "lost": "warn",
    "waits": "bad",
    "dead-letter": "bad",
    "stepped-back": "bad",
}
_SAYS = {
    "captured": "written by the application",
    "sealed": "stored, ready to send",
    "published": "sent",
    "received": "came in",
    "applied": "applied here",
    "lost": "lost against another write",
    "met": "met another write",
    "waits": "met another write, and waits for a choice",
    "chosen": "a choice was made",
    "resolved": "a conflict was settled",
    "dead-letter": "could not be applied: a dead letter",
    "replayed": "replayed from the dead letters",
    "discarded": "discarded from the dead letters",
    "stepped-back": "stepped back",
    "left-out": "not all was looked into",
}
_SAID = ("chosen", "resolved", "published", "sealed", "captured")
"""Of these the sentence tells all that a person asks for."""


@dataclass(frozen=True, slots=True)
class Step:
    """One event as the page shows it."""

    event: RowEvent
    says: str
    look: str
    at: str | None
    whose: str
    more: str
    values: tuple[tuple[str, str | None, str], ...]
    """Columns that it changed, as far as that is known: name, old, new. None: there was no row before."""
    links: tuple[tuple[str, str], ...]
    is_unsent: bool
    """It waits for a road: that is so now, and has no time of its own."""


def steps_of(story: RowStory, most: int) -> list[Step]:
    """Return the latest events, the newest first: what happened last is what a person asks about."""
    chosen = {(one.detail.get("conflict"), one.at_us) for one in story.events if one.event == "chosen"}
    choices = {one.lsn for one in story.asked.look.sealed if one.resolves}
    # Of a choice made here the choice itself tells more.
    events = [
        one
        for one in story.events
        if not (one.event == "resolved" and (one.detail.get("conflict"), one.at_us) in chosen)
    ]
    sealed = {one.version: one for one in story.asked.look.sealed}
    return [_step(one, sealed, one.lsn in choices) for one in events[-most:][::-1]]


def _step(one: RowEvent, sealed: Mapping[Version, Sealed], is_choice: bool) -> Step:
    return Step(
        event=one,
        says="written as a choice" if one.event == "captured" and is_choice else _says(one),
        look="warn" if _is_unsent(one) else _LOOK.get(one.event, ""),
        at=None if one.at_us is None else to_iso(one.at_us),
        whose=whose(one),
        more="" if one.event in _SAID or _is_unsent(one) else more(one),
        values=_values(one, sealed),
        links=tuple(_links(one)),
        is_unsent=_is_unsent(one),
    )


def _says(one: RowEvent) -> str:
    detail = one.detail
    if _is_unsent(one):
        return f"not sent yet {_way(detail.get('for'))}".rstrip()
    if one.event == "published":
        return f"sent {_way(detail.get('sink'))}".rstrip()
    if one.event == "chosen":
        return _choice(one)
    if one.event == "resolved":
        return f"conflict {detail['conflict']} was settled by {who(detail.get('by'))}"
    return _SAYS.get(one.event, one.event)


def _choice(one: RowEvent) -> str:
    detail = one.detail
    if "by" not in detail:
        return f"a choice was made on {one.node}"
    ours, theirs = detail["between"]
    side = {"ours": f"{ours or 'the earlier'}'s version", "theirs": f"{theirs}'s version"}.get(
        detail["stands"], "a row of their own"
    )
    what = f"undid it: {side} stands" if detail["undone"] else f"took {side}"
    return f"{who(detail['by'])} {what} (conflict {detail['conflict']})"


def _way(sink: Any) -> str:
    """Return where a way out leads."""
    return f"to {place(str(sink))}" if sink else ""


def _values(one: RowEvent, sealed: Mapping[Version, Sealed]) -> tuple[tuple[str, str | None, str], ...]:
    if one.event == "chosen":
        return _pairs(one.detail.get("changed", {}))
    if isinstance(brought := one.detail.get("brought"), dict):
        return tuple((name, None, cell(value)) for name, value in brought.items())
    # The version stands with its second step; both are one change.
    change = sealed.get(one.version) if one.version is not None and one.event == "sealed" else None
    if change is None or change.after is None:
        return ()
    after, base = json.loads(change.after), None if change.base is None else sealed.get(change.base)
    if change.op == "I":
        return tuple((name, None, cell(value)) for name, value in after.items())
    if base is None or base.after is None:
        return ()
    return _pairs(changed(json.loads(base.after), after))


def _pairs(values: Mapping[str, list[Any]]) -> tuple[tuple[str, str | None, str], ...]:
    return tuple((name, cell(old), cell(new)) for name, (old, new) in values.items())


def _links(one: RowEvent) -> list[tuple[str, str]]:
    found = []
    if isinstance(number := one.detail.get("conflict"), int):
        found.append((url_of(f"{CONFLICTS}/one", id=number), f"conflict {number}"))
    if one.event in ("dead-letter", "replayed", "discarded") and one.tx_id:
        found.append((url_of(f"{LETTERS}/one", source=one.node, tx=one.tx_id), "the dead letter"))
    return found


def _is_unsent(one: RowEvent) -> bool:
    """Whether a change waits for a road, and not for a choice."""
    return one.event == "waits" and "conflict" not in one.detail
