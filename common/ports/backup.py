"""What a database can do about a copy of all of it, and about putting one back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

Advance = Callable[[int], None]
"""Is told that so many bytes more are done."""


class Holds(Enum):
    """What stands behind the configured URL."""

    NOTHING = "nothing"
    NODE = "node"
    OTHER_TABLES = "other tables"
    UNREADABLE = "unreadable"
    """A file that is there and is no database, or a damaged one."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What a copy holds: read in the same snapshot."""

    node_id: str
    incarnation: str
    last_lsn: int
    """The end of this incarnation's sealed log; 0 where nothing was sealed."""
    last_tx_id: str | None
    revision: str
    """Of the `rf_*` tables."""


class Backups(Protocol):
    """Copies of one database."""

    @property
    def file_name(self) -> str:
        """What a copy's file is called."""
        ...

    def holds(self) -> Holds:
        """Look at what is there now; makes nothing. Raises OutageError."""
        ...

    def node_id(self) -> str | None:
        """Return whose database it is now, of whatever release; None where nobody's. Raises OutageError."""
        ...

    def copy(self, target: Path, advance: Advance) -> Moment:
        """Write a consistent copy of a node's database, in use as it may be, to a new file.

        Raises OutageError, ConfigError where a program of the server's is missing, RowferryError with what it said,
        OSError where the copy can't be written."""
        ...

    def put_back(self, copy: Path, news: Sequence[sa.Executable], advance: Advance) -> None:
        """Put a copy in the place of what is there, and run `news` on it: all of that in one transaction.

        Raises OutageError, ConfigError, RowferryError with what one of the server's programs said."""
        ...
