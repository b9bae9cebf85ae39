"""Between the changes of a batch and the rows that step back because of them."""

from collections.abc import Mapping, Sequence, Set

import msgspec
import sqlalchemy as sa

from common.ports.dialect import RowWrite, TableShape
from consumer.apply.decision import Entry
from consumer.standing.holding import Cause
from consumer.standing.store import Copies
from consumer.standing.theory import RowId
from consumer.standing.writing import Writes
from consumer.tables import TableUse


def concerns(kept: Set[str], names: Set[str], shapes: Mapping[str, TableShape]) -> bool:
    """Tell whether writing to the tables `names` may let a row return, or must not wake one.

    `kept`: the tables of which rows have stepped back."""
    if not kept:
        return False
    children = {name for name in kept if name in shapes and _parents(shapes[name]) & names}
    return bool(kept & names or children)


def has_late_keys(names: Set[str], shapes: Mapping[str, TableShape]) -> bool:
    """Tell whether one of the tables `names` has a unique key of which no write would say that it clashes."""
    return any(shapes[name].late_keys for name in names if name in shapes)


def causes(writes: Writes, entries: Sequence[Entry]) -> dict[RowId, Cause]:
    """Return the change behind each write; the first of all where nothing is written."""
    by_pk = {(entry.use.name, bytes(entry.change.pk)): entry for entry in entries}
    by_version = {(entry.use.name, bytes(entry.change.pk), entry.change.version): entry for entry in entries}
    found: dict[RowId, Cause] = {}
    for use, rows in writes.items():
        for row in rows:
            # A choice may have let another one stand, which waited here and is no change of this call.
            entry = by_version.get((use.name, row.pk, row.version)) or by_pk[use.name, row.pk]
            found[RowId(use.name, row.key)] = _cause(entry)
    return found


def without_copies(
    connection: sa.Connection, writes: Mapping[TableUse, Sequence[RowWrite]]
) -> dict[TableUse, list[RowWrite]]:
    """Return the same writes, those marked of which there is a copy: they do not stand."""
    copies = Copies(connection)
    found: dict[TableUse, list[RowWrite]] = {}
    for use, rows in writes.items():
        kept = copies.get(use.name, [row.key for row in rows])
        found[use] = [
            msgspec.structs.replace(row, aside=row.key in kept and kept[row.key].is_of(row.version)) for row in rows
        ]
    return found


def _parents(shape: TableShape) -> set[str]:
    return {key.parent for key in shape.foreign_keys}


def _cause(entry: Entry) -> Cause:
    is_chosen = bool(entry.change.resolves) or entry.released_by is not None
    return Cause(entry.source_node, entry.change.tx_id, entry.change.lsn, entry.counts, is_chosen)
