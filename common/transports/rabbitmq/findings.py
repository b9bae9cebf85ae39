"""What a comparison of the topology found, one line a thing."""

from dataclasses import dataclass
from enum import StrEnum

NOT_THERE = "run `rowferry migrate`, or import `rowferry topology export` where the node's user may not declare"


class State(StrEnum):
    """How one thing stands."""

    OK = "ok"
    MISSING = "missing"
    DIFFERS = "differs"
    EXTRA = "extra"
    UNCHECKED = "unchecked"
    """It can't be seen this way, or not with this account's rights."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that should stand, or that stands and should not."""

    kind: str
    """exchange, queue, binding, policy, user, permissions, topic-permissions"""
    name: str
    state: State
    detail: str | None = None
    remedy: str | None = None

    @property
    def is_wrong(self) -> bool:
        """Whether something has to be mended."""
        return self.state in (State.MISSING, State.DIFFERS, State.EXTRA)
