"""Has the tables whose keys are by stride give keys of this node's share, and the others count as they did before."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psycopg

from common.dialects.postgresql.catalog import read_catalog
from common.dialects.postgresql.key_sequences import (
    LEDGER_DDL,
    KeySequence,
    has_ledger,
    putting_back,
    remedy,
    sequences_of,
    steps,
    stray,
)
from common.dialects.postgresql.naming import ident
from common.errors import ConfigError
from common.ports.dialect import TableShape
from common.ports.rules import Rules

Raw = psycopg.Connection[tuple[Any, ...]]


class KeyShares:
    """Works within the caller's transaction. `paused` tables are left as they are."""

    def __init__(self, raw: Raw, rules: Rules) -> None:
        self._raw = raw
        self._share = rules.share
        self._stride = rules.stride if rules.share else frozenset()

    def plan(self, tables: Sequence[TableShape], paused: Collection[str]) -> list[str]:
        """Return the statements that `install` would run now."""
        found = [statement for _, statement in self._putting_back(tables, paused)]
        for sequence in self._sequences(tables, paused):
            if self._share is None:
                continue
            try:
                with self._raw.transaction():
                    found += steps(self._raw, sequence, self._share)
            except psycopg.errors.InsufficientPrivilege:
                found.append(f"-- {remedy(sequence, self._share, self._raw.info.user)}")
        creates = any("rf_key_sequence" in statement for statement in found) and not has_ledger(self._raw)
        return [*(LEDGER_DDL if creates else ()), *found]

    def install(self, tables: Sequence[TableShape], paused: Collection[str]) -> tuple[list[str], dict[str, str]]:
        """Set the sequences. Returns what ran, and what would help for tables where the account may not."""
        ran: list[str] = []
        refused: dict[str, str] = {}
        for _, statement in self._putting_back(tables, paused):
            self._raw.execute(statement.encode())
            ran.append(statement)
        for sequence in self._sequences(tables, paused):
            if self._share is None or not stray(self._raw, sequence, self._share):
                continue
            if not has_ledger(self._raw):
                ran += self._run(LEDGER_DDL)
            try:
                with self._raw.transaction():
                    ran += self._run(steps(self._raw, sequence, self._share))
            except psycopg.errors.InsufficientPrivilege:
                refused[sequence.table.name] = remedy(sequence, self._share, self._raw.info.user)
            except ConfigError as error:
                refused[sequence.table.name] = str(error)
        return ran, refused

    def stray(self, tables: Sequence[TableShape], paused: Collection[str]) -> list[str]:
        """Name the tables whose sequences are not as they should be."""
        found = [name for name, _ in self._putting_back(tables, paused)]
        for sequence in self._sequences(tables, paused):
            if self._share is not None and stray(self._raw, sequence, self._share):
                found.append(sequence.table.name)
        known = {shape.name for shape in tables}
        return [name for name in found if name in known]

    def _run(self, statements: Sequence[str] | Iterator[str]) -> list[str]:
        ran = []
        for statement in statements:
            self._raw.execute(statement.encode())
            ran.append(statement)
        return ran

    def _sequences(self, tables: Sequence[TableShape], paused: Collection[str]) -> Iterator[KeySequence]:
        for shape in tables:
            if shape.name in self._stride and shape.name not in paused:
                yield from sequences_of(self._raw, shape)

    def _putting_back(self, tables: Sequence[TableShape], paused: Collection[str]) -> Iterator[tuple[str, str]]:
        if not has_ledger(self._raw):
            return
        standing = read_catalog(self._raw).tables
        wanted = self._stride & {shape.name for shape in tables}
        # Renamed since: it keeps its share under the new name, while the rules know the old one alone.
        gone = self._stride - standing.keys()
        yield from putting_back(self._raw, standing, {*wanted, *paused, *gone})


def unreadable(sequences: Sequence[KeySequence], account: str) -> str:
    """Return what would let the guard of keys know which ones this database gave."""
    names = ", ".join(one.name for one in sequences if not one.readable)
    table = sequences[0].table.name
    grant = f"GRANT SELECT ON SEQUENCE {names} TO {ident(account)}"
    return f"{table}: tables.keys = main-only can't be kept: as the owner run {grant}"
