"""Which integer keys a node gives by itself, so that no two nodes give the same one. Pure arithmetic.

The keys below `2**bits` fall in two halves. In the lower one nodes step: node n gives n, n + nodes, n + 2 · nodes, …,
as a sequence with an increment does. The upper half is for databases that can only count on by one from the largest key
that stands (SQLite): it is cut into chunks, which belong to the nodes in turn. Once another node's larger keys have
come, a node goes on in its next chunk above them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeyShare:
    """The share of one node. All nodes have the same `nodes` and `bits`, each its own `number`."""

    number: int
    """From 1 to `nodes`."""
    nodes: int
    bits: int

    @property
    def lower_end(self) -> int:
        """The first key that is not in the lower half any more."""
        return 1 << (self.bits - 1)

    @property
    def last(self) -> int:
        """The largest key of all."""
        return (1 << self.bits) - 1

    @property
    def chunk(self) -> int:
        """How many keys a chunk has: with few bits more chunks, for each exchange of rows may use one up."""
        left = self.bits - 1 - (self.nodes - 1).bit_length()
        return 1 << max(4, left * 4 // 10)

    def next_step(self, above: int) -> int:
        """Return this node's first key of the lower half above `above`; it may lie beyond its end."""
        least = max(above, 0) + 1
        return least + (self.number - least) % self.nodes

    def is_step(self, key: int) -> bool:
        """Tell whether the node may give `key` by stepping."""
        return key > 0 and key % self.nodes == self.number % self.nodes

    def in_chunk(self, key: int) -> bool:
        """Tell whether `key` lies in one of this node's chunks."""
        at = key - self.lower_end
        return at >= 0 and key <= self.last and at // self.chunk % self.nodes == self.number - 1

    def room(self, key: int) -> int:
        """Return how many keys its chunk has from `key` on."""
        return self.chunk - (key - self.lower_end) % self.chunk

    def next_chunk(self, above: int) -> int | None:
        """Return the first key of the node's next chunk above `above`; None where there is none left."""
        least = 0 if above < self.lower_end else (above - self.lower_end) // self.chunk + 1
        start = self.lower_end + (least + (self.number - 1 - least) % self.nodes) * self.chunk
        return start if start + self.chunk - 1 <= self.last else None
