"""How far this node's own changes are, as numbers: for probes, metrics and samples."""

import sqlalchemy as sa

from common.ops.progress import OwnProgress, RoadProgress
from common.ops.stalls import read_seen, waits
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from producer.log import NodeLogs
from producer.waiting import sealer_work, sink_lag, sink_names, sink_work


def own_progress(node: Node) -> OwnProgress:
    """Look how far they are now. Raises OutageError."""
    logs = NodeLogs(node.database, node.facts)
    log = logs.of(node.facts.incarnation)
    head, unsealed = log.head(), log.unsealed()
    heads = {name: logs.of(name).head().lsn for name in logs.incarnations()}
    lags = [sink_lag(node, name) for name in sink_names(node)]
    works = [sealer_work(node, head.lsn, unsealed), *(sink_work(node, lag) for lag in lags)] if lags else []
    seen = in_transaction(node.database, read_seen)
    failing = in_transaction(node.database, _failing)
    return OwnProgress(
        head_lsn=head.lsn,
        unsealed=unsealed.changes,
        unsealed_since_us=unsealed.oldest_us,
        kept=in_transaction(node.database, lambda connection: _kept(connection, heads)),
        roads=tuple(
            RoadProgress(lag.sink, lag.cursor_lsn, lag.changes, lag.oldest_us, failing.get(lag.sink)) for lag in lags
        ),
        waits=tuple(waits(works, seen, node.clock.now_us(), node.config.limits.stall_seconds)),
    )


def _failing(connection: sa.Connection) -> dict[str, int]:
    road = rf.road.c
    query = sa.select(road.sink, road.failing_since_us).where(road.failing_since_us.is_not(None))
    return {row.sink: row.failing_since_us for row in connection.execute(query)}


def _kept(connection: sa.Connection, heads: dict[str, int]) -> int:
    """Return how many sealed changes stand in the log: LSNs have no gaps, so its two ends tell."""
    tx = rf.tx.c
    kept = 0
    for incarnation, head_lsn in heads.items():
        first = sa.select(tx.prev_lsn).where(tx.incarnation == incarnation).order_by(tx.to_lsn).limit(1)
        begins_lsn = connection.scalar(first)
        kept += 0 if begins_lsn is None else max(0, head_lsn - begins_lsn)
    return kept
