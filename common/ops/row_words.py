"""A row's history in words, and as the JSON document that `why --json` gives."""

import json
from typing import Any

from common.clock import to_iso
from common.ops.row_history import RowStory
from common.ops.status_words import came_by
from common.ports.row_history import RowEvent
from common.versions import NEVER, Version

_SHOWN = ("base", "ours", "theirs", "to_version", "incarnation", "resolves", "between", "changed", "brought", "undone")
"""Details that are for programs; a person sees the nodes in the sentence."""
_OPS = {"I": "insert", "U": "update", "D": "delete"}


def document(story: RowStory) -> dict[str, Any]:
    """Return the JSON document."""
    look = story.asked.look
    return {
        "node": story.node,
        "table": story.asked.table.name,
        "pk": json.loads(story.asked.pk),
        "known": story.known,
        "summary": story.summary,
        "row": None if look.image is None else json.loads(look.image),
        "deleted": look.deleted,
        "version": _version(look.version),
        "base": _version(look.base),
        "events": [_event(one) for one in story.events],
    }


def _event(one: RowEvent) -> dict[str, Any]:
    return {
        "at": None if one.at_us is None else to_iso(one.at_us),
        "event": one.event,
        "node": one.node,
        "tx_id": one.tx_id,
        "lsn": one.lsn,
        "op": one.op,
        "version": None if one.version is None else list(one.version),
        "detail": dict(one.detail),
        "todo": one.todo,
    }


def _version(version: Version) -> list[Any] | None:
    return None if version == NEVER else list(version)


def whose(one: RowEvent) -> str:
    """Return whose change an event is about, and what it was."""
    return f"{one.node} {_OPS.get(one.op or '', '')}".strip()


def more(one: RowEvent) -> str:
    """Return what else is known of an event, as text."""
    found = {name: value for name, value in one.detail.items() if name not in _SHOWN and value is not None}
    if one.event == "lost":
        return f"to {found['to']} by {found['rule']} (conflict {found['conflict']}, {found['kind']})"
    if one.event == "published" and one.at_us is not None:
        found.pop("not_after", None)
    if one.event == "applied" and one.version is not None and one.at_us is None:
        return f"written {to_iso(one.version.hlc)}; the transaction is not kept for each row"
    if one.event == "received" and isinstance(found.get("origin"), str):
        found["came"] = came_by(found.pop("origin"), one.node or "")
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in found.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
