"""Which dead letters wait for rows, and are tried again by themselves: the longest untouched first."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from common.errors import Reason
from common.schema import tables as rf
from consumer.dead_letters.states import LetterState
from consumer.dead_letters.table_store import COLUMNS, Letter, letter_of
from consumer.statements import selective

_LEAST_WAIT_US = 1_000_000
_LONGEST_WAIT_US = 60_000_000

_LETTER = rf.dead_letter.c
_ORDER = (_LETTER.last_failed_us, _LETTER.tx_id)
_EARLY = sa.select(*COLUMNS).where(_LETTER.state == LetterState.EARLY.value)


def early(connection: sa.Connection, limit: int) -> list[Letter]:
    """Return letters in state `early`."""
    return _letters(connection, _EARLY.order_by(*_ORDER).limit(limit))


def early_and_due(connection: sa.Connection, now_us: int, limit: int) -> list[Letter]:
    """Return those in state `early` that it is time to try.

    Due is one whose last try is as long ago as a quarter of the time it has been waiting, at least a second, at most a
    minute: the waits grow by themselves and nothing has to be stored for it."""
    waited = now_us - _LETTER.last_failed_us
    grown = waited * 4 >= _LETTER.last_failed_us - _LETTER.first_failed_us
    # By the column itself: those that were tried just now are then not even read.
    rested = _LETTER.last_failed_us <= now_us - _LEAST_WAIT_US
    due = _EARLY.where(rested, sa.or_(grown, waited >= _LONGEST_WAIT_US))
    # Tried last under a clock that was ahead, and was set right since. Each is a stretch of the index.
    ahead = _EARLY.where(_LETTER.last_failed_us > now_us)
    found = [one for query in (due, ahead) for one in _letters(connection, query.order_by(*_ORDER).limit(limit))]
    return found[:limit]


def early_for(connection: sa.Connection, parents: Sequence[str], limit: int) -> list[Letter]:
    """Return those in state `early` that wait for rows of `parents`."""
    query = _EARLY.order_by(*_ORDER).limit(limit)
    # Parent by parent: each in the order of an index, whereas of several at once PostgreSQL may read all letters.
    found = [one for name in parents for one in _letters(connection, query.where(_LETTER.table_name == name))]
    return sorted(found, key=lambda letter: (letter.last_failed_us, letter.tx_id))[:limit]


def orphans(
    connection: sa.Connection, parent: str | None, failed_before_us: int, limit: int, now_us: int | None = None
) -> list[Letter]:
    """Return letters that are `dead` for want of a row of `parent` (None: of any table).

    `failed_before_us`: those whose last try was not after that, or was under a clock that was ahead of `now_us`."""
    is_long_ago = _LETTER.last_failed_us <= failed_before_us
    query = sa.select(*COLUMNS).where(
        _LETTER.state == LetterState.DEAD.value,
        selective(connection.dialect.name, _LETTER.reason == Reason.FOREIGN_KEY.value),
        is_long_ago if now_us is None else sa.or_(is_long_ago, _LETTER.last_failed_us > now_us),
    )
    if parent is not None:
        query = query.where(_LETTER.table_name == parent)
    return _letters(connection, query.order_by(*_ORDER).limit(limit))


def _letters(connection: sa.Connection, query: sa.Select[Any]) -> list[Letter]:
    return [letter_of(row) for row in connection.execute(query)]
