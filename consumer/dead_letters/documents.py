"""Dead letters as `--json`, HTTP and the page give them: columns by their names, instants as ISO 8601."""

from collections.abc import Sequence
from typing import Any

from common.clock import to_iso
from consumer.dead_letters.table_store import Letter
from consumer.incoming import Result


def letter_document(letter: Letter) -> dict[str, Any]:
    """Return one letter."""
    fields = {name: getattr(letter, name) for name in Letter.__slots__ if name != "applied_lsns"}
    document = {_renamed(name): _instant(name, value) for name, value in fields.items()}
    document["state"] = letter.state.value
    document["open_changes"] = letter.open_changes
    return document


def letter_documents(letters: Sequence[Letter]) -> list[dict[str, Any]]:
    """Return letters in a fixed order: by source, then by their place in its log."""
    ordered = sorted(letters, key=lambda one: (one.source_node, one.incarnation or "", one.prev_lsn or 0, one.tx_id))
    return [letter_document(letter) for letter in ordered]


def result_document(result: Result) -> dict[str, Any]:
    """Return what became of one tx."""
    return {
        "tx_id": result.incoming.tx_id,
        "source_node": result.incoming.source_node,
        "outcome": result.outcome.value,
        "reason": result.reason.value if result.reason else None,
        "error": result.error if result.settled is None else f"it was {result.settled.value} meanwhile",
        **result.counts.as_dict(),
        **({} if result.open_changes is None else {"open_changes": result.open_changes}),
    }


def _renamed(name: str) -> str:
    return name.removesuffix("_us") + "_at" if name.endswith("_us") else name


def _instant(name: str, value: Any) -> Any:
    return to_iso(value) if name.endswith("_us") and value is not None else value
