"""What came of one write of a row, as parts of a sentence: what it met, by which rule it stood or not, who decided."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.clock import to_iso
from common.ops.status_words import place
from common.ports.row_history import RowEvent
from common.web.page.folding import Fold, read
from common.web.page.words import cell, who

_RULES = {
    "lww": "the later write wins (lww)",
    "main-wins": "the main node wins (main-wins)",
    "append-only": "of two inserts the later wins (append-only)",
    "manual": "somebody chooses (manual)",
    "adopt": "the first sync decided (adopt)",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """One thing that came of a write. `at`: told where a person did it."""

    text: str
    at: str | None = None


def outcomes_of(one: Fold) -> Iterator[Outcome]:
    """Yield what came of a write, in the order in which it did."""
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
        case "chosen" if is_kept(event):
            return "the row was left as it was"
        case "captured" if one.version is None:
            return "not stored in the log yet"
        case "published":
            return f"sent to {place(str(detail.get('sink', '')))}"
        case "waits" if is_unsent(event):
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


def is_unsent(one: RowEvent) -> bool:
    """Whether a change waits for a road, and not for a choice."""
    return one.event == "waits" and "conflict" not in one.detail


def is_kept(one: RowEvent) -> bool:
    """Whether somebody chose what stood here already."""
    return one.event == "chosen" and one.detail.get("stands") == "ours" and not one.detail["undone"]
