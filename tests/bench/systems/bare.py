"""No replication at all: how fast the application is by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.pair import Pair
from tests.bench.processes import Workers


class Bare:
    """Nothing runs, and the target stays as it was."""

    name = "bare"

    @contextmanager
    def replicating(self, pair: Pair) -> Iterator[Workers]:
        yield Workers((), {})
