"""How many txs go into one commit, and which may not go together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.wire.records import TableMeta
from consumer.apply.prepare import Prepared
from consumer.dedup import TxKey
from consumer.incoming import Incoming

_MOST_BYTES = 32 * 1024 * 1024
_MOST_SOURCES = 20
_MOST_LETTERS = 200
"""Of one commit, where an application waits for the one write lock meanwhile."""


@dataclass(slots=True)
class Pace:
    """The size of groups: smaller after rows were held by others, growing again with each that went through."""

    most_changes: int
    now: int

    def shrink(self) -> None:
        """Others held the rows."""
        self.now = max(1, self.now // 4)

    def grow(self) -> None:
        """A group went through."""
        self.now = min(self.most_changes, self.now * 2)


@dataclass(slots=True)
class Group:
    """Txs that go into one commit."""

    txs: list[Prepared] = field(default_factory=list)
    by_key: dict[TxKey, Prepared] = field(default_factory=dict)
    columns: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """Of each table, as the first sender here names them."""
    _added: Mapping[str, TableMeta] | None = None
    """The tables of the tx added last. Most txs share one object with the one before."""
    sources: set[str] = field(default_factory=set)
    letters: int = 0
    """Those of which it is known beforehand that they are set aside."""
    changes: int = 0
    bytes: int = 0

    def add(self, one: Prepared) -> None:
        """Take one more."""
        self.txs.append(one)
        self.by_key[one.incoming.key] = one
        self.sources.add(one.incoming.source_node)
        self.letters += one.error is not None
        header = one.incoming.header
        if header is not None and header.tables is not self._added:
            self._added = header.tables
            for name, meta in header.tables.items():
                self.columns.setdefault(name, meta.columns)
        self.changes += one.incoming.changes
        self.bytes += one.incoming.size

    def is_full(self, tx: Incoming, most_changes: int) -> bool:
        """Tell whether `tx` has to go into the next one."""
        return self.changes + tx.changes > most_changes or self.bytes + tx.size > _MOST_BYTES

    def holds_long(self, tx: Incoming) -> bool:
        """Tell whether a commit with `tx` would hold a database's one write lock for long, however few rows it has.

        Each source has its books, and each dead letter is a row: who makes up names has a thousand in a message."""
        has_sources = len(self.sources) >= _MOST_SOURCES and tx.source_node not in self.sources
        return has_sources or self.letters >= _MOST_LETTERS

    @property
    def leaves_others_waiting(self) -> bool:
        """Whether it was full of what nobody hurries for."""
        return self.letters > _MOST_SOURCES // 2

    def disagrees(self, one: Prepared) -> bool:
        """Tell whether what is here must come to its end first.

        Another copy of this tx that is not the same; or a tx whose sender names other columns of a table: of several
        writes of a row the last alone is written, and would take columns along that it does not name."""
        twin = self.by_key.get(one.incoming.key)
        if twin is not None and (one.error or twin.error or twin.sha256 != one.sha256):
            return True
        header = one.incoming.header
        if header is None or header.tables is self._added:
            return False
        named = header.tables.items()
        return any(self.columns.get(name, meta.columns).keys() != meta.columns.keys() for name, meta in named)
