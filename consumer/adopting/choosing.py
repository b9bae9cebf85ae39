"""Of which side a row that differs gets its first version. Pure."""

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from common.config.model import Policy
from consumer.verifying.differences import Difference, Kind


class From(StrEnum):
    """The side whose image stands where the two contradict each other."""

    MAIN = "main"
    EACH = "each"
    """The table's policy decides."""


class Givers(NamedTuple):
    """Who gives a row its first version. Both: the two meet, and wait for a choice."""

    here: bool
    there: bool


class Chooser:
    """Chooses between this node and one other."""

    def __init__(
        self, side: From, here: str, there: str, main: str | None, policy_for: Callable[[str], Policy]
    ) -> None:
        """`here`, `there`: the ids of both. `main`: that of the main node, where it is known."""
        self._side = side
        self._of_main = Givers(here == main, there == main)
        # First versions are the same in rank but for the name of their node. Only who would win gives its own: else it
        # would matter which of the two comes first.
        self._of_rank = Givers(here > there, here < there)
        self._policy_for = policy_for

    @property
    def knows_main(self) -> bool:
        """Whether one of the two is the main node."""
        return any(self._of_main)

    def givers(self, one: Difference) -> Givers:
        """Return who gives this row. What stands on one side alone is given by that side, whichever is chosen: there
        is no other image that could be right, and a row is never taken away."""
        if one.kind is Kind.MISSING_HERE:
            return Givers(here=False, there=True)
        if one.kind is Kind.MISSING_THERE:
            return Givers(here=True, there=False)
        if self._side is From.MAIN:
            return self._of_main
        match self._policy_for(one.table):
            case Policy.MANUAL:
                return Givers(here=True, there=True)
            case Policy.MAIN_WINS if self.knows_main:
                return self._of_main
            case _:
                return self._of_rank
