"""The short way of applying: a database says in one answer whether many changes meet just what they were made on."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import msgspec
import sqlalchemy as sa

from common.ports.dialect import TableShape
from common.versions import Version
from common.wire.records import TableMeta


class RowRun(msgspec.Struct, frozen=True, gc=False):
    """What the changes of one row come to that follow each other without a gap: each was made on top of the last."""

    pk: bytes
    """JSON object of the primary key, as on the wire."""
    is_new: bool
    """The first of them is an insert."""
    first_base: Version
    """What the first was made on top of; NEVER for a key that never was."""
    first_version: Version
    image: bytes | None
    """The row after the last of them; None where it was deleted."""
    version: Version
    base: Version
    """Of the last of them."""


class Asked(Protocol):
    """One statement that went to the database."""

    def rows(self) -> Sequence[tuple[Any, ...]]:
        """Return what it answered; not before the block of `together` is left."""
        ...


class Together(Protocol):
    """Statements that go to the database in one round trip, in the order of the calls."""

    def ask(self, statement: sa.Executable, given: Mapping[str, object] | None = None) -> Asked:
        """Add one."""
        ...


class PlainRows(Protocol):
    """What is to be written to one table, made ready for the statements of one database. Any thread may hold it."""

    @property
    def table(self) -> TableShape:
        """Where it goes."""
        ...


@runtime_checkable
class WritesPlain(Protocol):
    """A database whose sessions have the short way."""

    def plain_rows(self, table: TableShape, meta: TableMeta, runs: Sequence[RowRun]) -> PlainRows:
        """Make rows ready to be written; asks the database nothing, so it may be done ahead. No two runs have the same
        `pk`. Raises PoisonError where keys or images don't fit the table."""
        ...


class PlainWriting(Protocol):
    """Writes of one `ApplySession`, each call within a block of `together`: in the first every table's `claim`, in the
    second every table's `write`, in the third every table's `look_back`. `stands` and `holds` tell, after the first and
    the third, what came of it; False means: roll back, and go the long way. So does a PoisonError of `write`: a new row
    stands already, or two runs are of one key in two spellings."""

    def together(self) -> AbstractContextManager[Together]:
        """What is asked within the block goes to the database at once. Raises what the statements come to."""
        ...

    def claim(self, rows: PlainRows) -> None:
        """Lock the rows and look at their versions."""
        ...

    def stands(self, rows: PlainRows) -> bool:
        """Tell whether each row stands at its `first_base`, or has no version and, if it is not new, is there. Of what
        is new and never was, `write` tells."""
        ...

    def write(self, rows: PlainRows) -> None:
        """Make the rows so, and record their versions."""
        ...

    def end_writing(self) -> None:
        """Once, behind every `write`, in their block: own writes are looked for up to here."""
        ...

    def look_back(self, rows: PlainRows, *, references: bool) -> None:
        """Look for own writes of these rows that slipped in, and, with `references`, at every declared foreign key of
        them and to them; what they point to is locked then. In a later block than every `write`."""
        ...

    def holds(self) -> bool:
        """Tell whether nothing was found."""
        ...
