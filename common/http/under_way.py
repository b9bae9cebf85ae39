"""How many requests of a kind each node has at once: one token must not hold what all share."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from common.http.problems import ProblemError

_MOST_OF_ONE = 16
"""A push has up to 4 MiB in memory and its whole body in a file; who waits has a connection."""
_AGAIN = {"Retry-After": "5"}


class UnderWay:
    """Belongs to the server's loop."""

    def __init__(self, what: str, most: int = _MOST_OF_ONE) -> None:
        """`what`: their name in the refusal, like "pushes of {} are under way". `most`: of one node."""
        self._what = what
        self._most = most
        self._counts: Counter[str] = Counter()

    @contextmanager
    def one(self, node_id: str) -> Iterator[None]:
        """Count one more. Raises ProblemError where its node has too many."""
        if self._counts[node_id] >= self._most:
            text = f"{self._most} {self._what.format(node_id)}: wait until one is answered"
            raise ProblemError(429, text, reason="busy", headers=_AGAIN | {"Connection": "close"})
        self._counts[node_id] += 1
        try:
            yield
        finally:
            self._counts[node_id] -= 1
            self._counts += Counter()
