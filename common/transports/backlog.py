"""What stood in a source when it was opened, for sources that can look at all there is."""

from collections.abc import Iterable
from typing import Generic, TypeVar

Token = TypeVar("Token")


class Backlog(Generic[Token]):
    """Knows when all of it is acknowledged. Belongs to one thread."""

    def __init__(self) -> None:
        self._left: set[Token] | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the source ran out once, and what it had given until then is acknowledged."""
        return self._left is not None and not self._left

    def ran_out(self, held: Iterable[Token]) -> None:
        """Note that nothing is there at this moment but what was given out and is not acknowledged: `held`."""
        if self._left is None:
            self._left = set(held)

    def renamed(self) -> None:
        """Note that what was given back will come under another token: it has to run out once more."""
        self._left = None

    def acknowledged(self, token: Token) -> None:
        """Note that one of those is done."""
        if self._left:
            self._left.discard(token)
