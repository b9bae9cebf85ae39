"""The short way as the intake takes it, and how long it is not even tried."""

from contextlib import suppress

from common.errors import PoisonError
from common.ports.source import Delivery
from common.runtime.node import Node
from consumer.plain.applying import PlainApplying
from consumer.plain.group import PlainGroup
from consumer.plain.reading import PlainReading
from consumer.tables import Tables

_LONGEST_REST = 64
"""Rounds. Where nothing is plain, as while many conflict, an attempt in so many costs little."""


class PlainLane:
    """Reads on one thread, applies on another, never the same group at a time."""

    def __init__(self, node: Node, tables: Tables, *, tells_each: bool = False) -> None:
        """`tells_each`: somebody wants to know what became of each tx, so none goes this way."""
        self._reading = PlainReading(node, tables)
        self._applying = PlainApplying(node, tables)
        self._is_open = node.database.features.short_way and not tells_each
        self._rest = 0
        """So many rounds go the long way before the next attempt."""
        self._next_rest = 1

    def begin(self) -> PlainGroup | None:
        """Return a group for the next round; None where it goes the long way untried."""
        if not self._is_open:
            return None
        if self._rest > 0:
            self._rest -= 1
            return None
        return self._reading.begin()

    def take(self, group: PlainGroup, delivery: Delivery) -> bool:
        """Add what `delivery` holds; False, and nothing is added, where some of it is not plain."""
        return self._reading.take(group, delivery)

    def ready(self, group: PlainGroup) -> None:
        """Do ahead of `apply` what asks the database nothing."""
        # What does not fit is found again by `apply`, which knows what follows.
        with suppress(PoisonError):
            group.ready = self._applying.ready(group)

    def apply(self, group: PlainGroup) -> bool:
        """Commit all of `group`; False, and nothing is written, where it is not plain. Raises OutageError."""
        if self._applying.apply(group):
            self._next_rest = 1
            return True
        self._rest = self._next_rest
        self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
        return False
