"""The states of a dead letter."""

from enum import StrEnum


class LetterState(StrEnum):
    """Where a dead letter stands. The first three are open: the tx may still be applied."""

    DEAD = "dead"
    EARLY = "early"
    FORKED = "forked"
    REPLAYED = "replayed"
    DISCARDED = "discarded"

    @property
    def is_open(self) -> bool:
        """Whether somebody or something still has to decide."""
        return self in OPEN_STATES


OPEN_STATES = (LetterState.DEAD, LetterState.EARLY, LetterState.FORKED)
SETTLED_STATES = (LetterState.REPLAYED, LetterState.DISCARDED)
"""The others: nothing is to be decided any more."""
