"""What `dlq` prints for a person."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common.console import Console, counted
from common.ops.status_words import came_by
from consumer.dead_letters.table_store import Letter
from consumer.dead_letters.who_has import MOST_NAMES

NOTHING = "no such dead letters"
_WAITING = "to be decided: see `rowferry conflicts list --state waiting`"


def tell_letters(console: Console, letters: list[Letter]) -> None:
    """Print a table of dead letters."""
    if not letters:
        console.say(NOTHING)
        return
    rows = [(one.tx_id, one.source_node, one.reason, one.state.value, one.attempts, one.error) for one in letters]
    console.table("", ("tx_id", "source_node", "reason", "state", "attempts", "error"), rows)


def tell_letter(console: Console, document: dict[str, Any]) -> None:
    """Print one, with the rows that it would change."""
    skip = ("rows", "overtaken", "would", "rows_note")
    for name, value in document.items():
        if name not in skip and value is not None:
            said = came_by(value, document["source_node"]) if name == "origin" else value
            console.field(name, _short(said))
    if document["rows"]:
        _tell_rows(console, document["rows"])
    if document["rows_note"]:
        console.say(document["rows_note"])


def tell_settled(console: Console, settled: Sequence[Letter]) -> None:
    """Print that those which were asked for were closed already; nothing where there were none of that kind either."""
    for letter in settled:
        console.say(f"{letter.tx_id} is already {letter.state.value}")
    if not settled:
        console.say(NOTHING)


def tell_discarded(console: Console, letters: Sequence[Letter], having: Sequence[Sequence[str]], limits: str) -> None:
    """Print what was given up, and who else has it. `having`: what is known of each; `limits`: what that rests on."""
    console.say(f"{len(letters)} discarded")
    alike: dict[tuple[str, ...], list[str]] = {}
    for letter, sentences in zip(letters, having, strict=True):
        alike.setdefault(tuple(sentences), []).append(letter.tx_id)
    for told, names in list(alike.items())[:MOST_NAMES]:
        more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
        console.say(f"{', '.join(names[:MOST_NAMES])}{more}: {' '.join(told)}")
    if len(alike) > MOST_NAMES:
        console.say(f"{sum(map(len, list(alike.values())[MOST_NAMES:])):,} more: see dlq show for each")
    console.say(limits)


def tell_groups(console: Console, groups: list[dict[str, Any]]) -> None:
    """Print how many there are of each reason, and what helps."""
    if not groups:
        console.say(NOTHING)
        return
    rows = [
        (
            one["reason"],
            one["count"],
            one["oldest_at"],
            one["newest_at"],
            one["example"]["tx_id"],
            one["example"]["error"],
            one["helps"],
        )
        for one in groups
    ]
    console.table("", ("reason", "count", "oldest", "newest", "tx_id", "error", "what helps"), rows)


def tell_replay(
    console: Console, documents: Sequence[Mapping[str, Any]], settled: Sequence[Letter], *, dry_run: bool
) -> None:
    """Print what became of each. `settled`: those that were closed already."""
    if not documents:
        tell_settled(console, settled)
    would = "would be " if dry_run else ""
    for one in documents:
        left = f", {one['open_changes']} changes left" if "open_changes" in one else ""
        error = f"{left}: {one['error']}" if one["error"] else left
        console.say(f"{one['tx_id']} {would}{one['outcome']}{error}")
        if waiting := one.get("waiting"):
            many = counted(waiting, "conflict", "conflicts")
            console.say(f"  {many} {'would wait' if dry_run else _WAITING}")
        if one.get("rows"):
            _tell_rows(console, one["rows"])
        if one.get("rows_note"):
            console.say(one["rows_note"])
        for row in one.get("edited", ()):
            what = "stays as it is here" if row["kept"] else f"written again as {_short(row['now'])}"
            console.say(f"  {row['table']} {_short(row['pk'])}: {what}")


def _tell_rows(console: Console, rows: Iterable[Mapping[str, Any]]) -> None:
    names = ("table", "pk", "op", "open", "effect", "now", "then")
    console.table("rows", names, [[_short(row[name]) for name in names] for row in rows])


def _short(value: Any) -> Any:
    """Return values as they stand in every other document here; None is a cell that stays empty."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
