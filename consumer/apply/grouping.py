"""How many txs go into one commit, and which may not go together."""

from dataclasses import dataclass, field

from consumer.apply.prepare import Prepared
from consumer.dedup import TxKey
from consumer.incoming import Incoming

_MOST_BYTES = 32 * 1024 * 1024


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
    changes: int = 0
    bytes: int = 0

    def add(self, one: Prepared) -> None:
        """Take one more."""
        self.txs.append(one)
        self.by_key[one.incoming.key] = one
        self.changes += one.incoming.changes
        self.bytes += one.incoming.size

    def is_full(self, tx: Incoming, most_changes: int) -> bool:
        """Tell whether `tx` has to go into the next one."""
        return self.changes + tx.changes > most_changes or self.bytes + tx.size > _MOST_BYTES

    def disagrees(self, one: Prepared) -> bool:
        """Tell whether another copy of this tx is here and not the same: that one must come to its end first."""
        twin = self.by_key.get(one.incoming.key)
        return twin is not None and bool(one.error or twin.error or twin.sha256 != one.sha256)
