"""Reads the value of each metric from the node's database: one look, at the same cost however large the log is."""

from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version

import sqlalchemy as sa

from common import metrics as m
from common.clock import Clock
from common.metrics import Measure
from common.ops.progress import OthersProgress, OwnProgress, Progress, Side, age_seconds, joined
from common.ops.rewinding import own_rewinding
from common.ops.samples import sampled_queue
from common.ports.dialect import Database, NodeFacts
from common.retry import in_transaction
from common.schema import tables as rf

_MOST_PEERS = 1_000
_FOR_PEOPLE = ("dead", "forked")


def read_measures(
    database: Database, facts: NodeFacts, clock: Clock, sides: Callable[[], Sequence[Side]]
) -> list[Measure]:
    """Return all that is known now. `sides`: asks the parts. Raises OutageError, ContentionError."""
    asked = sides()
    labels = (facts.node_id, facts.role, version("rowferry"), database.features.name)
    found = [Measure(m.NODE_INFO, 1, labels), Measure(m.DATABASE_UP, 1)]

    def read(connection: sa.Connection) -> list[Measure]:
        now_us = clock.now_us()
        peers = _peers(connection)
        return [
            *_of_both(joined(asked, connection), frozenset(peers), now_us),
            *_of_peers(peers, now_us),
            *_for_people(connection),
            *_of_run(connection, now_us),
            *_of_newest_sample(connection, now_us),
        ]

    return found + in_transaction(database, read)


def _of_both(progress: Progress, peers: frozenset[str], now_us: int) -> Iterator[Measure]:
    yield Measure(m.OLDEST_UNPUBLISHED, age_seconds(progress.unpublished_since_us, now_us))
    yield Measure(m.OLDEST_UNAPPLIED, age_seconds(progress.unapplied_since_us, now_us))
    yield Measure(m.STALLED, len(progress.stalled))
    if progress.own is not None:
        yield from _of_own(progress.own, now_us)
    if progress.others is not None:
        yield from _of_others(progress.others, peers)


def _of_own(own: OwnProgress, now_us: int) -> Iterator[Measure]:
    yield Measure(m.SEALED_CHANGES, own.head_lsn)
    yield Measure(m.UNSEALED, own.unsealed)
    yield Measure(m.LOG_CHANGES, own.kept)
    for road in own.roads:
        name = (road.name,)
        yield Measure(m.PUBLISHED_CHANGES, road.taken_lsn, name)
        yield Measure(m.UNPUBLISHED, road.waiting, name)
        yield Measure(m.UNPUBLISHED_AGE, age_seconds(road.oldest_us, now_us), name)
        yield Measure(m.ROAD_USABLE, road.unusable_since_us is None, name)


def _of_others(others: OthersProgress, peers: frozenset[str]) -> Iterator[Measure]:
    yield Measure(m.HELD, others.held)
    yield Measure(m.UNFINISHED, others.unfinished_txs)
    for source in others.sources:
        if source.peer in peers:
            yield Measure(m.PASSED_CHANGES, source.watermark, (source.peer,))
            yield Measure(m.UNAPPLIED, source.behind, (source.peer,))


def _peers(connection: sa.Connection) -> dict[str, tuple[int | None, int | None]]:
    """Return when each peer was heard, and its clock; of those that are not retired, the longest known first."""
    node = rf.node.c
    query = sa.select(node.node_id, node.heard_us, node.clock_us)
    query = query.where(node.is_self.is_(False), node.retired_us.is_(None))
    rows = connection.execute(query.order_by(node.first_seen_us, node.node_id).limit(_MOST_PEERS))
    return {name: (heard_us, clock_us) for name, heard_us, clock_us in rows}


def _of_peers(peers: dict[str, tuple[int | None, int | None]], now_us: int) -> Iterator[Measure]:
    for name, (heard_us, clock_us) in peers.items():
        if heard_us is not None:
            yield Measure(m.HEARTBEAT_AGE, age_seconds(heard_us, now_us), (name,))
        if clock_us is not None:
            yield Measure(m.CLOCK_AHEAD, clock_us / 1_000_000, (name,))


def _for_people(connection: sa.Connection) -> Iterator[Measure]:
    letter, met = rf.dead_letter.c, rf.conflict.c
    reasons = sa.select(letter.reason, sa.func.count()).where(letter.state.in_(_FOR_PEOPLE)).group_by(letter.reason)
    for reason, many in connection.execute(reasons.order_by(letter.reason)):
        yield Measure(m.DEAD_LETTERS, many, (reason,))
    early = sa.select(sa.func.count()).where(letter.state == "early")
    yield Measure(m.EARLY_LETTERS, connection.scalar(early) or 0)
    waiting = sa.select(sa.func.count()).where(met.state == "waiting")
    yield Measure(m.WAITING_CONFLICTS, connection.scalar(waiting) or 0)
    yield Measure(m.PUT_BACK, own_rewinding(connection) is not None)


def _of_run(connection: sa.Connection, now_us: int) -> Iterator[Measure]:
    looked_us = connection.scalar(sa.select(sa.func.max(rf.watch.c.looked_us)))
    if looked_us is not None:
        yield Measure(m.WATCHDOG_AGE, age_seconds(looked_us, now_us))


def _of_newest_sample(connection: sa.Connection, now_us: int) -> Iterator[Measure]:
    sample = rf.metric.c
    columns = (sample.sealed_txs, sample.applied_changes, sample.applied_txs)
    row = connection.execute(sa.select(*columns).order_by(sample.seq.desc()).limit(1)).one_or_none()
    if row is None:
        return
    yield Measure(m.SEALED_TXS, row.sealed_txs)
    yield Measure(m.APPLIED_CHANGES, row.applied_changes)
    yield Measure(m.APPLIED_TXS, row.applied_txs)
    depth = sampled_queue(connection, now_us)
    if depth is not None:
        yield Measure(m.QUEUE, depth)
