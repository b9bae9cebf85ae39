"""`rf_dead_letter`: written in the commit that moves the watermark, read by lists, shows, replays and the page."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from common.errors import Reason
from common.schema import tables as rf
from common.wire.compress import compress, decompress
from common.wire.limits import Limits
from consumer.dead_letters.lsns import LsnSet
from consumer.dead_letters.states import OPEN_STATES, SETTLED_STATES, LetterState
from consumer.incoming import Incoming
from consumer.statements import keyed, upsert

_Text = TypeVar("_Text", str, str | None)

_UNBOUNDED = Limits(max_ratio=10**9)
"""What is read here was compressed here."""
_GREATEST = 2**31 - 1
"""What the columns of counts hold."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One row of `rf_dead_letter` without its body."""

    source_node: str
    tx_id: str
    incarnation: str | None
    prev_lsn: int | None
    from_lsn: int | None
    to_lsn: int | None
    exported_at: str | None
    changes: int | None
    parts: int
    reason: str
    state: LetterState
    table_name: str | None
    error: str
    attempts: int
    first_failed_us: int
    last_failed_us: int
    origin: str
    sha256: str
    broker_copy: bool
    applied_lsns: str | None = None
    settled_us: int | None = None
    settled_by: str | None = None
    settled_note: str | None = None

    @property
    def applied(self) -> LsnSet:
        """Those of its changes that were applied in pieces."""
        return LsnSet.parse(self.applied_lsns)

    @property
    def open_changes(self) -> int | None:
        """How many of its changes are left to be applied; None where its header can't be read."""
        if self.from_lsn is None or self.to_lsn is None:
            return None
        return self.to_lsn - self.from_lsn + 1 - len(self.applied) if self.state.is_open else 0


class SettledError(Exception):
    """Somebody replayed or discarded the letter meanwhile."""

    def __init__(self, state: LetterState) -> None:
        super().__init__(state.value)
        self.state = state


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try of a tx."""

    incoming: Incoming
    state: LetterState
    reason: Reason
    error: str
    table: str | None
    sha256: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters are meant. Everything given must hold; nothing given means all open ones."""

    tx_ids: tuple[str, ...] = ()
    source_node: str | None = None
    reason: str | None = None
    state: LetterState | None = None
    failed_before_us: int | None = None
    failed_after_us: int | None = None
    table: str | None = None
    """The one that stands in the way."""

    def clause(self) -> sa.ColumnElement[bool]:
        """Return the WHERE clause."""
        table = rf.dead_letter
        parts: list[sa.ColumnElement[bool]] = []
        if self.tx_ids:
            parts.append(table.c.tx_id.in_(self.tx_ids))
        if self.source_node is not None:
            parts.append(table.c.source_node == self.source_node)
        if self.reason is not None:
            parts.append(table.c.reason == self.reason)
        if self.failed_before_us is not None:
            parts.append(table.c.last_failed_us <= self.failed_before_us)
        if self.failed_after_us is not None:
            parts.append(table.c.last_failed_us >= self.failed_after_us)
        if self.table is not None:
            parts.append(table.c.table_name == self.table)
        if self.state is not None:
            parts.append(table.c.state == self.state.value)
        elif not self.tx_ids:
            parts.append(table.c.state.in_([state.value for state in OPEN_STATES]))
        return sa.and_(sa.true(), *parts)


COLUMNS = [column for column in rf.dead_letter.c if column.name != "body"]
"""What a `Letter` is made of."""
_IN_LOG_ORDER = tuple(rf.dead_letter.c[name] for name in ("source_node", "incarnation", "prev_lsn", "tx_id"))


def write_failures(connection: sa.Connection, failures: Sequence[Failure], now_us: int) -> None:
    """Insert the failed txs, or count one more attempt where they stand already."""
    if not failures:
        return
    known = _standing(connection, failures)
    rows = {failure.incoming.key: _row(failure, known.get(failure.incoming.key), now_us) for failure in failures}
    upsert(connection, rf.dead_letter, list(rows.values()))


def find(connection: sa.Connection, selection: Selection) -> list[Letter]:
    """Return the selected letters, oldest LSNs of a source first."""
    query = sa.select(*COLUMNS).where(selection.clause()).order_by(*_IN_LOG_ORDER)
    return [letter_of(row) for row in connection.execute(query)]


def find_newest(connection: sa.Connection, selection: Selection, most: int, skip: int = 0) -> list[Letter]:
    """Return the selected letters that failed last, newest first; of those that failed together the latest LSN."""
    newest = (rf.dead_letter.c.last_failed_us, *_IN_LOG_ORDER)
    query = sa.select(*COLUMNS).where(selection.clause()).order_by(*(column.desc() for column in newest))
    return [letter_of(row) for row in connection.execute(query.limit(most).offset(skip))]


def every_letter(connection: sa.Connection) -> list[Letter]:
    """Return all letters, open or settled, the newest first."""
    query = sa.select(*COLUMNS).order_by(rf.dead_letter.c.last_failed_us.desc(), rf.dead_letter.c.tx_id)
    return [letter_of(row) for row in connection.execute(query)]


def body_of(connection: sa.Connection, source_node: str, tx_id: str) -> bytes | None:
    """Return the bytes of a letter as they came; None where they stand as parts, or are gone after settling."""
    table = rf.dead_letter
    query = sa.select(table.c.body).where(table.c.source_node == source_node, table.c.tx_id == tx_id)
    body = connection.execute(query).scalar_one_or_none()
    return None if body is None else decompress(bytes(body), "zstd", _UNBOUNDED)


def settle(
    connection: sa.Connection,
    keys: Sequence[tuple[str, str]],
    state: LetterState,
    *,
    by: str,
    note: str | None,
    now_us: int,
) -> list[tuple[str, str]]:
    """Close letters: replayed or discarded; return those that were open until now.

    The body stays until it is purged, as evidence."""
    table = rf.dead_letter
    is_open = table.c.state.in_([one.value for one in OPEN_STATES])
    closed = []
    for source_node, tx_id in keys:
        done = connection.execute(
            sa.update(table)
            .where(table.c.source_node == source_node, table.c.tx_id == tx_id, is_open)
            .values(state=state.value, settled_us=now_us, settled_by=by, settled_note=note)
        )
        closed += [(source_node, tx_id)] if done.rowcount else []
    return closed


def applied_lsns(connection: sa.Connection, key: tuple[str, str]) -> LsnSet:
    """Return which changes of a letter were applied in pieces."""
    return LsnSet.parse(
        connection.execute(sa.select(rf.dead_letter.c.applied_lsns).where(_is(key))).scalar_one_or_none()
    )


def lock_open(connection: sa.Connection, key: tuple[str, str]) -> LsnSet:
    """Return the same and keep others from settling the letter. Raises SettledError where somebody has."""
    table = rf.dead_letter
    query = sa.select(table.c.applied_lsns, table.c.state).where(_is(key)).with_for_update()
    row = connection.execute(query).one_or_none()
    if row is None or not LetterState(row.state).is_open:
        raise SettledError(LetterState(row.state) if row is not None else LetterState.REPLAYED)
    return LsnSet.parse(row.applied_lsns)


def lock_letters(connection: sa.Connection, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], LsnSet]:
    """Keep others from settling these letters until the end of the transaction; return which changes of each were
    applied in pieces."""
    table = rf.dead_letter
    columns = table.c.source_node, table.c.tx_id, table.c.applied_lsns
    found = {}
    # In the same order for everybody, source by source; only where rows are locked at all does an order matter.
    for source_node in sorted({source_node for source_node, _ in keys}):
        tx_ids = [tx_id for source, tx_id in keys if source == source_node]
        query = sa.select(*columns).where(keyed(connection, table.c.source_node, source_node, table.c.tx_id, tx_ids))
        if connection.dialect.name != "sqlite":
            query = query.order_by(table.c.tx_id).with_for_update()
        for row in connection.execute(query):
            found[row.source_node, row.tx_id] = LsnSet.parse(row.applied_lsns)
    return found


def note_applied_lsns(connection: sa.Connection, key: tuple[str, str], applied: LsnSet) -> None:
    """Note which changes of a letter were applied in pieces."""
    connection.execute(sa.update(rf.dead_letter).where(_is(key)).values(applied_lsns=applied.text()))


def note_attempt(
    connection: sa.Connection, key: tuple[str, str], reason: Reason, error: str, table_name: str | None, now_us: int
) -> None:
    """Note why the rest of an open letter could not be applied."""
    table = rf.dead_letter
    values = {
        "reason": reason.value,
        "error": storable(error),
        "table_name": storable(table_name),
        "attempts": table.c.attempts + 1,
        "last_failed_us": now_us,
    }
    connection.execute(sa.update(table).where(_is(key)).values(values))


def _is(key: tuple[str, str]) -> sa.ColumnElement[bool]:
    return sa.and_(rf.dead_letter.c.source_node == key[0], rf.dead_letter.c.tx_id == key[1])


def mark_copied(connection: sa.Connection, keys: Sequence[tuple[str, str]], *, copied: bool) -> None:
    """Note whether the broker holds a copy."""
    table = rf.dead_letter
    for source_node, tx_id in keys:
        where = sa.and_(table.c.source_node == source_node, table.c.tx_id == tx_id)
        connection.execute(sa.update(table).where(where).values(broker_copy=copied))


def uncopied(connection: sa.Connection, limit: int) -> list[Letter]:
    """Return dead letters that the broker has no copy of yet."""
    table = rf.dead_letter
    return _first_ones(connection, (LetterState.DEAD, LetterState.FORKED), table.c.broker_copy.is_(False), limit)


def settled_with_copy(connection: sa.Connection, limit: int) -> list[Letter]:
    """Return closed letters of which a copy still lies on the broker."""
    table = rf.dead_letter
    return _first_ones(connection, SETTLED_STATES, table.c.broker_copy.is_(True), limit)


def _first_ones(
    connection: sa.Connection, states: Sequence[LetterState], is_copied: sa.ColumnElement[bool], limit: int
) -> list[Letter]:
    """Return letters in one of these states, the longest untouched first: state by state, each in the order of an
    index. Where there are none, PostgreSQL would read all letters to find that out."""
    table = rf.dead_letter
    query = sa.select(*COLUMNS).where(is_copied).order_by(table.c.last_failed_us).limit(limit)
    found = [letter_of(row) for one in states for row in connection.execute(query.where(table.c.state == one.value))]
    return found[:limit]


def bytes_id(raw: bytes) -> str:
    """Return the name of bytes that have no tx_id of their own."""
    return f"bytes-{hashlib.sha256(raw).hexdigest()[:32]}"


def storable(text: _Text) -> _Text:
    """Return other people's text with NULs spelled out: PostgreSQL takes none, and what can't be set aside is in the
    way of everything behind it."""
    return text if text is None else text.replace("\0", "\\u0000")


def _standing(connection: sa.Connection, failures: Sequence[Failure]) -> dict[tuple[str, str], Letter]:
    by_source: dict[str, list[str]] = {}
    for failure in failures:
        by_source.setdefault(failure.incoming.source_node, []).append(failure.incoming.tx_id)
    found: dict[tuple[str, str], Letter] = {}
    table = rf.dead_letter
    for source_node, tx_ids in by_source.items():
        query = sa.select(*COLUMNS).where(table.c.source_node == source_node, table.c.tx_id.in_(tx_ids))
        found |= {(row.source_node, row.tx_id): letter_of(row) for row in connection.execute(query)}
    return found


def _row(failure: Failure, standing: Letter | None, now_us: int) -> dict[str, Any]:
    incoming = failure.incoming
    fresh = standing is None or not standing.state.is_open
    return {
        "source_node": incoming.source_node,
        "tx_id": incoming.tx_id,
        **_place(incoming, standing if standing is not None and standing.sha256 == failure.sha256 else None),
        "reason": failure.reason.value,
        "state": failure.state.value,
        "table_name": storable(failure.table),
        "error": storable(failure.error),
        "attempts": 1 if standing is None or fresh else standing.attempts + 1,
        "first_failed_us": now_us if standing is None or fresh else standing.first_failed_us,
        "last_failed_us": now_us,
        "origin": incoming.origin,
        "sha256": failure.sha256,
        "body": compress(incoming.raw, "zstd") if incoming.raw is not None else None,
        "broker_copy": standing.broker_copy if standing is not None else False,
        "settled_us": None,
        "settled_by": None,
        "settled_note": None,
    }


def _place(incoming: Incoming, standing: Letter | None) -> dict[str, Any]:
    """Return where a tx stands in its source's log, and how much it is. `standing`: a letter of the same bytes."""
    header = incoming.header
    if header is None:
        # Rows that a node set aside itself are no batch: what sealing knew of them is not told by their bytes.
        return {
            name: getattr(standing, name) if standing is not None else None
            for name in ("incarnation", "prev_lsn", "from_lsn", "to_lsn", "exported_at", "changes")
        } | {"parts": 1}
    return {
        "incarnation": header.incarnation,
        "prev_lsn": header.prev_lsn,
        "from_lsn": header.from_lsn,
        "to_lsn": header.to_lsn,
        "exported_at": storable(header.exported_at),
        "changes": None if incoming.in_parts else min(header.changes, _GREATEST),
        "parts": min(header.parts, _GREATEST),
    }


def letter_of(row: Any) -> Letter:
    """Return a row of `COLUMNS` as a letter."""
    fields = {name: getattr(row, name) for name in Letter.__slots__}
    return Letter(**(fields | {"state": LetterState(row.state), "broker_copy": bool(row.broker_copy)}))
