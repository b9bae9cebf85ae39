"""What a comparison came to, for people and programs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from consumer.verifying.comparing import Comparison
from consumer.verifying.differences import Difference, State


@dataclass(slots=True)
class Report:
    """Of one comparison."""

    comparison: Comparison
    most: int
    """So many rows are named."""
    rows: list[Difference] = field(default_factory=list)
    counts: dict[str, Counter[State]] = field(default_factory=dict)
    """How many rows of each table there are of each state."""
    is_complete: bool = True
    """False: some chunks that differ were not looked through, since enough rows are named."""

    def add(self, found: Iterable[Difference]) -> None:
        """Take in rows."""
        for one in found:
            self.counts.setdefault(one.table, Counter())[one.state] += 1
            if len(self.rows) < self.most:
                self.rows.append(one)

    def total(self, *states: State) -> int:
        """Return how many rows there are of these states."""
        return sum(counts[state] for counts in self.counts.values() for state in states)

    @property
    def differing(self) -> int:
        """How many rows differ still."""
        return self.total(*(state for state in State if state is not State.REPAIRED))

    @property
    def is_equal(self) -> bool:
        """Whether all that could be compared is the same, and nothing speaks against what could not."""
        return self.is_complete and not self.differing and self.comparison.fit.is_whole

    def document(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        here, there = self.comparison.heads
        return {
            "node": here.source_node,
            "peer": there.source_node,
            "at": here.at,
            "peer_at": there.at,
            "equal": self.is_equal,
            "complete": self.is_complete,
            "differing_rows": self.differing,
            "repaired_rows": self.total(State.REPAIRED),
            "tables": [self._table(name) for name in self.comparison.tables],
            "not_compared": self.comparison.fit.left_out_document(),
            "rows": [one.document() for one in self.sorted_rows()],
        }

    def sorted_rows(self) -> list[Difference]:
        """Return the rows that are named, by their keys: they are found by digests."""
        return sorted(self.rows, key=lambda one: (one.table, [_place(value) for value in one.pk.values()]))

    def _table(self, name: str) -> dict[str, Any]:
        compared, common = self.comparison.tables[name], self.comparison.fit.tables[name]
        counts = self.counts.get(name, Counter())
        return {
            "table": name,
            "rows_here": compared.rows_here,
            "rows_there": compared.rows_there,
            "chunks": compared.chunks,
            "differing_chunks": len(compared.differing),
            "columns_only_here": [*common.only_here],
            "columns_only_there": [*common.only_there],
            "different": counts[State.DIFFERENT],
            "in_flight": counts[State.IN_FLIGHT],
            "explained": counts[State.EXPLAINED],
            "before_first_sync": counts[State.BEFORE_FIRST_SYNC],
            "repaired": counts[State.REPAIRED],
        }


def _place(value: object) -> tuple[bool, int | float, str]:
    is_number = isinstance(value, int | float)
    return not is_number, value if isinstance(value, int | float) else 0, str(value)
