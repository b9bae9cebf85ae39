"""Tries again what came too early."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from common.runtime.node import Node
from consumer.dead_letters.loading import load
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import Letter, Selection, find
from consumer.dead_letters.waiting import early, early_and_due, early_for
from consumer.incoming import Incoming, Outcome, Result, written_tables
from consumer.orphans import Orphans
from consumer.statements import reading

_A_ROUND = 50
_LOOK_AGAIN_US = 1_000_000
"""None is due sooner than this after it was set aside."""


class EarlyRetries:
    """Applies early dead letters again, one by one, a bounded number a round; `apply` as `Applier.apply`."""

    def __init__(self, node: Node, apply: Callable[[Sequence[Incoming]], list[Result]]) -> None:
        self._node = node
        self._apply = apply
        self._trust = node.config.trust()
        self._orphans = Orphans(node, self._try_all)
        self._none_since_us: int | None = None
        """When a look found none at all; looking again costs two transactions a commit."""

    def after(self, results: Sequence[Result]) -> list[Result]:
        """Try those that wait for rows of a table which `results` wrote to, and those that wait for theirs in turn.

        What another process set aside within this second is left to `due`."""
        if any(result.outcome is Outcome.EARLY for result in results):
            self._none_since_us = None
        self._orphans.note(results)
        return self._try_after(written_tables(results))

    def after_writing(self, tables: Sequence[str]) -> list[Result]:
        """The same after a commit that wrote to `tables` and set nothing aside."""
        self._orphans.came(tables)
        return self._try_after(tables)

    def _try_after(self, tables: Sequence[str]) -> list[Result]:
        found: list[Result] = []
        if self._are_none():
            return found
        while tables:
            results = self._try_waiting_for(tables)
            self._orphans.note(results)
            found += results
            tables = written_tables(results)
        return found

    def due(self) -> list[Result]:
        """Try those whose wait is over, and those that wait, or waited too long, for rows that have come."""
        results = self._orphans.due()
        if not self._are_none():
            results += self._try(lambda connection: early_and_due(connection, self._now_us, _A_ROUND))
        return results + self.after(results)

    def all_of_them(self) -> list[Result]:
        """Try every one, and again while one that got through may have brought another's parent."""
        last: dict[tuple[str, str], Result] = {}
        progress = True
        while progress:
            results = self._try(lambda connection: find(connection, Selection(state=LetterState.EARLY)))
            last |= {result.incoming.key: result for result in results}
            progress = any(result.outcome is Outcome.APPLIED for result in results)
        return list(last.values())

    @property
    def _now_us(self) -> int:
        return self._node.clock.now_us()

    def _are_none(self) -> bool:
        now_us = self._now_us
        if self._none_since_us is not None and 0 <= now_us - self._none_since_us < _LOOK_AGAIN_US:
            return True
        with reading(self._node.database) as connection:
            some = early(connection, 1)
        self._none_since_us = None if some else now_us
        return not some

    def _try_waiting_for(self, tables: Sequence[str]) -> list[Result]:
        return self._try(lambda connection: early_for(connection, tables, _A_ROUND))

    def _try(self, choose: Callable[[sa.Connection], list[Letter]]) -> list[Result]:
        with reading(self._node.database) as connection:
            letters = choose(connection)
        return self._try_all(letters)

    def _try_all(self, letters: Sequence[Letter]) -> list[Result]:
        return [result for letter in letters for result in self._apply([self._load(letter)])]

    def _load(self, letter: Letter) -> Incoming:
        with reading(self._node.database) as connection:
            return load(connection, letter, self._trust)
