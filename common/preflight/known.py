"""What preflight asks of the node: a port, so that the checks stay free of the database."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.ports.dialect import TableShape


@dataclass(frozen=True, slots=True)
class KnownTx:
    """A tx that the node has seen."""

    sha256: str
    applied: bool
    """Applied, or settled by a person; else it stands as an open dead letter."""


@dataclass(frozen=True, slots=True)
class OwnEnd:
    """The latest tx of one incarnation of this node itself in the files."""

    incarnation: str
    lsn: int
    tx_id: str
    file: str
    line: int


class NodeKnowledge(Protocol):
    """What the node has seen."""

    @property
    def node_id(self) -> str: ...

    def tables(self) -> dict[str, TableShape]:
        """Return the configured tables."""
        ...

    def known(self, source_node: str, tx_ids: Sequence[str]) -> dict[str, KnownTx]:
        """Return those of the txs that were applied or set aside, by tx_id."""
        ...

    def rewound(self, end: OwnEnd) -> str | None:
        """Return what shows that this node was put back, when a file has its log up to `end`, or None."""
        ...

    def stored_parts(self, source_node: str, tx_id: str, parts: int) -> set[int]:
        """Return which parts of a tx that was cut into `parts` wait for the rest."""
        ...

    def reached(self, source_node: str, incarnation: str, from_lsn: int) -> int:
        """Return how far the node's own txs lead on from `from_lsn`, or from its watermark if that is higher."""
        ...
