"""What a replicating system must offer to be measured."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from tests.bench.pair import Pair
from tests.bench.processes import Workers


class System(Protocol):
    """One way to keep the target equal to the source."""

    @property
    def name(self) -> str: ...

    def replicating(self, pair: Pair) -> AbstractContextManager[Workers]:
        """Set the pair up and run the workers until the context ends. Both sides hold equal rows at its start."""
