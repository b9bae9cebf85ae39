"""Dead letters that lack a parent row: tried again when rows of the parent's table have come, however late.

Which row it was that came is not compared with which one is missing: a try tells. So that a node with many orphans does
not try them with every tx of a busy table, a table's turn comes once a minute at most, and never gets lost."""

from collections.abc import Callable, Iterable, Sequence

from common.errors import Reason
from common.runtime.node import Node
from consumer.dead_letters.table_store import Letter
from consumer.dead_letters.waiting import orphans
from consumer.dedup import TxKey
from consumer.incoming import Outcome, Result, written_tables
from consumer.statements import reading

_A_ROUND = 50
_PAUSE_US = 60_000_000
_LOOK_AGAIN_US = 5_000_000
_EVER_US = 2**62


class Orphans:
    """Belongs to one thread. `try_again` applies letters."""

    def __init__(self, node: Node, try_again: Callable[[Sequence[Letter]], list[Result]]) -> None:
        self._node = node
        self._try_again = try_again
        self._written: dict[str, int] = {}
        """Tables, and when rows of theirs came last: in microseconds since the epoch."""
        self._done: dict[str, int] = {}
        self._begun: dict[str, int] = {}
        """When a table's turn began that is not over."""
        self._tried: set[TxKey] = set()
        """In the turns that are not over."""
        self._is_first = True
        self._none_since_us: int | None = None

    def note(self, results: Sequence[Result]) -> None:
        """Note of which tables rows have come, and whether there is a new orphan."""
        if any(result.outcome is Outcome.DEAD and result.reason is Reason.FOREIGN_KEY for result in results):
            self._none_since_us = None
        self.came(written_tables(results))

    def came(self, tables: Iterable[str]) -> None:
        """Note that rows of `tables` have come."""
        self._written.update(dict.fromkeys(tables, self._node.clock.now_us()))

    def due(self) -> list[Result]:
        """Try those whose turn it is, a bounded number."""
        now_us = self._node.clock.now_us()
        if (not self._written and not self._is_first) or self._are_none(now_us):
            return []
        if self._is_first:
            # What came while no process of this node looked, by another way in for example.
            self._is_first = False
            with reading(self._node.database) as connection:
                waiting = orphans(connection, None, _EVER_US, 10_000)
            self.came({letter.table_name for letter in waiting if letter.table_name is not None})
        results: list[Result] = []
        for table in list(self._written):
            # A clock that was set back keeps no table waiting.
            if not 0 <= now_us - self._done.get(table, now_us - _PAUSE_US) < _PAUSE_US:
                results += self._turn(table, now_us)
        return results

    def _turn(self, table: str, now_us: int) -> list[Result]:
        began_us = self._begun.setdefault(table, now_us)
        with reading(self._node.database) as connection:
            found = orphans(connection, table, began_us, _A_ROUND, now_us)
        letters = [one for one in found if (one.source_node, one.tx_id) not in self._tried]
        if letters:
            self._tried.update((one.source_node, one.tx_id) for one in letters)
            return self._try_again(letters)
        del self._begun[table]
        self._done[table] = began_us
        if not self._begun:
            self._tried.clear()
        if self._written[table] < began_us:
            del self._written[table]
        return []

    def _are_none(self, now_us: int) -> bool:
        if self._none_since_us is not None and 0 <= now_us - self._none_since_us < _LOOK_AGAIN_US:
            return True
        with reading(self._node.database) as connection:
            some = orphans(connection, None, _EVER_US, 1)
        self._none_since_us = None if some else now_us
        if not some:
            self._written.clear()
            self._begun.clear()
        return not some
