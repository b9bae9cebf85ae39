"""Conflicts as they are on record, and as `--json`, HTTP and the page give them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.ports.dialect import Database
from common.schema import tables as rf
from common.versions import NEVER, Version
from consumer.conflict.record import State
from consumer.dedup import TxKey
from consumer.readable import readable
from consumer.statements import reading

MOST = 1_000
"""So many are listed at most, the newest; a fleet that clashes all day has millions."""
_IMAGES = ("our_image", "their_image")
_INNER = ("row_key", "our_meta", "their_meta")
"""How the images are written and the row is found: for programs within."""


_STANDING = sa.text(
    "SELECT v.main_epoch, v.hlc, v.node_id FROM rf_row_version v JOIN rf_table t ON t.table_id = v.table_id"
    " WHERE t.name = :name AND v.key = :key"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which conflicts; None is no condition."""

    table: str | None = None
    source_node: str | None = None
    state: str | None = None
    winner: str | None = None
    lost_by: str | None = None
    """Those in which a write of this node stepped back."""
    most: int = MOST
    skip: int = 0
    """So many of the newest are left out: of a page before this one."""


def find(connection: sa.Connection, wanted: Wanted) -> list[dict[str, Any]]:
    """Return conflicts without their images, oldest first; of too many the newest."""
    table = rf.conflict
    columns = [column for column in table.c if column.name not in (*_IMAGES, *_INNER)]
    query = sa.select(*columns).order_by(table.c.id.desc()).limit(wanted.most).offset(wanted.skip)
    same = {"table_name": wanted.table, "source_node": wanted.source_node, "state": wanted.state}
    for name, value in {**same, "winner": wanted.winner}.items():
        if value is not None:
            query = query.where(table.c[name] == value)
    if wanted.winner is not None:
        # What waits has a mark of its side there, and no winner yet.
        query = query.where(table.c.state == State.SETTLED.value)
    if wanted.lost_by is not None:
        # A row that somebody gave in the place of both let both step back.
        ended = sa.and_(table.c.winner.in_(["theirs", "neither"]), table.c.state == State.SETTLED.value)
        query = query.where(ended, table.c.our_version.endswith(_written_by(wanted.lost_by), autoescape=True))
    return [_document(row) for row in reversed(connection.execute(query).mappings().all())]


def still_waiting(database: Database, keys: Collection[TxKey]) -> dict[TxKey, int]:
    """Return how many conflicts of these txs wait for a choice: what came after one of them may have brought it.

    Raises OutageError."""
    if not keys:
        return {}
    found = _counted(database, _waiting_by_tx())
    return {key: count for key, count in found.items() if key in keys}


def all_waiting(database: Database, source_node: str | None, most: int) -> dict[TxKey, int]:
    """Return how many conflicts of each tx of a node (None: of all) wait for a choice; of `most` txs, the newest.

    Raises OutageError."""
    met = rf.conflict.c
    query = _waiting_by_tx()
    if source_node is not None:
        query = query.where(met.source_node == source_node)
    return _counted(database, query.order_by(sa.func.max(met.id).desc()).limit(most))


def _waiting_by_tx() -> sa.Select[Any]:
    met = rf.conflict.c
    query = sa.select(met.source_node, met.tx_id, sa.func.count()).where(met.state == State.WAITING.value)
    return query.group_by(met.source_node, met.tx_id)


def _counted(database: Database, query: sa.Select[Any]) -> dict[TxKey, int]:
    with reading(database) as connection:
        return {(source, tx_id): count for source, tx_id, count in connection.execute(query)}


def read(connection: sa.Connection, number: int) -> dict[str, Any] | None:
    """Return one conflict with both images, and the version that its row has now; None where there is none of this
    number."""
    # Before the rest: who chooses on a version that is older than what he saw is asked again, one that is newer would
    # let him overwrite what he did not see.
    version = _standing(connection, number)
    columns = [column for column in rf.conflict.c if column.name not in _INNER]
    row = connection.execute(sa.select(*columns).where(rf.conflict.c.id == number)).mappings().one_or_none()
    return None if row is None else _document(row) | {"row_version": list(version)}


def _standing(connection: sa.Connection, number: int) -> Version:
    met = rf.conflict.c
    row = connection.execute(sa.select(met.table_name, met.row_key).where(met.id == number)).one_or_none()
    found = None if row is None else connection.execute(_STANDING, {"name": row[0], "key": row[1]}).one_or_none()
    return NEVER if found is None else Version(*found)


def _written_by(node_id: str) -> str:
    return f',"{node_id}"]'


def _document(row: Mapping[Any, Any]) -> dict[str, Any]:
    given = dict(row)
    document: dict[str, Any] = {"id": given.pop("id"), "table": given.pop("table_name")}
    recorded_us, settled_us = given.pop("recorded_us"), given.pop("settled_us")
    for name, value in given.items():
        is_json = name == "pk" or name.endswith(("_version", "_base", "_image"))
        document[name] = readable(value) if is_json else value
    if document["state"] == State.WAITING:
        document["winner"] = None
    document["recorded_at"] = to_iso(recorded_us)
    document["settled_at"] = None if settled_us is None else to_iso(settled_us)
    return document
