"""What one look of the sealer has seen."""

from dataclasses import dataclass

from common.dialects.sqlite.shapes import StoredShape, TouchLog
from common.dialects.sqlite.touches import TouchedTable
from common.dialects.sqlite.values import Row


@dataclass(frozen=True, slots=True)
class LogLook:
    """One touch log as it stood, and the rows that it is about as they stood then."""

    log: TouchLog
    after: int
    """The seq before its first touch."""
    last_seq: int
    bounds: tuple[int, ...]
    """The last seq of each mark, in the marks' order; empty for a log of an older shape."""
    touched: tuple[TouchedTable, ...]
    """One a bound, and one for what follows the last."""
    readable: bool
    """False: the table is gone, or its key is another one. What the rows became can't be told."""
    shape: StoredShape
    """What it is sealed under: the log's own shape as long as the table still has all of it, else the table's."""
    shape_id: int | None
    """The number of that shape; None where capture is not installed for it yet."""
    current: dict[str, Row]
    """By canonical key, in the columns of `shape`; a key that is missing here has no row."""
    not_known: frozenset[str] = frozenset()
    """Keys of rows that were applied while the table had more columns than `shape`: what is sealed under it tells
    nothing of the others, and what other nodes have in them need not be the default."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was committed and not sealed at one moment."""

    turn: int
    """Counts the sealers' commits: what was seen holds until it moves."""
    last_lsn: int
    last_tx_id: str | None
    marks: tuple[int, ...]
    last_mark: int | None
    """Of the marks that keep nothing apart: a row whose table has another shape now is known as it is now, no other
    way."""
    logs: tuple[LogLook, ...]

    @property
    def empty(self) -> bool:
        """Whether there is nothing to seal."""
        return not self.logs and not self.marks and self.last_mark is None
