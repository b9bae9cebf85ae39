"""How far other nodes' changes are here, as numbers: for probes, metrics and samples."""

from collections.abc import Mapping

import sqlalchemy as sa

from common.ops.progress import OthersProgress, SourceProgress
from common.ops.queued import queued_lately
from common.ops.stalls import OF_SOURCE, Work, read_seen, waits
from common.runtime.node import Node
from common.schema import tables as rf
from consumer.statements import reading
from consumer.waiting import held_seen, in_all, source_work, unfinished_by_source


def others_progress(node: Node) -> OthersProgress:
    """Look how far they are now. Raises OutageError."""
    now_us, stall_seconds = node.clock.now_us(), node.config.limits.stall_seconds
    with reading(node.database) as connection:
        many, since_us = in_all(unfinished_by_source(connection))
        marks = _marks(connection)
        seen = read_seen(connection)
        in_queue = queued_lately(connection, node.facts.node_id, now_us, stall_seconds)
    held, sources = held_seen(seen, now_us), source_work(node)
    return OthersProgress(
        sources=_sources(marks, sources),
        held=sum(one.pending for one in held),
        unfinished_txs=many,
        unfinished_since_us=since_us,
        waits=(*waits([*held, *sources], seen, now_us, stall_seconds), *in_queue),
    )


def _marks(connection: sa.Connection) -> dict[str, int]:
    """Return the watermark of each source's newest incarnation: older ones are history."""
    state = rf.sync_state.c
    query = sa.select(state.peer, state.last_lsn).where(state.direction == "in").order_by(state.updated_us)
    return {row.peer: row.last_lsn for row in connection.execute(query)}


def _sources(marks: Mapping[str, int], works: list[Work]) -> tuple[SourceProgress, ...]:
    behind = {work.name.removeprefix(OF_SOURCE): work.pending for work in works}
    peers = sorted(marks.keys() | behind.keys())
    return tuple(SourceProgress(peer, marks.get(peer, 0), behind.get(peer, 0)) for peer in peers)
