"""What an adoption came to, for people and programs."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from consumer.adopting.choosing import From, Givers
from consumer.adopting.giving import Given, Outcome
from consumer.verifying.comparing import Comparison
from consumer.verifying.differences import Difference, Kind, State


@dataclass(slots=True)
class Adopted:
    """One row from before the first sync that differs."""

    found: Difference
    givers: Givers
    here: Given | None = None
    """What became of it here; None: it is not given here, or nothing was done."""
    there: Given | None = None

    @property
    def is_refused(self) -> bool:
        """Whether a side that should have given it did not."""
        return any(one is not None and one.outcome is Outcome.REFUSED for one in (self.here, self.there))


@dataclass(slots=True)
class Report:
    """Of one adoption."""

    comparison: Comparison
    side: From
    is_dry: bool
    asks_there: bool
    """Whether the other node was asked for its part: a file can't be."""
    most: int
    """So many rows are named."""
    rows: list[Adopted] = field(default_factory=list)
    tables: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, found: Iterable[Adopted]) -> None:
        """Take in rows that differ from before the first sync."""
        for one in found:
            counts = self._counts(one.found.table)
            counts[one.found.kind] += 1
            counts["refused"] += one.is_refused
            for side, is_giver, given in (("here", one.givers.here, one.here), ("there", one.givers.there, one.there)):
                if is_giver:
                    counts[f"from_{side}"] += 1
                if given is not None and given.outcome is Outcome.GIVEN:
                    counts[f"given_{side}"] += 1
            if len(self.rows) < self.most:
                self.rows.append(one)

    def leave(self, found: Iterable[Difference]) -> None:
        """Take in rows that differ, and are not for an adoption to decide."""
        for one in found:
            self._counts(one.table)[one.state] += 1

    def total(self, *names: str) -> int:
        """Return a count over all tables."""
        return sum(counts[name] for counts in self.tables.values() for name in names)

    @property
    def is_done(self) -> bool:
        """Whether every row could be given, and every table of both be compared."""
        return not self.total("refused") and self.comparison.fit.is_whole

    def document(self) -> dict[str, Any]:
        """Return the report as `--json` prints it."""
        here, there = self.comparison.heads
        return {
            "node": here.source_node,
            "peer": there.source_node,
            "from": self.side.value,
            "dry_run": self.is_dry,
            "given_here": self.total("given_here"),
            "given_there": self.total("given_there"),
            "asked_there": self.asks_there and not self.is_dry,
            "refused": self.total("refused"),
            "tables": [self._table(name) for name in self.comparison.tables],
            "not_compared": self.comparison.fit.left_out_document(),
            "rows": [_row(one) for one in self.rows],
        }

    def _counts(self, table: str) -> Counter[str]:
        return self.tables.setdefault(table, Counter())

    def _table(self, name: str) -> dict[str, Any]:
        counts, compared = self.tables.get(name, Counter()), self.comparison.tables[name]
        common = self.comparison.fit.tables[name]
        return {
            "table": name,
            "rows_here": compared.rows_here,
            "rows_there": compared.rows_there,
            "columns_only_here": [*common.only_here],
            "columns_only_there": [*common.only_there],
            "only_here": counts[Kind.MISSING_THERE],
            "only_there": counts[Kind.MISSING_HERE],
            "other_values": counts[Kind.VALUES],
            "from_here": counts["from_here"],
            "from_there": counts["from_there"],
            "given_here": counts["given_here"],
            "given_there": counts["given_there"],
            "refused": counts["refused"],
            "on_their_way": counts[State.IN_FLIGHT],
            "otherwise": counts[State.DIFFERENT] + counts[State.EXPLAINED],
        }


def _row(one: Adopted) -> dict[str, Any]:
    return {
        "table": one.found.table,
        "pk": one.found.pk,
        "kind": one.found.kind.value,
        "from_here": one.givers.here,
        "from_there": one.givers.there,
        "here": _given(one.here),
        "there": _given(one.there),
    }


def _given(given: Given | None) -> dict[str, Any] | None:
    return None if given is None else msgspec.to_builtins(given._asdict())
