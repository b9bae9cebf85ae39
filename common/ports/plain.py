"""The short way of applying: a database says in one answer whether many changes meet just what they were made on."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

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


class PlainWriting(Protocol):
    """Writes of one `ApplySession`, in the order of the calls: every table's `claim`, then every table's `write`, then
    every table's `holds`. False means: roll back, and go the long way."""

    def claim(self, table: TableShape, meta: TableMeta, runs: Sequence[RowRun]) -> bool:
        """Lock the rows; tell whether each stands at its `first_base`, or has no version yet and is there just if it
        is not new. No two runs are of one key."""
        ...

    def write(self, table: TableShape, runs: Sequence[RowRun]) -> None:
        """Make the rows so, and record their versions."""
        ...

    def holds(self, table: TableShape, runs: Sequence[RowRun], *, references: bool) -> bool:
        """Tell whether no own write of these rows slipped in, and, with `references`, whether every declared foreign
        key of them and to them holds; what they point to is locked then."""
        ...
