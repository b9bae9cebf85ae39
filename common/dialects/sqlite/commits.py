"""Whether anybody has committed anything since a moment: SQLite counts that for each connection.

`PRAGMA data_version` (https://www.sqlite.org/pragma.html#pragma_data_version) is another number after any other
connection's commit, of this process or of another, and takes a few microseconds, however many tables there are. A look
reads a page of each touch log."""

import sqlite3
from typing import NamedTuple

import sqlalchemy as sa

from common.dialects.sqlite.connection import borrowed


class Moment(NamedTuple):
    """What the counter showed. Numbers of two connections tell nothing of each other."""

    connection: sqlite3.Connection
    number: int

    def is_still(self, other: "Moment | None") -> bool:
        """Tell whether nobody has committed between this moment and the other."""
        return other is not None and self.connection is other.connection and self.number == other.number


class Commits:
    """Watches one database, over a connection that does nothing else: its own commits it would not be told of."""

    def __init__(self, watching: sa.Engine) -> None:
        """`watching`: an engine with one connection, which nobody writes on."""
        self._watching = watching

    def moment(self) -> Moment:
        """Return the moment of now. Raises OutageError, ContentionError."""
        with borrowed(self._watching) as connection:
            return Moment(connection, connection.execute("PRAGMA data_version").fetchone()[0])
