"""Lines of the audit in words, with where to look at what they tell of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.web.page.page import CONFLICTS, LETTERS, ROWS, url_of
from common.web.page.words import cell, counted, key
from consumer.audit import APPLIER
from consumer.page.sides import Side, sides_of, stands

ACTIONS = {
    "applied": "applied a transaction",
    "replayed": "replayed a dead letter",
    "replayed-piece": "replayed a piece of a dead letter",
    "replay-failed": "tried a replay, which failed again",
    "edited": "replayed a dead letter, edited",
    "discarded": "discarded a dead letter",
    "exported": "exported a dead letter",
    "set-aside": "made a dead letter of a transaction",
    "ignored-damaged-copy": "ignored a damaged copy of what is here",
    "resolved": "settled a conflict",
    "undone": "decided a conflict the other way",
    "rewound": "found a node that was restored to an earlier state",
    "rejoined": "rejoined a node",
    "snapshot-exported": "wrote a snapshot of the node",
    "snapshot-imported": "began with another node's snapshot",
    "rows-repaired": "repaired rows with another node's",
    "adopted": "gave rows from before the first sync their first version",
    "backed-up": "backed the node up",
    "restored": "restored a backup of the node",
    "node-returned": "heard from a retired node again",
    "gap-asked": "asked for missing changes",
    "clock-ahead": "found a clock that is ahead",
    "page-login": "logged in to this page",
    "page-login-refused": "refused a login to this page",
    "page-logout": "logged out of this page",
    "token-refused": "refused a program's token",
    "token-created": "made a token",
    "token-revoked": "revoked a token",
    "pause": "paused a table",
    "resume": "resumed a table",
    "capture": "installed capture again",
    "incarnation": "started a new incarnation",
    "node-retired": "retired a node",
    "purged": "deleted what is past its retention",
}
_OF_LETTERS = frozenset({"replayed", "replayed-piece", "replay-failed", "edited", "discarded", "exported", "set-aside"})


@dataclass(frozen=True, slots=True)
class Told:
    """One line as the page shows it."""

    line: Mapping[str, Any]
    did: str
    more: str
    links: tuple[tuple[str, str], ...]
    """Address and words."""
    to_what: str = ""
    """The conflict, and the table with the key of the row, in words."""


def tell(connection: sa.Connection, lines: Sequence[Mapping[str, Any]]) -> list[Told]:
    """Return lines for people."""
    numbers = {number for line in lines if (number := _number(line)) is not None}
    sides = sides_of(connection, numbers)
    return [_told(line, sides) for line in lines]


def _told(line: Mapping[str, Any], sides: Mapping[int, tuple[Side, Side]]) -> Told:
    detail = _detail(line)
    did, number = ACTIONS.get(_action(line), line["action"]), _number(line)
    if number is not None and number in sides and detail.get("winner"):
        did += f": {stands(detail['winner'], *sides[number])} stands"
    if line["action"] == "replay-failed" and detail.get("edited_sha256"):
        did = "tried a replay, edited, which failed again"
    return Told(
        line,
        did,
        _more(detail),
        tuple(_links(line, detail, number if number in sides else None)),
        _to_what(detail, number),
    )


def _to_what(detail: Mapping[str, Any], number: int | None) -> str:
    found = [] if number is None else [f"conflict {number}"]
    if isinstance(table := detail.get("table"), str):
        found.append(table if detail.get("pk") is None else f"{table} {key(detail['pk'])}")
    return ", ".join(found)


def _action(line: Mapping[str, Any]) -> str:
    """Return what was done; earlier releases wrote a replay that failed as what they do by themselves."""
    is_replay = line["action"] == "set-aside" and line["actor"] != APPLIER
    return "replay-failed" if is_replay else str(line["action"])


def _links(line: Mapping[str, Any], detail: Mapping[str, Any], number: int | None) -> list[tuple[str, str]]:
    found = []
    if number is not None:
        found.append((url_of(f"{CONFLICTS}/one", id=number), f"conflict {number}"))
    if line["action"] in _OF_LETTERS and line["tx_id"] and line["source_node"]:
        found.append((url_of(f"{LETTERS}/one", source=line["source_node"], tx=line["tx_id"]), "the dead letter"))
    if isinstance(detail.get("table"), str) and detail.get("pk") is not None:
        pk = key(detail["pk"])
        found.append((url_of(ROWS, table=detail["table"], key=pk), f"row {detail['table']} {cell(pk, 40)}"))
    return found


def _more(detail: Mapping[str, Any]) -> str:
    """Return in words what most people want to know of it."""
    found = []
    if isinstance(detail.get("changes"), int):
        found.append(counted(detail["changes"], "change"))
        if isinstance(detail.get("won"), int):
            found.append(f"{detail['won']} written")
        if detail.get("waiting"):
            found.append(f"{detail['waiting']} waits for a choice")
    if isinstance(detail.get("token_id"), str):
        found.append(f"token of {detail.get('node_id')}")
    found += [str(detail[name]) for name in ("reason", "error", "note", "remedy") if detail.get(name)]
    if isinstance(detail.get("address"), str):
        found.append(f"from {detail['address']}")
    if isinstance(detail.get("left_out_before"), int):
        found.append(f"after {counted(detail['left_out_before'], 'other')} not recorded")
    return ", ".join(found)


def _number(line: Mapping[str, Any]) -> int | None:
    number = _detail(line).get("conflict")
    return number if isinstance(number, int) else None


def _detail(line: Mapping[str, Any]) -> Mapping[str, Any]:
    return line["detail"] if isinstance(line["detail"], dict) else {}
