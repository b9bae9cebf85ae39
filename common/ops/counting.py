"""How much was done since somebody counted last: by the marks that every process of the node moves, whoever did it.

Nothing is counted on the hot path. LSNs have no gaps, so changes are told by two marks; txs are counted in pieces,
those alone that came since."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import sqlalchemy as sa

from common.ports.dialect import Database, NodeFacts
from common.retry import in_transaction
from common.schema import tables as rf

_PIECE = 10_000
"""Txs counted in one transaction: nobody waits for it."""
_MOST_OF_A_TX = 2**40
"""Changes: what a source says of its LSNs must not come to more than a database can add up."""
_Place = tuple[str, str]
"""A road or a source, and the incarnation that its LSNs count in."""


class Marks(msgspec.Struct, frozen=True):
    """Up to where everything was counted."""

    incarnation: str
    head_lsn: int
    roads: dict[str, dict[str, int]]
    """By sink and incarnation."""
    sources: dict[str, dict[str, int]]
    """By source and incarnation."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What was done since sampling began here. Never less than before."""

    sealed_changes: int = 0
    sealed_txs: int = 0
    published_changes: int = 0
    """Once for each road that took it."""
    applied_changes: int = 0
    applied_txs: int = 0


def read_marks(database: Database, facts: NodeFacts) -> Marks:
    """Return up to where everything is now. Raises OutageError."""
    head_lsn = database.log(facts).head().lsn
    roads, sources = in_transaction(database, _places)
    return Marks(facts.incarnation, head_lsn, roads, sources)


def counted(database: Database, before: Marks, now: Marks, totals: Totals) -> Totals:
    """Return `totals` with what was done between two marks. Raises OutageError."""
    sealed_changes, sealed_txs = _sealed(database, before, now)
    applied_changes, applied_txs = _applied(database, before, now)
    return Totals(
        sealed_changes=totals.sealed_changes + sealed_changes,
        sealed_txs=totals.sealed_txs + sealed_txs,
        published_changes=totals.published_changes + _moved(before.roads, now.roads),
        applied_changes=totals.applied_changes + applied_changes,
        applied_txs=totals.applied_txs + applied_txs,
    )


def encode_marks(marks: Marks) -> str:
    """Return marks as `rf_metric` keeps them."""
    return msgspec.json.encode(marks).decode()


def decode_marks(text: str) -> Marks:
    """Return what `encode_marks` wrote."""
    return _decoder.decode(text)


_decoder = msgspec.json.Decoder(Marks)


def _places(connection: sa.Connection) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, int]]]:
    cursor, state = rf.cursor.c, rf.sync_state.c
    roads = connection.execute(sa.select(cursor.sink, cursor.incarnation, cursor.lsn))
    taken = sa.select(state.peer, state.incarnation, state.last_lsn).where(state.direction == "in")
    return _by_name(roads), _by_name(connection.execute(taken))


def _by_name(rows: Any) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, incarnation, lsn in rows:
        found.setdefault(name, {})[incarnation] = lsn
    return found


def _moved(before: dict[str, dict[str, int]], now: dict[str, dict[str, int]]) -> int:
    return sum(
        max(0, lsn - before.get(name, {}).get(incarnation, 0))
        for name, places in now.items()
        for incarnation, lsn in places.items()
    )


def _sealed(database: Database, before: Marks, now: Marks) -> tuple[int, int]:
    """Return changes and txs. A node that got a new incarnation may have sealed on in the old one before that."""
    same = before.incarnation == now.incarnation
    changes, txs = 0, 0
    if not same:
        changes, txs = _summed(database, rf.tx, "to_lsn", _own(before.incarnation), before.head_lsn, None)
    after_lsn = before.head_lsn if same else 0
    _, more = _summed(database, rf.tx, "to_lsn", _own(now.incarnation), after_lsn, now.head_lsn)
    return changes + max(0, now.head_lsn - after_lsn), txs + more


def _applied(database: Database, before: Marks, now: Marks) -> tuple[int, int]:
    """Return changes and txs; what was set aside below the watermark is none of them."""
    changes = txs = 0
    for peer, places in now.sources.items():
        for incarnation, lsn in places.items():
            after_lsn = before.sources.get(peer, {}).get(incarnation, 0)
            if lsn > after_lsn:
                # A tx counts when the watermark passes it: it begins at or above the old one, and below the new one.
                found = _summed(database, rf.applied_tx, "prev_lsn", _of(peer, incarnation), after_lsn - 1, lsn - 1)
                changes, txs = changes + found[0], txs + found[1]
    return changes, txs


def _own(incarnation: str) -> sa.ColumnElement[bool]:
    return rf.tx.c.incarnation == incarnation


def _of(peer: str, incarnation: str) -> sa.ColumnElement[bool]:
    return sa.and_(rf.applied_tx.c.source_node == peer, rf.applied_tx.c.incarnation == incarnation)


def _summed(
    database: Database, table: sa.Table, by: str, whose: sa.ColumnElement[bool], after_lsn: int, until_lsn: int | None
) -> tuple[int, int]:
    """Return the changes and the txs with `after_lsn < by <= until_lsn`, a piece at a time along an index."""
    changes = txs = 0
    last: int | None = after_lsn
    while last is not None:
        piece: Callable[[sa.Connection], Any] = partial(
            _piece, table=table, by=by, whose=whose, after_lsn=last, until_lsn=until_lsn
        )
        many, size, reached = in_transaction(database, piece)
        changes, txs = changes + int(size or 0), txs + many
        last = reached if many == _PIECE else None
    return changes, txs


def _piece(
    connection: sa.Connection,
    *,
    table: sa.Table,
    by: str,
    whose: sa.ColumnElement[bool],
    after_lsn: int,
    until_lsn: int | None,
) -> Any:
    column = table.c[by]
    size = table.c.to_lsn - table.c.prev_lsn
    size = sa.case((size < _MOST_OF_A_TX, size), else_=_MOST_OF_A_TX).label("size")
    query = sa.select(column.label("place"), size).where(whose, column > after_lsn).order_by(column).limit(_PIECE)
    if until_lsn is not None:
        query = query.where(column <= until_lsn)
    found = query.subquery()
    return connection.execute(
        sa.select(sa.func.count(), sa.func.sum(found.c.size), sa.func.max(found.c.place)).select_from(found)
    ).one()
