"""A tx_id alone names a dead letter as long as one source has it: nobody else keeps ids apart."""

from collections.abc import Iterable

from common.errors import UsageError
from consumer.dead_letters.table_store import Letter


def refuse_several(letters: Iterable[Letter], option: str) -> None:
    """Refuse ids that letters of several sources have; `option` is what says which. Raises UsageError."""
    sources: dict[str, set[str]] = {}
    for letter in letters:
        sources.setdefault(letter.tx_id, set()).add(letter.source_node)
    for tx_id, names in sources.items():
        if len(names) > 1:
            raise UsageError(
                f"{tx_id}: {', '.join(sorted(names))} each have a dead letter with this id: choose one with {option}"
            )
