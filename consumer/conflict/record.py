"""Conflicts as they are kept in `rf_conflict`."""

import json
from collections.abc import Iterable, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import sqlalchemy as sa

from common.config.model import Policy
from common.schema import tables as rf
from common.versions import Version
from common.wire.records import TableMeta
from consumer.statements import insert_many


class Kind(StrEnum):
    """What the incoming change wanted."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    IDENTITY = "identity"
    """Two images under one version: a node that was rewound made them."""
    FIRST_SYNC = "first-sync"
    """No two writes: the row stood here from before the first sync, and `adopt` gave it the image of another node."""
    UNIQUE = "unique"
    """A row has a value in a unique key that one of higher rank has: it steps back."""
    FOREIGN_KEY = "foreign-key"
    """A row points to one that is deleted, moved or has stepped back: it steps back."""

    @classmethod
    def of(cls, op: str) -> "Kind":
        """Return the kind for a change's `op`."""
        return {"I": cls.INSERT, "U": cls.UPDATE, "D": cls.DELETE}[op]


BETWEEN_ROWS = frozenset({Kind.UNIQUE, Kind.FOREIGN_KEY})
"""Not two writes of one row: nobody chooses, it ends when one of the rows changes."""


class State(StrEnum):
    """Whether a conflict is decided."""

    SETTLED = "settled"
    WAITING = "waiting"
    """The row stays as it was here, until somebody chooses."""


class Winner(StrEnum):
    """Whose image stands."""

    OURS = "ours"
    THEIRS = "theirs"
    NEITHER = "neither"
    """Nobody's yet, or what was chosen is like neither."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two writes of one row that did not know of each other, and which of them stands."""

    table: str
    row_key: str
    pk: str
    kind: Kind
    state: State
    winner: Winner
    rule: Policy
    source_node: str
    tx_id: str
    lsn: int
    our_version: Version
    their_version: Version
    their_base: Version | None
    our_image: bytes | None
    their_image: bytes | None
    our_meta: TableMeta | None
    """How `our_image` is written; None: as the table is here."""
    their_meta: TableMeta | None
    note: str | None = None


def record(connection: sa.Connection, conflicts: Iterable[Conflict], now_us: int) -> None:
    """Write conflicts, in the transaction that decides them."""
    rows = [_row(conflict, now_us) for conflict in conflicts]
    if rows:
        insert_many(connection, rf.conflict, list(rows[0]), [list(row.values()) for row in rows])


def settle(
    connection: sa.Connection, numbers: Iterable[int], winner: Winner, *, by: str, note: str, now_us: int
) -> None:
    """Note of conflicts that they are decided now, or decided anew."""
    given = {"state": State.SETTLED.value, "winner": winner.value}
    given |= {"settled_by": by, "settled_note": note}
    for number in numbers:
        connection.execute(sa.update(rf.conflict).where(rf.conflict.c.id == number), {**given, "settled_us": now_us})


def renew_ours(connection: sa.Connection, number: int, version: Version, image: bytes | None, meta: TableMeta) -> None:
    """Note what a conflict that waited was decided against: the row as it was then, not as it was when they met."""
    values = {"our_version": version_text(version), "our_image": _text(image), "our_meta": _meta_text(meta)}
    connection.execute(sa.update(rf.conflict).where(rf.conflict.c.id == number), values)


def renew_clash(
    connection: sa.Connection, number: int, kind: Kind, version: Version, image: bytes | None, meta: TableMeta
) -> None:
    """Note of a change that waited for another row that its own row was written meanwhile: from here on the record is
    of these two writes, like that of any two that met. The other row is on record where it steps back."""
    connection.execute(sa.update(rf.conflict).where(rf.conflict.c.id == number), {"kind": kind.value})
    renew_ours(connection, number, version, image, meta)


def _row(conflict: Conflict, now_us: int) -> dict[str, Any]:
    return {
        "table_name": conflict.table,
        "row_key": conflict.row_key,
        "pk": conflict.pk,
        "kind": conflict.kind.value,
        "state": conflict.state.value,
        "winner": conflict.winner.value,
        "rule": conflict.rule.value,
        "source_node": conflict.source_node,
        "tx_id": conflict.tx_id,
        "lsn": conflict.lsn,
        "our_version": version_text(conflict.our_version),
        "their_version": version_text(conflict.their_version),
        "their_base": version_text(conflict.their_base) if conflict.their_base is not None else None,
        "our_image": _text(conflict.our_image),
        "their_image": _text(conflict.their_image),
        "our_meta": _meta_text(conflict.our_meta),
        "their_meta": _meta_text(conflict.their_meta),
        "settled_note": conflict.note,
        "recorded_us": now_us,
    }


def version_text(version: Version) -> str:
    """Return a version as it stands on the wire."""
    return json.dumps(list(version), separators=(",", ":"))


def read_version(text: str) -> Version:
    """Return what `version_text` wrote."""
    return Version(*json.loads(text))


def meta_of(text: str | None) -> TableMeta | None:
    """Return how an image on record is written; None: as the table is here."""
    return None if text is None else TableMeta.model_validate_json(text)


def image_names(image: bytes | None) -> Set[str]:
    """Return the columns that an image names."""
    return set() if image is None else msgspec.json.decode(image, type=dict[str, msgspec.Raw]).keys()


def written_as(meta: TableMeta | None, image: bytes | None, own: TableMeta) -> TableMeta:
    """Return how an image on record is written, of those columns that the table (`own`) still has.

    `meta` is as it was kept; None: as the table was here then. A column that came since is not in the image: named all
    the same it would be emptied, where it shall stay as it stands."""
    kept = meta or own
    names = kept.columns.keys() if image is None else image_names(image)
    columns = {name: logical for name, logical in kept.columns.items() if name in names and name in own.columns}
    if columns.keys() == kept.columns.keys() or not columns.keys() >= set(kept.pk):
        return kept
    return TableMeta(pk=kept.pk, columns=columns)


def _meta_text(meta: TableMeta | None) -> str | None:
    return None if meta is None else meta.model_dump_json()


def _text(image: bytes | None) -> str | None:
    return image.decode("utf-8") if image is not None else None
