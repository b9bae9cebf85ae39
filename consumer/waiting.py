"""What waits on this side: what the intakes hold, and what a source has and this node has not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from common.ops.peers import MISSED_HEARTBEATS
from common.ops.stalls import INTAKE, OF_SOURCE, Seen, Work, is_fresh
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.headers import read_header
from consumer.gaps import find_gaps
from consumer.inbox import STANDS_APART
from consumer.statements import reading
from consumer.watermark import SourceKey, read_all


@dataclass(frozen=True, slots=True)
class Holding:
    """What an intake has taken and not yet let go of. Instants are microseconds since the epoch."""

    deliveries: int = 0
    since_us: int | None = None
    """When it took the oldest of them."""
    moved_us: int = 0
    """When it last let go of one."""
    shut_us: int | None = None
    """Since when it can't take anything; None while it can."""


def held_work(name: str, holding: Holding) -> Work:
    """Return what one intake holds. `name`: of its source, `broker` or `directory`.

    One that holds nothing says since when it can't take anything: what waits outside has waited as long."""
    oldest_us, moved_us = holding.since_us if holding.deliveries else holding.shut_us, holding.moved_us
    return Work(f"{INTAKE}{name}", holding.deliveries, "messages taken and not applied", "", oldest_us, moved_us)


def held_seen(seen: Mapping[str, Seen], now_us: int) -> list[Work]:
    """Return what the intakes of a running node hold, as its watchdog saw it last."""
    return [
        Work(name, one.pending, "messages taken and not applied", one.mark, one.oldest_us)
        for name, one in sorted(seen.items())
        if name.startswith(INTAKE) and is_fresh(one, now_us)
    ]


@dataclass(frozen=True, slots=True)
class Unfinished:
    """Large txs of one source's log of which parts are missing. `since_us`: microseconds since the epoch."""

    key: SourceKey
    txs: int
    changes: int
    parts: int
    """That are here."""
    after_lsn: int
    until_lsn: int
    since_us: int


def unfinished_by_source(connection: sa.Connection) -> list[Unfinished]:
    """Return whose large txs have not come whole: at most `limits.max_unfinished_txs` of each are there.

    Dead letters in parts have theirs, or are counted as such."""
    part = rf.tx_part.c
    here, header = sa.func.count().label("here"), sa.func.min(part.header).label("header")
    query = sa.select(here, header, sa.func.min(part.received_us).label("since_us")).where(~STANDS_APART)
    query = query.group_by(part.source_node, part.tx_id).order_by(part.source_node, part.tx_id)
    found: dict[SourceKey, Unfinished] = {}
    for row in connection.execute(query):
        one = read_header(row.header.encode())
        key = one.source_node, one.incarnation
        was = found.get(key, Unfinished(key, 0, 0, 0, one.prev_lsn, 0, row.since_us))
        found[key] = Unfinished(
            key,
            txs=was.txs + 1,
            changes=was.changes + one.lsns,
            parts=was.parts + row.here,
            after_lsn=min(was.after_lsn, one.prev_lsn),
            until_lsn=max(was.until_lsn, one.to_lsn),
            since_us=min(was.since_us, row.since_us),
        )
    return list(found.values())


def in_all(found: Iterable[Unfinished]) -> tuple[int, int | None]:
    """Return how many txs that are, and since when the oldest waits."""
    found = list(found)
    return sum(one.txs for one in found), min((one.since_us for one in found), default=None)


def source_work(node: Node) -> list[Work]:
    """Return what sources have and this node has not, also by what their heartbeats say. Raises OutageError."""
    with reading(node.database) as connection:
        marks = {key: mark for key, (mark, _) in read_all(connection).items()}
        until = {gap.key: (gap.after_lsn, gap.until_lsn) for gap in find_gaps(connection)}
        for key, head_lsn in _heads(connection).items():
            after_lsn = marks[key].last_lsn if key in marks else 0
            if head_lsn > after_lsn:
                until[key] = min(until.get(key, (after_lsn, 0))[0], after_lsn), head_lsn
        torn = dict[SourceKey, Unfinished]()
        for one in unfinished_by_source(connection):
            # Where it was applied by another copy, what is left of it here waits for nothing.
            after_lsn = marks[one.key].last_lsn if one.key in marks else one.after_lsn
            if one.until_lsn > after_lsn:
                known = until.get(one.key, (after_lsn, 0))
                until[one.key] = min(known[0], after_lsn), max(known[1], one.until_lsn)
                torn[one.key] = one
        silent = _silent(connection)
    works = []
    newest = {peer: (peer, incarnation) for peer, incarnation in until}
    for peer, key in sorted(newest.items()):
        after_lsn, until_lsn = until[key]
        unit = f"changes of {peer} not yet applied"
        excused = f"{peer} is silent" if peer in silent else None
        mark, since_us = f"{key[1]}/{after_lsn}", None
        if key in torn:
            # Each part that comes is some of it.
            mark, since_us = f"{mark}/{torn[key].parts}", torn[key].since_us
        works.append(Work(f"{OF_SOURCE}{peer}", until_lsn - after_lsn, unit, mark, since_us, excused=excused))
    return works


def others_work(node: Node, holdings: Sequence[tuple[str, Holding]]) -> list[Work]:
    """Return all that waits on this side of a running node."""
    return [*(held_work(name, holding) for name, holding in holdings), *source_work(node)]


def _heads(connection: sa.Connection) -> dict[SourceKey, int]:
    """Return up to where peers say that their logs go, where that can be believed."""
    peer = rf.node.c
    query = sa.select(peer.node_id, peer.head_incarnation, peer.head_lsn).where(
        peer.head_lsn.is_not(None), peer.is_self.is_(False), peer.rewound_us.is_(None)
    )
    return {(row.node_id, row.head_incarnation): row.head_lsn for row in connection.execute(query)}


def _silent(connection: sa.Connection) -> frozenset[str]:
    peer = rf.node.c
    listened_us = connection.scalar(sa.select(peer.heard_us).where(peer.is_self)) or 0
    query = sa.select(peer.node_id).where(
        peer.is_self.is_(False), listened_us - peer.heard_us > MISSED_HEARTBEATS * peer.every_us
    )
    return frozenset(connection.execute(query).scalars())
