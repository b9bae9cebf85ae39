"""Purging on the receiving side: names of applied txs, tombstones, choices, what is settled, the audit."""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa

from common.config.model import RetentionSection
from common.ops.ages import Ages
from common.ops.purging import Pieces, audit_purge, note_purged
from common.ports.retention import Purged
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from consumer.conflict.record import State
from consumer.dead_letters.states import OPEN_STATES, SETTLED_STATES
from consumer.inbox import count_parts, drop_stale, stale_txs
from consumer.tombstones import purge_tombstones
from consumer.watermark import Mark, read_all

log = logging.getLogger(__name__)

_PAGE = 1_000

T = TypeVar("T")


def purge_received(
    node: Node, *, actor: str, dry_run: bool = False, stop: threading.Event | None = None, ages: Ages | None = None
) -> list[Purged]:
    """Take away what is old enough, by the clock as it is unless `ages` are given. Can be killed anywhere and repeated.
    Raises OutageError, ContentionError."""
    ages = ages or Ages(node.clock.now_us())
    round_ = _Round(node, Pieces(node.database, stop or threading.Event()), ages, dry_run)
    purged = [
        round_.dedup(),
        round_.tombstones(),
        round_.conflicts(),
        round_.letters(),
        round_.parts(),
        round_.audit(),
    ]
    if not dry_run:
        audit_purge(node.database, actor, node.facts.node_id, purged, node.clock.now_us())
    return purged


@dataclass(frozen=True, slots=True)
class _Round:
    """One round of purging: each method takes away one kind, or counts it in a dry run."""

    node: Node
    pieces: Pieces
    ages: Ages
    dry_run: bool

    @property
    def _retention(self) -> RetentionSection:
        return self.node.config.retention

    def dedup(self) -> Purged:
        """At or below the watermark a tx is known by its place: what is younger than the last one is forked, the rest
        is a duplicate. The last one itself stays, so that a log that was rewound to there can be told."""
        old_us = self.ages.before(self._retention.dedup_days)
        marks = self._read(lambda connection: [mark for mark, _ in read_all(connection).values()])
        rows = 0
        for mark in marks:
            for tx_ids in _passed_pages(self.node, mark, old_us):
                if self.dry_run or self.pieces.stop.is_set():
                    rows += len(tx_ids)
                else:
                    rows += self.pieces.run(partial(_drop_applied, node=self.node, mark=mark, tx_ids=tx_ids))
        return Purged("dedup", rows, old_us)

    def tombstones(self) -> Purged:
        """Deleted rows that every peer has passed."""
        return purge_tombstones(self.node, self.ages, dry_run=self.dry_run, stop=self.pieces.stop)

    def conflicts(self) -> Purged:
        """Those that wait stay, those that tell why a row has stepped back, and the last one of all: SQLite would give
        its number again, which audit and links have for it."""
        old_us = self.ages.before(self._retention.conflict_days)
        met, back = rf.conflict.c, rf.stepped_back.c
        # Both are said so that they can't be read by: PostgreSQL joins what it finds with EXISTS, and goes through the
        # ids for `id <`, which is all of both tables for each piece where it thinks them small.
        aside = sa.select(back.key).where(back.table_name == met.table_name, back.key == met.row_key).limit(1)
        last = sa.select(sa.func.max(met.id)).correlate(None).scalar_subquery()
        stays = sa.or_(aside.scalar_subquery().is_not(None), met.id == last)
        since = sa.func.coalesce(met.settled_us, met.recorded_us)
        old = sa.and_(met.state == State.SETTLED.value, met.recorded_us < old_us, since < old_us, ~stays)
        return self._old("conflicts", [old], met.recorded_us, old_us)

    def letters(self) -> Purged:
        """Those that are replayed or discarded, off the broker too, and known by their place: one that came again above
        the watermark would be taken for news."""
        old_us = self.ages.before(self._retention.dead_letter_days)
        letter, mark = rf.dead_letter.c, rf.sync_state.c
        same_log = sa.and_(
            mark.peer == letter.source_node, mark.incarnation == letter.incarnation, mark.direction == "in"
        )
        passed = sa.exists().where(same_log, mark.last_lsn >= letter.to_lsn)
        old = sa.and_(
            # None is settled before it has failed; by this they are found in the order of an index.
            letter.last_failed_us < old_us,
            letter.settled_us < old_us,
            sa.not_(letter.broker_copy),
            sa.or_(letter.to_lsn.is_(None), passed),
        )
        olds = [sa.and_(letter.state == state.value, old) for state in SETTLED_STATES]
        return self._old("dead-letters", olds, letter.last_failed_us, old_us)

    def parts(self) -> Purged:
        """First parts of large txs whose rest did not come, though their source has gone on: a hundred of them keep its
        new ones out. What they belong to is asked for again."""
        old_us = self.ages.before(self._retention.part_days)
        keys = self._read(lambda connection: stale_txs(connection, old_us))
        if self.dry_run:
            return Purged("parts", self._read(lambda connection: count_parts(connection, keys)), old_us)
        rows = 0
        for key in keys:
            dropped = self.pieces.run(partial(drop_stale, key=key, before_us=old_us))
            if dropped:
                log.warning("parts_given_up", extra={"source_node": key[0], "tx_id": key[1], "parts": dropped})
            rows += dropped
        return Purged("parts", rows, old_us)

    def audit(self) -> Purged:
        """Lines of the audit, by their age alone."""
        old_us = self.ages.before(self._retention.audit_days)
        at_us = rf.audit.c.at_us
        return self._old("audit", [at_us < old_us], at_us, old_us)

    def _old(self, what: str, olds: Sequence[sa.ColumnElement[bool]], by: sa.Column[Any], old_us: int) -> Purged:
        """Take away the rows of `by`'s table for which one of `olds` holds, which exclude each other."""
        if self.dry_run:
            count = sa.select(sa.func.count()).select_from(by.table).where(sa.or_(*olds))
            return Purged(what, self._read(lambda connection: connection.scalar(count)) or 0, old_us)

        def note(connection: sa.Connection, rows: int) -> None:
            note_purged(connection, what, self.node.clock.now_us(), rows, until_us=old_us)

        rows = sum(self.pieces.run(partial(_drop_old, old=old, by=by, note=note)) for old in olds)
        return Purged(what, rows, old_us)

    def _read(self, look: Callable[[sa.Connection], T]) -> T:
        return in_transaction(self.node.database, look)


def _passed_pages(node: Node, mark: Mark, old_us: int) -> Iterator[list[str]]:
    """Yield what is old enough of one source, in order of LSNs, up to where it gets too young."""
    applied = rf.applied_tx.c
    after = -1
    while True:
        query = (
            sa.select(applied.prev_lsn, applied.tx_id, applied.applied_us)
            .where(
                applied.source_node == mark.source_node,
                applied.incarnation == mark.incarnation,
                applied.prev_lsn > after,
                applied.to_lsn < mark.last_lsn,
            )
            .order_by(applied.prev_lsn)
            .limit(_PAGE)
        )
        found = in_transaction(node.database, lambda connection, query=query: connection.execute(query).all())  # type: ignore[misc]
        old = [row.tx_id for row in found if row.applied_us < old_us]
        if old:
            yield old
        if len(found) < _PAGE or not old:
            return
        after = found[-1].prev_lsn


def _drop_applied(connection: sa.Connection, most: int, *, node: Node, mark: Mark, tx_ids: list[str]) -> int:
    """Delete some of `tx_ids` and take them off the list; a tx of which a dead letter is open stays."""
    some = [tx_ids.pop() for _ in range(min(most, len(tx_ids)))]
    if not some:
        return 0
    applied, letter = rf.applied_tx, rf.dead_letter.c
    states = sa.or_(*(letter.state == state.value for state in OPEN_STATES))
    is_open = sa.exists().where(letter.source_node == applied.c.source_node, letter.tx_id == applied.c.tx_id, states)
    these = sa.and_(applied.c.source_node == mark.source_node, applied.c.tx_id == sa.bindparam("of_tx_id"), ~is_open)
    rows = connection.execute(sa.delete(applied).where(these), [{"of_tx_id": one} for one in some]).rowcount
    note_purged(connection, "dedup", node.clock.now_us(), max(0, rows), name=mark.source_node)
    return len(some)


def _drop_old(
    connection: sa.Connection,
    most: int,
    *,
    old: sa.ColumnElement[bool],
    by: sa.Column[Any],
    note: Callable[[sa.Connection, int], None],
) -> int:
    """Delete the first in the order of `by`, which an index has: looked for within the DELETE, PostgreSQL may read the
    whole table, and once for each piece."""
    keys = list(by.table.primary_key)
    first = sa.select(*(key.label(f"of_{key.name}") for key in keys)).where(old).order_by(by).limit(most)
    found = [dict(row) for row in connection.execute(first).mappings()]
    if not found:
        return 0
    # Once more whether it is old: one may have come anew meanwhile. Then this ends early, and the rest goes next time.
    these = sa.and_(*(key == sa.bindparam(f"of_{key.name}") for key in keys), old)
    rows = max(0, connection.execute(sa.delete(by.table).where(these), found).rowcount)
    if rows:
        note(connection, rows)
    return rows
