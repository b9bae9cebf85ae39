"""How far each source has come (`rf_sync_state`, direction `in`): the contiguous prefix, and the highest LSN seen.

The watermark passes over what was applied and over what was set aside alike: it never waits for a person.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import sqlalchemy as sa

from common.ports.plain import Asked, Together
from common.schema import tables as rf
from consumer.statements import insert_missing, upsert, upsert_of

SourceKey = tuple[str, str]
"""Source node and incarnation."""

_PAGE = 1_000
UNSURE = ("checksum", "format", "limit", "content")
"""Dead letters with these reasons may lie about their LSNs: they count once the next tx confirms them."""


_LOCKED = (
    sa.select(rf.sync_state)
    .where(
        rf.sync_state.c.direction == "in",
        sa.tuple_(rf.sync_state.c.peer, rf.sync_state.c.incarnation).in_(sa.bindparam("keys", expanding=True)),
    )
    .order_by(rf.sync_state.c.peer, rf.sync_state.c.incarnation)
    .with_for_update()
)
_COLUMNS = {
    "source_node": rf.sync_state.c.peer,
    **{name: rf.sync_state.c[name] for name in ("incarnation", "last_lsn", "last_tx_id", "highest_lsn")},
}
_LOCKED_ONE = (
    sa.select(*_COLUMNS.values())
    .where(
        rf.sync_state.c.direction == "in",
        rf.sync_state.c.peer == sa.bindparam("peer"),
        rf.sync_state.c.incarnation == sa.bindparam("incarnation"),
    )
    .with_for_update()
)
"""Nearly always: a list in a statement has it put together anew each time."""


@dataclass(slots=True)
class Mark:
    """Where this node stands with one incarnation of a source."""

    source_node: str
    incarnation: str
    last_lsn: int = 0
    last_tx_id: str | None = None
    highest_lsn: int = 0

    @property
    def gap(self) -> bool:
        """Whether LSNs are missing below the highest one seen."""
        return self.highest_lsn > self.last_lsn


class Step(msgspec.Struct, frozen=True, gc=False):
    """One tx that was applied or set aside: a link of the chain of LSNs."""

    prev_lsn: int
    to_lsn: int
    tx_id: str
    sure: bool = True


class Course:
    """Where a mark comes to while txs are judged one after the other, before any of them is in the database."""

    def __init__(self, connection: sa.Connection, mark: Mark) -> None:
        self._connection = connection
        self._mark = replace(mark)
        self._links: dict[int, Step] = {}
        self._may_have_more = mark.gap
        self._passed_a_gap = False

    @property
    def mark(self) -> Mark:
        """Where it stands now."""
        return self._mark

    @property
    def may_be_ahead(self) -> bool:
        """Whether something above the mark may be known: LSNs are missing, or were when the mark was read."""
        return self._mark.gap or self._passed_a_gap

    def take(self, step: Step) -> None:
        """Go over one more tx, and over what connects to it; only a sure one."""
        if not step.sure:
            return
        self._links.setdefault(step.prev_lsn, step)
        moved = _follow(self._mark, self._links)
        while moved and self._may_have_more:
            # Something stands above a gap that may be closed now; once it is read it is followed in memory.
            self._load()
            moved = _follow(self._mark, self._links)
        self._passed_a_gap = self._passed_a_gap or step.prev_lsn > self._mark.last_lsn

    def _load(self) -> None:
        links = _links(self._connection, self._mark)
        self._may_have_more = len(links) == _PAGE
        for link in links:
            self._links.setdefault(link.prev_lsn, link)


def lock(connection: sa.Connection, keys: Iterable[SourceKey], now_us: int) -> dict[SourceKey, Mark]:
    """Lock the marks until the end of the transaction, in one order for everybody: one applier a source at a time."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    found = _locked(connection, wanted)
    if len(found) < len(wanted):
        fresh = [_row(Mark(*key), now_us) for key in wanted if key not in found]
        insert_missing(connection, rf.sync_state, fresh)
        found = _locked(connection, wanted)
    return found


def _locked(connection: sa.Connection, wanted: Sequence[SourceKey]) -> dict[SourceKey, Mark]:
    if len(wanted) == 1:
        ((peer, incarnation),) = wanted
        return _marks(connection, _LOCKED_ONE, {"peer": peer, "incarnation": incarnation})
    return _marks(connection, _LOCKED, {"keys": wanted})


def ask_locked(together: Together, key: SourceKey) -> Asked:
    """The same as `lock` for one mark, in the caller's order; none is made where there is none."""
    peer, incarnation = key
    return together.ask(_LOCKED_ONE, {"peer": peer, "incarnation": incarnation})


def answered(asked: Asked) -> Mark | None:
    """Return the mark that was asked for; None where there is none yet."""
    found = asked.rows()
    return Mark(**dict(zip(_COLUMNS, found[0], strict=True))) if found else None


def advance(connection: sa.Connection, mark: Mark, steps: Sequence[Step]) -> None:
    """Move `mark` over `steps`, which are in the database already, and over what they connect to."""
    by_prev = {step.prev_lsn: step for step in steps if step.sure}
    while (step := by_prev.get(mark.last_lsn)) is not None:
        mark.last_lsn, mark.last_tx_id = step.to_lsn, step.tx_id
    mark.highest_lsn = max([mark.highest_lsn, mark.last_lsn, *(step.to_lsn for step in steps if step.sure)])
    if mark.gap or len(by_prev) < len(steps):
        _advance_stored(connection, mark)


def store(connection: sa.Connection, marks: Iterable[Mark], now_us: int) -> None:
    """Write the marks back. The caller holds their locks."""
    upsert(connection, rf.sync_state, [_row(mark, now_us) for mark in marks])


def ask_store(together: Together, marks: Iterable[Mark], now_us: int) -> None:
    """The same, in a block."""
    for mark in marks:
        row = _row(mark, now_us)
        together.ask(upsert_of("postgresql", rf.sync_state, tuple(row)), row)


def chain(connection: sa.Connection, mark: Mark) -> Mark:
    """Return where `mark` would stand with all that is in the database; changes nothing."""
    copy = Mark(mark.source_node, mark.incarnation, mark.last_lsn, mark.last_tx_id, mark.highest_lsn)
    _advance_stored(connection, copy)
    return copy


def read_all(connection: sa.Connection) -> Mapping[SourceKey, tuple[Mark, int]]:
    """Return every mark with the instant of its last change, for reports."""
    rows = connection.execute(sa.select(rf.sync_state).where(rf.sync_state.c.direction == "in"))
    return {(row.peer, row.incarnation): (_mark(row), row.updated_us) for row in rows}


def read_mark(connection: sa.Connection, source_node: str, incarnation: str) -> Mark:
    """Return one mark without locking it; at the beginning where nothing has come yet."""
    state = rf.sync_state
    query = sa.select(state).where(
        state.c.direction == "in", state.c.peer == source_node, state.c.incarnation == incarnation
    )
    return _marks(connection, query).get((source_node, incarnation), Mark(source_node, incarnation))


def _advance_stored(connection: sa.Connection, mark: Mark) -> None:
    while True:
        links = _links(connection, mark)
        moved = _follow(mark, {step.prev_lsn: step for step in reversed(links)})
        mark.highest_lsn = max(mark.highest_lsn, mark.last_lsn)
        if not moved or len(links) < _PAGE:
            return


def _follow(mark: Mark, by_prev: Mapping[int, Step]) -> bool:
    """Move `mark` along links, over an unsure one where the next confirms it; True when it moved."""
    start = mark.last_lsn
    while (step := by_prev.get(mark.last_lsn)) is not None and (step.sure or step.to_lsn in by_prev):
        mark.last_lsn, mark.last_tx_id = step.to_lsn, step.tx_id
    return mark.last_lsn > start


def _links(connection: sa.Connection, mark: Mark) -> list[Step]:
    """The next links at or above the mark, applied ones before dead letters of the same place."""
    given = {"source": mark.source_node, "incarnation": mark.incarnation, "last": mark.last_lsn}
    rows = connection.execute(_LINKS, given)
    return [Step(r.prev_lsn, r.to_lsn, r.tx_id, r.why not in UNSURE) for r in rows]


def _of(table: sa.Table) -> sa.ColumnElement[bool]:
    columns = table.c
    last = sa.bindparam("last", type_=sa.BigInteger)
    its = sa.and_(columns.source_node == sa.bindparam("source"), columns.incarnation == sa.bindparam("incarnation"))
    return sa.and_(its, columns.prev_lsn >= last)


def _select_links() -> sa.Select[Any]:
    applied, letter = rf.applied_tx, rf.dead_letter
    columns = ("prev_lsn", "to_lsn", "tx_id")
    first = sa.select(*(applied.c[name] for name in columns), sa.literal(0).label("kind"), sa.literal("").label("why"))
    first = first.where(_of(applied)).order_by(applied.c.prev_lsn)
    second = sa.select(*(letter.c[name] for name in columns), sa.literal(1).label("kind"), letter.c.reason.label("why"))
    second = second.where(_of(letter), letter.c.state != "forked").order_by(letter.c.prev_lsn)
    both = sa.union_all(
        sa.select(first.limit(_PAGE).subquery()),
        sa.select(second.limit(_PAGE).subquery()),
    ).subquery()
    return sa.select(both).order_by(both.c.prev_lsn, both.c.kind).limit(_PAGE)


_LINKS = _select_links()
"""Made once: to put it together takes several times as long as to run it."""


def _marks(
    connection: sa.Connection, query: sa.Select[tuple[object, ...]], given: Mapping[str, object] | None = None
) -> dict[SourceKey, Mark]:
    return {(row.peer, row.incarnation): _mark(row) for row in connection.execute(query, given)}


def _mark(row: sa.Row[tuple[object, ...]]) -> Mark:
    return Mark(row.peer, row.incarnation, row.last_lsn, row.last_tx_id, row.highest_lsn)


def _row(mark: Mark, now_us: int) -> dict[str, object]:
    return {
        "peer": mark.source_node,
        "direction": "in",
        "incarnation": mark.incarnation,
        "last_lsn": mark.last_lsn,
        "last_tx_id": mark.last_tx_id,
        "highest_lsn": mark.highest_lsn,
        "updated_us": now_us,
    }
