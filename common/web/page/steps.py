"""What happened to a row in words for people: who wrote what, what came of it here, by which rule, and who decided."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.clock import to_iso
from common.ops.row_history import RowStory
from common.ops.row_words import more
from common.ops.status_words import came_by, place
from common.ports.row_history import RowEvent, Sealed, changed
from common.versions import Version
from common.web.page.folding import Fold, fold
from common.web.page.outcomes import Outcome, is_kept, is_unsent, outcomes_of
from common.web.page.page import CONFLICTS, LETTERS, url_of
from common.web.page.words import cell, who, written

_DID = {"I": "inserted it", "U": "changed it", "D": "deleted it"}
_KINDS = {"insert": "I", "update": "U", "delete": "D"}
"""What a change wanted that met another one."""
_LOOKS = (
    ({"stepped-back", "dead-letter"}, "bad"),
    ({"lost", "waits"}, "warn"),
    ({"applied", "published", "chosen", "resolved", "replayed"}, "good"),
)
_EVENTS = {
    "captured": "written by the application",
    "sealed": "stored in the log, ready to send",
    "received": "came in",
    "applied": "applied here",
    "lost": "met another write, and one of the two lost",
    "met": "met another write",
    "waits": "met another write that it does not know",
    "chosen": "a choice was made",
    "resolved": "the conflict was settled",
    "dead-letter": "became a dead letter",
    "replayed": "replayed",
    "discarded": "discarded",
    "stepped-back": "stepped back",
    "left-out": "not all was looked into",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """One event behind a line, for who wants to know each."""

    text: str
    at: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """One write and what came of it, as the page shows it."""

    says: str
    """Who did what."""
    outcomes: tuple[Outcome, ...]
    look: str
    at: str | None
    """By this node's clock: when it wrote it, or learned of it."""
    written: str | None
    """By the clock of the other node that wrote it; None of this node's own."""
    values: tuple[tuple[str, str | None, str], ...]
    """Columns that it changed, as far as that is known: name, old, new. None: there was no row before."""
    links: tuple[tuple[str, str], ...]
    moments: tuple[Moment, ...]
    tx_id: str | None
    lsn: int | None


def steps_of(story: RowStory, most: int) -> tuple[list[Step], int]:
    """Return the latest lines, the newest first, and how many are left out: what happened last is asked about."""
    folds, sealed = fold(story), {one.version: one for one in story.asked.look.sealed}
    return [_step(one, sealed, story.node) for one in folds[-most:][::-1]], max(0, len(folds) - most)


def _step(one: Fold, sealed: Mapping[Version, Sealed], own: str) -> Step:
    at_us, author = one.at_us, None if one.version is None else one.version.node_id
    return Step(
        says=_says(one),
        outcomes=tuple(outcomes_of(one)),
        look=_look(one),
        at=None if at_us is None else to_iso(at_us),
        written=written(one.version.hlc) if one.version is not None and author != own else None,
        values=_values(one, sealed),
        links=tuple(dict.fromkeys(link for event in one.events for link in _links(event))),
        moments=tuple(
            Moment(_moment(event, one), None if event.at_us is None else to_iso(event.at_us)) for event in one.events
        ),
        tx_id=next((event.tx_id for event in one.events if event.tx_id), None),
        lsn=next((event.lsn for event in one.events if event.tx_id and event.lsn), None),
    )


def _tells_op(event: RowEvent) -> bool:
    return bool(event.op or event.detail.get("kind") in _KINDS)


def _look(one: Fold) -> str:
    """Return how a line looks: what was mended or decided does not alarm any more, and what is to be sent waits."""
    names = {event.event for event in one.events if not is_unsent(event)}
    if "resolved" in names:
        names -= {"waits", "met"}
    if names & {"replayed", "discarded"}:
        names.discard("dead-letter")
    look = next((look for events, look in _LOOKS if names & events), "")
    return "warn" if look in ("", "good") and any(is_unsent(event) for event in one.events) else look


def _says(one: Fold) -> str:
    chosen = one.first("chosen")
    if chosen is not None:
        return _choice(chosen)
    event = one.events[0]
    if one.sealed is not None and one.sealed.resolves:
        return f"{event.node} made a choice"
    author = event.node if one.version is None else one.version.node_id
    op = next((event.op or _KINDS.get(event.detail.get("kind", "")) for event in one.events if _tells_op(event)), "")
    if one.version is None and event.event == "captured":
        return f"{author} wrote it: {event.detail['what']}"
    if one.version is None:
        return _EVENTS.get(event.event, event.event)
    return f"{author or 'somebody'} {_DID.get(op or '', 'wrote it')}"


def _choice(one: RowEvent) -> str:
    detail = one.detail
    if "by" not in detail:
        return f"{one.node} made a choice"
    ours, theirs = detail["between"]
    side = {"ours": f"{ours or 'the earlier'}'s version", "theirs": f"{theirs}'s version"}.get(
        detail["stands"], "a row of their own"
    )
    if detail["undone"]:
        return f"{who(detail['by'])} decided it the other way: {side} stands (conflict {detail['conflict']})"
    did = "kept" if is_kept(one) else "took"
    return f"{who(detail['by'])} {did} {side} (conflict {detail['conflict']})"


def _moment(one: RowEvent, fold: Fold) -> str:
    """Return an event in words of its own, with all that is known of it."""
    chosen = fold.first("chosen")
    if one.event == "captured" and (chosen is not None or (fold.sealed is not None and fold.sealed.resolves)):
        by = chosen.detail.get("by") if chosen is not None else None
        return f"written by the choice of {who(by)}" if by else "written by a choice"
    if is_unsent(one):
        return f"not sent yet to {place(str(one.detail['for']))}"
    if one.event == "published":
        by = "" if one.at_us is not None else f", by {one.detail['not_after']}"
        return f"sent to {place(str(one.detail['sink']))}{by}"
    if one.event == "received" and isinstance(origin := one.detail.get("origin"), str):
        return f"came in {came_by(origin, one.node or '')}"
    told = more(one)
    return f"{_EVENTS.get(one.event, one.event)}: {cell(told, 500)}" if told else _EVENTS.get(one.event, one.event)


def _values(one: Fold, sealed: Mapping[Version, Sealed]) -> tuple[tuple[str, str | None, str], ...]:
    for event in one.events:
        if is_kept(event):
            return ()
        if event.event == "chosen" and event.detail.get("changed"):
            return _pairs(event.detail["changed"])
        if isinstance(brought := event.detail.get("brought"), dict):
            return _plain(brought)
    change = one.sealed
    if change is None or change.after is None:
        return ()
    after, base = json.loads(change.after), None if change.base is None else sealed.get(change.base)
    if change.op == "I" or base is None or base.after is None:
        return _plain(after)
    return _pairs(changed(json.loads(base.after), after))


def _plain(image: Mapping[str, Any]) -> tuple[tuple[str, str | None, str], ...]:
    return tuple((name, None, cell(value)) for name, value in image.items())


def _pairs(values: Mapping[str, list[Any]]) -> tuple[tuple[str, str | None, str], ...]:
    return tuple((name, cell(old), cell(new)) for name, (old, new) in values.items())


def _links(one: RowEvent) -> list[tuple[str, str]]:
    found = []
    if isinstance(number := one.detail.get("conflict"), int):
        found.append((url_of(f"{CONFLICTS}/one", id=number), f"conflict {number}"))
    if one.event in ("dead-letter", "replayed", "discarded") and one.tx_id:
        found.append((url_of(f"{LETTERS}/one", source=one.node, tx=one.tx_id), "the dead letter"))
    return found
