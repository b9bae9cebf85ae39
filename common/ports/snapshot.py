"""What a snapshot needs from a database: all of it as it was sealed at one moment, and room for another's rows."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

import sqlalchemy as sa

from common.ports.dialect import ApplySession, NodeFacts, TableShape
from common.versions import Version


class FrozenRow(NamedTuple):
    """One row as it was sealed last, or what is known of one that is gone."""

    key: str
    """The dialect's canonical key."""
    pk: bytes
    """JSON object of the primary key, as on the wire."""
    image: bytes | None
    """JSON object of the row; None: deleted, or it has stepped back."""
    version: Version
    """NEVER for a row older than `migrate`."""
    base: Version
    deleted: bool
    """A tombstone. Else a row without image has stepped back."""


class FrozenLook(Protocol):
    """One moment of a database, whatever others write meanwhile. For one thread."""

    @property
    def connection(self) -> sa.Connection:
        """The same moment, for the `rf_*` tables."""
        ...

    def rows(self, table: TableShape) -> Iterator[FrozenRow]:
        """Yield the table's rows and tombstones, and the rows that have stepped back.

        What is committed and not sealed is taken back: such a row comes as it was before. Rows that nobody can name,
        with NULL in their key, are left out. Ask for the next table when this one is done."""
        ...

    def pk_of(self, table: TableShape, key: str) -> bytes:
        """Return a key as the wire has it."""
        ...


class Snapshots(Protocol):
    """Takes such looks, and makes room for the rows of another database."""

    def look(self, node: NodeFacts, tables: Sequence[TableShape]) -> AbstractContextManager[FrozenLook]:
        """Look at these tables as they are now. Keeps no writer waiting, but who changes their shape.

        Raises OutageError, ContentionError where somebody is just doing that."""
        ...

    def hold(self, session: ApplySession, tables: Sequence[TableShape]) -> None:
        """Let nobody else write to these tables until the end of the transaction."""
        ...

    def empty(self, session: ApplySession, tables: Sequence[TableShape]) -> None:
        """Take away all rows of these tables that have a name, and all that is known of the versions of any row."""
        ...

    def dangling(self, session: ApplySession, tables: Sequence[TableShape]) -> dict[str, int]:
        """Count by table the rows of all other tables that declare to point to a row of these, and point to none."""
        ...

    def count_on(self, session: ApplySession, tables: Sequence[TableShape]) -> list[str]:
        """Let the tables number their own new rows above those that are there now. Returns what could not be made so,
        each with its remedy."""
        ...
