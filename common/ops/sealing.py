"""What a command does before it goes on: seal, and wait for who writes for long."""

from collections.abc import Callable
from typing import TypeVar

from common.ports.dialect import Database, NodeFacts
from common.retry import while_contended

T = TypeVar("T")

_PATIENCE_SECONDS = 60.0
"""A `run` beside a command may apply a large tx, and nobody seals meanwhile."""


def seal_all(database: Database, facts: NodeFacts) -> None:
    """Seal everything that is committed now. Raises OutageError and ContentionError."""
    sealer = database.sealer(facts)
    while while_contended(sealer.seal, patience_seconds=_PATIENCE_SECONDS).more:
        pass


def in_turn(database: Database, work: Callable[[], T]) -> T:
    """Run `work`, which changes tables; again while others hold them, and then let ContentionError through.

    Where one writer holds the whole file, whoever writes for long is waited for; where each try makes the writers of a
    table wait behind it, there are few."""
    if database.features.locks_rows:
        return while_contended(work)
    return while_contended(work, patience_seconds=_PATIENCE_SECONDS)
