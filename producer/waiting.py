"""What waits on this side: changes for the sealer, sealed ones for each sink, and what of the log is kept for it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.ids import tx_id_us
from common.ops.purging import OWN_LOG, read_purged
from common.ops.stalls import OF_SINK, SEALER, Work
from common.ops.status_words import place
from common.ports.dialect import Unsealed
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import BROKER, sink_factories
from common.schema import tables as rf
from producer.log import NodeLogs
from producer.road import read_road


@dataclass(frozen=True, slots=True)
class SinkLag:
    """Where one sink stands. Instants are microseconds since the epoch."""

    sink: str
    cursor_lsn: int
    """In the present incarnation."""
    changes: int
    """That it has not taken, of all incarnations."""
    oldest_us: int | None
    """When the oldest of it was captured."""
    moved_us: int
    """When it took something last, or what waits was sealed, whichever came later."""
    mark: str


def sink_names(node: Node) -> tuple[str, ...]:
    """Return the names of the configured sinks, none where no transport is configured."""
    configured = node.config.broker or node.config.directory or node.config.peers
    return tuple(sink_factories(node)) if configured else ()


@dataclass(frozen=True, slots=True)
class SinkKept:
    """What of the log waits for one sink."""

    txs: int = 0
    bytes: int = 0
    """About as many as it takes."""


def sink_kept(node: Node, sink: str) -> SinkKept:
    """Count what of the log waits for one sink: goes through all of it, so for people alone. Raises OutageError."""
    incarnations = NodeLogs(node.database, node.facts).incarnations()
    return in_transaction(node.database, lambda connection: _kept(connection, incarnations, sink))


def sink_lag(node: Node, sink: str) -> SinkLag:
    """Look where one sink stands; costs the same however much waits. Raises OutageError."""
    logs = NodeLogs(node.database, node.facts)
    # The log of an earlier incarnation may be purged, so that nothing tells any more where it ended.
    heads = {incarnation: logs.of(incarnation).head().lsn for incarnation in logs.incarnations()}
    return in_transaction(node.database, lambda connection: _lag(connection, node.facts.incarnation, heads, sink))


def own_work(node: Node) -> list[Work]:
    """Return what waits to be sealed and to be sent; nothing where the changes go nowhere by themselves."""
    names = sink_names(node)
    if not names:
        return []
    log = node.database.log(node.facts)
    # The head first: what is sealed between the two looks must not look as if it stood still.
    head = log.head()
    return [sealer_work(node, head.lsn, log.unsealed()), *(sink_work(node, sink_lag(node, name)) for name in names)]


def work_of_run(node: Node) -> list[Work]:
    """Return the same as a running node looks at it: it seals also where others come for the changes."""
    log = node.database.log(node.facts)
    return own_work(node) or [sealer_work(node, log.head().lsn, log.unsealed())]


def sealer_work(node: Node, head_lsn: int, unsealed: Unsealed) -> Work:
    """Return what waits for the sealer."""
    mark = f"{node.facts.incarnation}/{head_lsn}"
    return Work(SEALER, unsealed.changes, "captured changes not yet sealed", mark, unsealed.oldest_us)


def sink_work(node: Node, lag: SinkLag) -> Work:
    """Return what waits for one sink."""
    excused = None
    if lag.sink == BROKER:
        road = read_road(node.database)
        if road.fallback_since_us is not None and road.fallback_error is None:
            excused = "the changes travel as files meanwhile"
    unit = f"changes not yet sent to {place(lag.sink)}"
    return Work(f"{OF_SINK}{lag.sink}", lag.changes, unit, lag.mark, lag.oldest_us, lag.moved_us, excused)


def _lag(connection: sa.Connection, incarnation: str, heads: Mapping[str, int], sink: str) -> SinkLag:
    rows = _cursors(connection, sink)
    stands = dict.fromkeys(heads, 0) | {row.incarnation: row.lsn for row in rows}
    firsts = [found for name in heads if (found := _first_waiting(connection, name, stands[name])) is not None]
    # What was purged before a sink took it waits for nobody.
    begins = {name: row.until_lsn for name, row in read_purged(connection, OWN_LOG).items()}
    waiting = [head_lsn - max(stands[name], begins.get(name, 0)) for name, head_lsn in heads.items()]
    sealed_us = min((tx_id_us(one.tx_id) for one in firsts), default=0)
    return SinkLag(
        sink=sink,
        cursor_lsn=stands[incarnation],
        changes=sum(max(0, changes) for changes in waiting),
        oldest_us=min((one.captured_us for one in firsts), default=None),
        moved_us=max([sealed_us, *(row.updated_us for row in rows)]),
        mark=",".join(f"{name}/{stands[name]}" for name in heads),
    )


def _cursors(connection: sa.Connection, sink: str) -> Sequence[Any]:
    cursor = rf.cursor.c
    query = sa.select(cursor.incarnation, cursor.lsn, cursor.updated_us).where(cursor.sink == sink)
    return connection.execute(query).all()


def _first_waiting(connection: sa.Connection, incarnation: str, after_lsn: int) -> Any | None:
    tx = rf.tx.c
    query = sa.select(tx.captured_us, tx.tx_id).where(tx.incarnation == incarnation, tx.to_lsn > after_lsn)
    return connection.execute(query.order_by(tx.to_lsn).limit(1)).one_or_none()


def _kept(connection: sa.Connection, incarnations: Sequence[str], sink: str) -> SinkKept:
    tx = rf.tx.c
    stands = dict.fromkeys(incarnations, 0) | {row.incarnation: row.lsn for row in _cursors(connection, sink)}
    waiting = [sa.and_(tx.incarnation == name, tx.to_lsn > stands[name]) for name in incarnations]
    sums = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(tx.bytes), 0))
    found = [connection.execute(sums.where(which)).one() for which in waiting]
    return SinkKept(sum(txs for txs, _ in found), sum(int(size) for _, size in found))
