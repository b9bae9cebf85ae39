"""Conflicts as they are kept in `rf_conflict`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from common.config.model import Policy
from common.schema import tables as rf
from common.versions import Version
from consumer.statements import insert_many


class Kind(StrEnum):
    """What the incoming change wanted."""

    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    IDENTITY = "identity"
    """Two images under one version: a node that was rewound made them."""

    @classmethod
    def of(cls, op: str) -> "Kind":
        """Return the kind for a change's `op`."""
        return {"I": cls.INSERT, "U": cls.UPDATE, "D": cls.DELETE}[op]


class Winner(StrEnum):
    """Whose image stands."""

    OURS = "ours"
    THEIRS = "theirs"


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two writes of one row that did not know of each other, and which of them stands."""

    table: str
    pk: str
    kind: Kind
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


def record(connection: sa.Connection, conflicts: Iterable[Conflict], now_us: int) -> None:
    """Write settled conflicts, in the transaction that decides them."""
    rows = [_row(conflict, now_us) for conflict in conflicts]
    if rows:
        insert_many(connection, rf.conflict, list(rows[0]), [list(row.values()) for row in rows])


def _row(conflict: Conflict, now_us: int) -> dict[str, Any]:
    return {
        "table_name": conflict.table,
        "pk": conflict.pk,
        "kind": conflict.kind.value,
        "state": "settled",
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
        "recorded_us": now_us,
    }


def version_text(version: Version) -> str:
    """Return a version as it stands on the wire."""
    return json.dumps(list(version), separators=(",", ":"))


def _text(image: bytes | None) -> str | None:
    return image.decode("utf-8") if image is not None else None
