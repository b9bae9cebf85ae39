"""What goes into one commit on the short way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from common.ports.plain import PlainRows, RowRun
from consumer.dedup import TxKey
from consumer.tables import TableUse
from consumer.watermark import SourceKey

Runs = dict[bytes, RowRun]
"""By their primary key as the wire has it."""


class TxNote(msgspec.Struct, frozen=True, gc=False):
    """What is known of a tx when its changes have gone into the runs of their rows."""

    source_node: str
    tx_id: str
    incarnation: str
    prev_lsn: int
    to_lsn: int
    sha256: str
    """Over its change lines: what it is known by."""
    changes: int


class Notes(NamedTuple):
    """Of each of many txs the lines of its dedup row and of the audit, all but the instant, which stands last."""

    applied: list[str]
    audit: list[str]


@dataclass(frozen=True, slots=True)
class Ready:
    """A group as its database wants it written."""

    rows: list[tuple[TableUse, PlainRows]]
    """By the tables' names."""
    notes: Notes | None
    """None for a few txs."""


@dataclass(slots=True)
class Stretch:
    """The txs of one incarnation of a source, each beginning where the one before ended."""

    source_node: str
    incarnation: str
    """Both as the first of them has it: those of the others need no memory."""
    prev_lsn: int
    """Where the watermark must stand."""
    to_lsn: int
    tx_id: str
    latest_us: int = 0
    """The latest that the source's clock said."""


@dataclass(slots=True)
class PlainGroup:
    """Txs in the order of arrival, and what they come to, row by row."""

    generation: int
    """Of the tables that they were checked against."""
    txs: list[TxNote] = field(default_factory=list)
    stretches: dict[SourceKey, Stretch] = field(default_factory=dict)
    runs: dict[TableUse, Runs] = field(default_factory=dict)
    changes: int = 0
    bytes: int = 0
    ready: Ready | None = None
    """If that was done ahead."""

    @property
    def keys(self) -> Iterator[TxKey]:
        """What dedup knows the txs by."""
        return ((tx.source_node, tx.tx_id) for tx in self.txs)

    @property
    def tables(self) -> list[str]:
        """The names of the tables written to, in order."""
        return sorted(use.name for use in self.runs)

    def take(
        self,
        txs: list[TxNote],
        stretches: Mapping[SourceKey, Stretch],
        runs: Mapping[TableUse, Runs],
        size: int,
    ) -> None:
        """Take what one delivery of `size` bytes holds. Stretches and runs are those of before, gone on."""
        self.txs += txs
        self.stretches.update(stretches)
        for use, rows in runs.items():
            self.runs.setdefault(use, {}).update(rows)
        self.changes += sum(tx.changes for tx in txs)
        self.bytes += size
