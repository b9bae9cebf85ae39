"""`rowferry why`: one row's whole history, as this node knows it."""

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import click

from common.clock import to_iso
from common.console import Console
from common.ops.row_history import RowStory, named, tell
from common.ports.part import KnowsRows
from common.ports.row_history import RowEvent
from common.runtime.host import ExitCode, current_host
from common.runtime.parts import load_parts
from common.versions import NEVER, Version

_SHOWN = ("base", "ours", "theirs", "to_version", "incarnation", "resolves")
"""Details that are for programs; a person sees the nodes in the sentence."""


@click.command()
@click.argument("table")
@click.argument("pk", metavar="PK")
def why(table: str, pk: str) -> None:
    """Tell one row's whole history, as this node knows it.

    PK is the key's value, or a JSON object for a key of several columns. Exit code 1: nothing is known of such a row.
    """
    host = current_host()
    with host.node() as node:
        knowing = [part for part in load_parts() if isinstance(part, KnowsRows)]
        tellers = [partial(part.row_events, node) for part in knowing]
        story = tell(node.database, node.facts, named(node.captured_tables(), table), pk, tellers)
    if not story.known:
        host.exit_code = ExitCode.FAILED
    host.emit(document(story), lambda console: _tell(console, story))


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


def _tell(console: Console, story: RowStory) -> None:
    for place, sentence in enumerate(story.summary):
        console.say(sentence, style="bold" if place == 0 else None)
    if story.asked.look.image is not None:
        console.say(f"row: {story.asked.look.image.decode()}")
    if story.events:
        console.table("", ("when", "what", "whose change", "transaction", "LSN", "more"), _rows(story.events))


def _rows(events: Sequence[RowEvent]) -> list[tuple[object, ...]]:
    ops = {"I": "insert", "U": "update", "D": "delete"}
    return [
        (
            "" if one.at_us is None else to_iso(one.at_us),
            one.event,
            f"{one.node} {ops.get(one.op or '', '')}".strip(),
            one.tx_id,
            one.lsn,
            _more(one),
        )
        for one in events
    ]


def _more(one: RowEvent) -> str:
    found = {name: value for name, value in one.detail.items() if name not in _SHOWN and value is not None}
    if one.event == "lost":
        return f"to {found['to']} by {found['rule']} (conflict {found['conflict']}, {found['kind']})"
    if one.event == "published" and one.at_us is not None:
        found.pop("not_after", None)
    if one.event == "applied" and one.version is not None and one.at_us is None:
        return f"written {to_iso(one.version.hlc)}; the transaction is not kept for each row"
    return ", ".join(f"{name.replace('_', ' ')} {_plain(value)}" for name, value in found.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
