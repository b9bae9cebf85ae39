"""Purging the sealed log: once it is old enough and everybody has it; at a greater age in any case, and said loudly."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.ops.ages import Ages
from common.ops.passed import live_peers, passed_in_folder, read_passed
from common.ops.purging import OWN_LOG, Pieces, audit_purge, note_purged, read_purged
from common.ports.retention import Purged
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from producer.log import NodeLogs
from producer.waiting import sink_names

OVERRIDDEN = "log-not-taken"
"""In `rf_purged`: who had not taken what went, by name."""
ASKED_US = 3_600_000_000
"""A request that was made so lately is about to be answered."""


@dataclass(frozen=True, slots=True)
class Taker:
    """Somebody who has not taken all that is old enough."""

    name: str
    lsn: int
    own: bool = False
    """This node's own work: no age overrides it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How much of one incarnation's log goes."""

    incarnation: str
    until_lsn: int
    waits: tuple[Taker, ...]
    """Those who keep what is old enough, and young enough to be kept for them."""
    overridden: tuple[Taker, ...]


def purge_log(
    node: Node, *, actor: str, dry_run: bool = False, stop: threading.Event | None = None, ages: Ages | None = None
) -> Purged:
    """Take away what is old enough, by the clock as it is unless `ages` are given. Can be killed anywhere and repeated.
    Raises OutageError, ContentionError."""
    ages = ages or Ages(node.clock.now_us())
    now_us = ages.now_us
    old_us = ages.before(node.config.retention.log_days)
    bounds = in_transaction(node.database, lambda connection: _bounds(connection, node, ages))
    if dry_run:
        rows = in_transaction(node.database, lambda connection: sum(_changes(connection, one) for one in bounds))
    else:
        pieces = Pieces(node.database, stop or threading.Event())
        for bound in bounds:
            pieces.run(partial(_drop_txs, bound=bound, old_us=old_us, now_us=now_us))
        rows = _drop_lines(node, pieces)
    waits = tuple(f"{taker.name} has it up to LSN {taker.lsn}" for one in bounds for taker in one.waits)
    overridden = tuple(
        f"{taker.name} had it up to LSN {taker.lsn} of incarnation {one.incarnation}, it is gone up to {one.until_lsn}"
        for one in bounds
        for taker in one.overridden
    )
    purged = Purged(OWN_LOG, rows, old_us, waits, overridden)
    if not dry_run:
        audit_purge(node.database, actor, node.facts.node_id, [purged], now_us)
    return purged


def _bounds(connection: sa.Connection, node: Node, ages: Ages) -> list[Bound]:
    retention = node.config.retention
    incarnations = NodeLogs(node.database, node.facts).incarnations()
    peers = live_peers(connection, node.config, node.facts)
    passed = read_passed(connection, peers)
    if node.config.directory is not None:
        for peer, said in passed_in_folder(node.config.directory.path, peers, node.config.trust()).items():
            passed[peer] = passed.get(peer, {}) | said
    found = []
    for incarnation in incarnations:
        old = _last_before(connection, incarnation, ages, retention.log_days)
        if old == 0:
            continue
        oldest = _last_before(connection, incarnation, ages, retention.log_max_days)
        takers = list(_takers(connection, node, incarnation, {peer: passed.get(peer, {}) for peer in peers}))
        until = min([old, *(taker.lsn for taker in takers)])
        own = min([old, *(taker.lsn for taker in takers if taker.own)])
        until = max(until, min(oldest, own))
        waits = tuple(taker for taker in takers if until < old and taker.lsn < old)
        overridden = tuple(taker for taker in takers if taker.lsn < until)
        if until or waits:
            found.append(Bound(incarnation, until, waits, overridden))
    return found


def _takers(
    connection: sa.Connection, node: Node, incarnation: str, passed: dict[str, dict[tuple[str, str], int]]
) -> Iterator[Taker]:
    """Yield everybody who takes from this log, with how far they are."""
    cursor, state, request = rf.cursor.c, rf.sync_state.c, rf.request.c
    query = sa.select(cursor.sink, cursor.lsn).where(cursor.incarnation == incarnation)
    at = {row.sink: row.lsn for row in connection.execute(query)}
    for sink in sink_names(node):
        yield Taker(f"the {sink}", at.get(sink, 0))
    for peer, said in passed.items():
        # Of an incarnation before its time it may never have had anything.
        is_present = incarnation == node.facts.incarnation
        if is_present or (node.facts.node_id, incarnation) in said or not said:
            yield Taker(peer, said.get((node.facts.node_id, incarnation), 0))
    query = sa.select(state.peer, state.last_lsn).where(state.direction == "out", state.incarnation == incarnation)
    for client, lsn in connection.execute(query):
        yield Taker(f"client {client}", lsn)
    since_us = node.clock.now_us() - ASKED_US
    asked = sa.select(request.peer, request.after_lsn).where(
        request.direction == "in", request.incarnation == incarnation, request.last_asked_us >= since_us
    )
    for peer, lsn in connection.execute(asked):
        yield Taker(f"{peer} has asked, and", lsn)
    if incarnation == node.facts.incarnation:
        kept = connection.execute(sa.select(rf.stepped_back.c.key).limit(1)).first()
        mark = sa.select(rf.standing_mark.c.lsn).where(rf.standing_mark.c.incarnation == incarnation)
        if kept is not None:
            yield Taker("looking after rows that stepped back", connection.scalar(mark) or 0, own=True)


def _last_before(connection: sa.Connection, incarnation: str, ages: Ages, days: float) -> int:
    """Return the LSN of the last tx that was sealed so long ago; 0 where there is none.

    By halves, along LSNs: what was sealed while the clock went steadily is in the order of time. Where it was set back
    since, what seems to be sealed later than now was before that; tx_ids rise above it, and tell nothing."""
    before_us = ages.before(days)
    if before_us <= 0:
        return 0
    oldest, now = to_iso(before_us), to_iso(ages.now_us)

    def is_old(tx: Any) -> bool:
        return bool(tx.exported_at < oldest or (ages.steady_us and tx.exported_at > now))

    tx = rf.tx.c
    of_it = sa.select(tx.to_lsn, tx.exported_at).where(tx.incarnation == incarnation).limit(1)
    last = connection.execute(of_it.order_by(tx.to_lsn.desc())).one_or_none()
    if last is None or is_old(last):
        return 0 if last is None else int(last.to_lsn)
    # The tx that ends at `before` is older, unless it is 0; the first one above `after` is not.
    before, after = 0, last.to_lsn - 1
    while before < after:
        middle = (before + after) // 2
        one = connection.execute(of_it.where(tx.to_lsn > middle).order_by(tx.to_lsn)).one()
        if is_old(one):
            before = one.to_lsn
        else:
            after = middle
    return int(before)


def _changes(connection: sa.Connection, bound: Bound) -> int:
    tx = rf.tx.c
    query = sa.select(sa.func.min(tx.from_lsn)).where(tx.incarnation == bound.incarnation)
    first = connection.scalar(query)
    return 0 if first is None else max(0, bound.until_lsn - first + 1)


def _drop_txs(connection: sa.Connection, most: int, *, bound: Bound, old_us: int, now_us: int) -> int:
    """Take the txs off first, and note it in the same commit: nobody reads one whose lines are half gone."""
    tx = rf.tx.c
    first = sa.select(tx.to_lsn).where(tx.incarnation == bound.incarnation, tx.to_lsn <= bound.until_lsn)
    lsns = list(connection.execute(first.order_by(tx.to_lsn).limit(most)).scalars())
    if not lsns:
        return 0
    # One by one: what lies below one LSN PostgreSQL may take for the whole table, and read it.
    these = sa.and_(tx.incarnation == bound.incarnation, tx.to_lsn == sa.bindparam("of_lsn"))
    connection.execute(sa.delete(rf.tx).where(these), [{"of_lsn": lsn} for lsn in lsns])
    bounds = {"until_lsn": lsns[-1], "until_us": old_us}
    note_purged(connection, OWN_LOG, now_us, len(lsns), name=bound.incarnation, **bounds)
    for taker in bound.overridden:
        if taker.lsn < lsns[-1]:
            note_purged(connection, OVERRIDDEN, now_us, 0, name=taker.name, until_lsn=lsns[-1])
    return len(lsns)


def _drop_lines(node: Node, pieces: Pieces) -> int:
    """Take the lines of txs that are gone, those of an earlier purge that was killed too."""
    retention = node.database.retention()
    gone = in_transaction(node.database, lambda connection: read_purged(connection, OWN_LOG))
    total = 0
    for incarnation, row in gone.items():

        def step(connection: sa.Connection, most: int, name: str = incarnation, until: int = row.until_lsn) -> int:
            return retention.drop_lines(connection, name, until, most)

        total += pieces.run(step)
    return total


def log_begins(node: Node, incarnation: str) -> int:
    """Return up to which LSN a log is gone; 0 where it is whole."""
    gone = in_transaction(node.database, lambda connection: read_purged(connection, OWN_LOG)).get(incarnation)
    return 0 if gone is None else int(gone.until_lsn)
