"""Txs prepared before their turn, by another thread than the one that applies."""

from collections.abc import Sequence

from consumer.apply.prepare import Prepared, Preparer
from consumer.incoming import Incoming


class Ahead:
    """What `Preparer` made of some txs, good for as long as the tables are as they were then."""

    def __init__(self, preparer: Preparer, txs: Sequence[Incoming]) -> None:
        self._made = {id(tx): preparer.prepare(tx) for tx in txs}

    def of(self, tx: Incoming, generation: int) -> Prepared | None:
        """Return what was made of `tx`; None where it must be looked at again, as all that has a fault must be."""
        made = self._made.get(id(tx))
        if made is None or made.incoming is not tx or made.error is not None or made.generation != generation:
            return None
        return made
