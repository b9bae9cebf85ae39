"""Tells what was seen before: everything at or below the watermark, and what was applied or set aside above it."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa

from common.errors import Reason
from common.ports.plain import Asked, Together
from common.schema import tables as rf
from common.wire.records import TxHeader
from consumer.dead_letters.lsns import LsnSet
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import lock_letters
from consumer.statements import among_given, as_list, given_list, selective
from consumer.watermark import Mark

TxKey = tuple[str, str]
"""Source node and tx_id."""

UNPROVEN_REASONS = frozenset({Reason.UNSIGNED, Reason.UNKNOWN_KEY, Reason.BAD_SIGNATURE})
"""It could not show that it is from whom it says."""
BROKEN_REASONS = frozenset({Reason.CHECKSUM, Reason.FORMAT, Reason.LIMIT}) | UNPROVEN_REASONS
"""Such a dead letter says nothing about what the tx holds: another copy may be whole."""


class Standing(StrEnum):
    """What this node knows of a tx that comes in."""

    NEW = "new"
    DUPLICATE = "duplicate"
    ALTERED = "altered"
    """Known under this tx_id with another content."""
    FORKED = "forked"
    """Begins below the watermark, and is younger than what was taken there, ends above, or is where another tx is known
    to be: a rewound node made it."""
    HELD = "held"
    """Set aside before, in a way that another copy can't mend by itself."""


class KnownLetter(msgspec.Struct, frozen=True):
    """What dedup needs of a dead letter."""

    state: LetterState
    reason: str
    sha256: str
    first_failed_us: int


class Known(msgspec.Struct, frozen=True):
    """What is in the database about one tx."""

    applied_sha256: str | None = None
    letter: KnownLetter | None = None

    @property
    def is_settled(self) -> bool:
        """Tell whether it was applied, or is a dead letter that somebody replayed or discarded."""
        return self.applied_sha256 is not None or (self.letter is not None and not self.letter.state.is_open)


NOTHING = Known()


class Facts(msgspec.Struct, frozen=True, gc=False):
    """What a tx says of itself."""

    tx_id: str
    from_lsn: int
    to_lsn: int
    sha256: str


def stand(facts: Facts, known: Known, mark: Mark | None) -> Standing:
    """Decide how a tx that can be read stands. Pure."""
    if known.applied_sha256 is not None:
        return Standing.DUPLICATE if known.applied_sha256 == facts.sha256 else Standing.ALTERED
    if known.letter is not None:
        return _stand_by_letter(facts, known.letter)
    if mark is None or facts.from_lsn > mark.last_lsn:
        return Standing.NEW
    if facts.to_lsn > mark.last_lsn:
        # No tx of one history lies on both sides of a watermark.
        return Standing.FORKED
    if mark.last_tx_id is not None and facts.tx_id > mark.last_tx_id:
        return Standing.FORKED
    return Standing.DUPLICATE


def _stand_by_letter(facts: Facts, letter: KnownLetter) -> Standing:
    if not letter.state.is_open:
        return Standing.DUPLICATE
    if letter.reason in BROKEN_REASONS and letter.sha256 != facts.sha256:
        return Standing.NEW
    if letter.sha256 != facts.sha256:
        return Standing.ALTERED
    if letter.state is LetterState.FORKED or letter.reason == Reason.CRASH:
        return Standing.HELD
    return Standing.NEW


def is_anothers_place(connection: sa.Connection, header: TxHeader) -> bool:
    """Tell whether another tx was applied that has LSNs of this one: they are of two histories.

    Asked of what would be taken for a duplicate by the watermark alone: a node whose clock went back too makes tx_ids
    that are not above those of its old life. Where dedup rows were purged it can't be told."""
    return connection.execute(_OVERLAPPING, _place_of(header)).first() is not None


def _place_of(header: TxHeader) -> dict[str, object]:
    names = "tx_id", "source_node", "incarnation", "from_lsn", "to_lsn"
    return {name: getattr(header, name) for name in names}


def _overlapping() -> sa.Select[Any]:
    applied = rf.applied_tx.c
    of_log = applied.source_node == sa.bindparam("source_node"), applied.incarnation == sa.bindparam("incarnation")
    below = applied.prev_lsn < sa.bindparam("to_lsn", type_=sa.BigInteger)
    order = applied.source_node.desc(), applied.incarnation.desc(), applied.prev_lsn.desc()
    last = sa.select(applied.tx_id, applied.to_lsn).where(*of_log, below).order_by(*order).limit(1).subquery()
    is_there = last.c.to_lsn >= sa.bindparam("from_lsn", type_=sa.BigInteger)
    return sa.select(last.c.tx_id).where(is_there, last.c.tx_id != sa.bindparam("tx_id"))


_OVERLAPPING = _overlapping()


def look_up(connection: sa.Connection, keys: Iterable[TxKey]) -> Mapping[TxKey, Known]:
    """Return what is known of each tx; one query for each source. Keys of which nothing is known are left out."""
    by_source: dict[str, list[str]] = {}
    for source_node, tx_id in dict.fromkeys(keys):
        by_source.setdefault(source_node, []).append(tx_id)
    dialect = connection.dialect.name
    applied: dict[TxKey, str] = {}
    letters: dict[TxKey, KnownLetter] = {}
    for source_node, tx_ids in by_source.items():
        given = {"source_node": source_node, "tx_ids": as_list(dialect, tx_ids)}
        for tx_id, sha256, state, reason, first_failed_us in connection.execute(_known(dialect), given):
            if state is None:
                applied[source_node, tx_id] = sha256
            else:
                letters[source_node, tx_id] = KnownLetter(LetterState(state), reason, sha256, first_failed_us)
    return {key: Known(applied.get(key), letters.get(key)) for key in applied.keys() | letters.keys()}


def look_up_locked(
    connection: sa.Connection, keys: Iterable[TxKey]
) -> tuple[Mapping[TxKey, Known], Mapping[TxKey, LsnSet]]:
    """Return what is known, and keep others from settling the open letters among it until the end of the transaction.

    The second: which changes of these letters were applied in pieces."""
    wanted = list(keys)
    known = look_up(connection, wanted)
    waiting = [key for key, one in known.items() if one.letter is not None and one.letter.state.is_open]
    if not waiting:
        return known, {}
    applied = lock_letters(connection, waiting)
    # Whoever had the lock until now has settled one, or applied more of it.
    return look_up(connection, wanted), applied


def ask_known(together: Together, keys: Iterable[TxKey]) -> list[Asked]:
    """Ask PostgreSQL whether anything is known of txs from the first to the last tx_id of each source: then some answer
    has rows.

    The tx_ids of a log rise, so where all is new nothing is in between; to look for each of them took a tenth of what
    applying single rows takes. Some other log of the source may have been in there: whoever asks takes the long way."""
    tx_ids: dict[str, list[str]] = {}
    for source_node, tx_id in keys:
        tx_ids.setdefault(source_node, []).append(tx_id)
    return [
        together.ask(_ANY_BETWEEN, {"source_node": source, "first": min(ids), "last": max(ids)})
        for source, ids in tx_ids.items()
    ]


def _first_from(table: sa.Table) -> sa.Select[Any]:
    """Select the tx_id that comes first in the primary key's order: so it is no search through the table."""
    key = table.c.source_node, table.c.tx_id
    wanted = sa.and_(key[0] == sa.bindparam("source_node"), key[1] >= sa.bindparam("first"))
    found = sa.select(table.c.tx_id).where(wanted).order_by(*key).limit(1).subquery()
    return sa.select(found.c.tx_id).where(found.c.tx_id <= sa.bindparam("last"))


_ANY_BETWEEN = sa.union_all(_first_from(rf.applied_tx), _first_from(rf.dead_letter))


@cache
def _known(dialect: str) -> sa.CompoundSelect[Any]:
    nothing = [sa.cast(None, rf.dead_letter.c[name].type).label(name) for name in _OF_A_LETTER]
    return sa.union_all(
        _found(dialect, rf.applied_tx, [rf.applied_tx.c.sha256, *nothing]),
        _found(dialect, rf.dead_letter, [rf.dead_letter.c[name] for name in ("sha256", *_OF_A_LETTER)]),
    )


_OF_A_LETTER = ("state", "reason", "first_failed_us")


def _found(dialect: str, table: sa.Table, columns: Iterable[sa.ColumnElement[Any]]) -> sa.Select[Any]:
    """Select the rows with the tx_ids of one source, each by the primary key.

    PostgreSQL is told to: where its statistics are old it may read all rows of the source, and search the list for
    each of them, which takes minutes."""
    is_of_source = selective(dialect, table.c.source_node == sa.bindparam("source_node"))
    if dialect != "postgresql":
        return sa.select(table.c.tx_id, *columns).where(is_of_source, among_given(dialect, table.c.tx_id, "tx_ids"))
    given = given_list("tx_ids")
    one = sa.select(table.c.tx_id, *columns).where(is_of_source, table.c.tx_id == given.c.value).limit(1).lateral()
    return sa.select(one).select_from(given.join(one, sa.true()))
