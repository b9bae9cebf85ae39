"""What happened to a row in words for people: who wrote what, what came of it here, by which rule, and who decided."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.clock import to_iso
from common.ops.row_history import RowStory
from common.ops.row_words import more
from common.ops.status_words import place
from common.ports.row_history import RowEvent, Sealed, changed
from common.versions import Version
from common.web.page.folding import Fold, fold, read
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
_RULES = {
    "lww": "the later write wins (lww)",
    "main-wins": "the main node wins (main-wins)",
    "append-only": "of two inserts the later wins (append-only)",
    "manual": "somebody chooses (manual)",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that came of a write. `at`: told where a person did it."""

    text: str
    at: str | None = None


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
        outcomes=tuple(_outcomes(one)),
        look=_look(one),
        at=None if at_us is None else to_iso(at_us),
        written=written(one.version.hlc) if one.version is not None and author != own else None,
        values=_values(one, sealed),
        links=tuple(dict.fromkeys(link for event in one.events for link in _links(event))),
        moments=tuple(
            Moment(_moment(event), None if event.at_us is None else to_iso(event.at_us)) for event in one.events
        ),
        tx_id=next((event.tx_id for event in one.events if event.tx_id), None),
        lsn=next((event.lsn for event in one.events if event.tx_id and event.lsn), None),
    )


def _tells_op(event: RowEvent) -> bool:
    return bool(event.op or event.detail.get("kind") in _KINDS)


def _look(one: Fold) -> str:
    """Return how a line looks: what was mended or decided does not alarm any more, and what is to be sent waits."""
    names = {event.event for event in one.events if not _is_unsent(event)}
    if "resolved" in names:
        names -= {"waits", "met"}
    if names & {"replayed", "discarded"}:
        names.discard("dead-letter")
    look = next((look for events, look in _LOOKS if names & events), "")
    return "warn" if look in ("", "good") and any(_is_unsent(event) for event in one.events) else look


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


def _outcomes(one: Fold) -> Iterator[Outcome]:
    names = {event.event for event in one.events}
    for event in one.events:
        # What was applied by a replay is told with who replayed it.
        if event.event == "applied" and "replayed" in names:
            continue
        text = _outcome(event, one)
        if text:
            is_by_person = event.event in ("resolved", "replayed", "discarded") and event.at_us is not None
            yield Outcome(text, to_iso(event.at_us) if is_by_person and event.at_us is not None else None)
    if names == {"received"}:
        yield Outcome("came in")


def _outcome(event: RowEvent, one: Fold) -> str:
    """Return what came of a write by one event, as a part of a sentence; empty where the rest tells it."""
    detail, author = event.detail, "" if one.version is None else one.version.node_id
    match event.event:
        case "applied":
            return "applied here"
        case "captured" if one.version is None:
            return "not stored in the log yet"
        case "published":
            return f"sent to {place(str(detail.get('sink', '')))}"
        case "waits" if _is_unsent(event):
            return f"not sent yet to {place(str(detail.get('for', '')))}"
        case "lost" if "to_tx_id" in detail:
            return f"won against {_whose(event.node, author)}: {_rule(detail)}"
        case "lost":
            return f"lost against {_whose(detail['to'], author)}: {_rule(detail)}"
        case "met":
            return f"met {_whose(read(detail['ours']).node_id, author)}"
        case "waits":
            waits = "waits for a choice" if event.todo else "waited for a choice"
            return f"met {_whose(read(detail['ours']).node_id, author)}, and {waits}"
        case "resolved":
            return f"settled by {who(detail.get('by'))}: {_stands(detail['stands'], one)}"
        case "dead-letter":
            is_now = event.todo is not None
            return f"{'is' if is_now else 'was'} a dead letter: {detail['reason']}, {cell(detail['error'])}"
        case "replayed" | "discarded":
            note = f" ({cell(detail['note'])})" if detail.get("note") else ""
            return f"{event.event} by {who(detail.get('by'))}{note}"
        case "stepped-back":
            return cell(event.todo or "stepped back", 500)
        case "left-out":
            return cell(event.todo or "")
        case _:
            return ""


def _whose(node: str, author: str) -> str:
    """Return whose write another one met."""
    if not node:
        return "the row from before"
    return f"another write of {node}" if node == author else f"{node}'s write"


def _rule(detail: Mapping[str, Any]) -> str:
    if detail["kind"] == "unique":
        return "both have a value that must be unique"
    if detail["kind"] == "foreign-key":
        return "what it points to is gone"
    return _RULES.get(detail["rule"], f"by the rule {detail['rule']}")


def _stands(winner: str, one: Fold) -> str:
    """Return which of two writes stands, by its author's name."""
    met, author = one.first("met", "waits"), "" if one.version is None else one.version.node_id
    if winner == "theirs":
        return f"{author}'s version stands"
    ours = "" if met is None or "ours" not in met.detail else read(met.detail["ours"]).node_id
    if winner == "ours":
        return f"{ours}'s version stands" if ours and ours != author else "the version from before stands"
    return "neither of the two stands"


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
    return f"{who(detail['by'])} took {side} (conflict {detail['conflict']})"


def _moment(one: RowEvent) -> str:
    """Return an event in words of its own, with all that is known of it."""
    if _is_unsent(one):
        return f"not sent yet to {place(str(one.detail['for']))}"
    if one.event == "published":
        by = "" if one.at_us is not None else f", by {one.detail['not_after']}"
        return f"sent to {place(str(one.detail['sink']))}{by}"
    told = more(one)
    return f"{_EVENTS.get(one.event, one.event)}: {cell(told, 500)}" if told else _EVENTS.get(one.event, one.event)


def _values(one: Fold, sealed: Mapping[Version, Sealed]) -> tuple[tuple[str, str | None, str], ...]:
    for event in one.events:
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


def _is_unsent(one: RowEvent) -> bool:
    """Whether a change waits for a road, and not for a choice."""
    return one.event == "waits" and "conflict" not in one.detail
