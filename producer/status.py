"""How far the node's own changes are: the log's head, each sink's cursor, and what is not published yet."""

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import BROKER, DIRECTORY, sink_factories
from common.schema import tables as rf
from producer.cursors import Cursors
from producer.log import NodeLogs
from producer.road import RoadState, read_road


def producer_status(node: Node) -> dict[str, Any]:
    """Return the producer's share of `status --json`."""
    logs = NodeLogs(node.database, node.facts)
    log = logs.of(node.facts.incarnation)
    head, unsealed = log.head(), log.unsealed()
    return {
        "incarnation": node.facts.incarnation,
        "head_lsn": head.lsn,
        "head_tx_id": head.tx_id,
        "unsealed_changes": unsealed.changes,
        "oldest_unsealed_seconds": _age_seconds(node, unsealed.oldest_us),
        "sinks": [_sink(node, logs, name) for name in sink_names(node)],
        "road": _road(node),
        "clients": in_transaction(node.database, _clients),
    }


def _road(node: Node) -> dict[str, Any] | None:
    """Return which way the changes take and why; None where nothing is configured to carry them."""
    config = node.config
    if config.broker is None:
        return None if config.directory is None else _road_document(DIRECTORY, RoadState())
    state = read_road(node.database)
    return _road_document(BROKER if state.fallback_since_us is None else DIRECTORY, state)


def _road_document(used: str, state: RoadState) -> dict[str, Any]:
    return {
        "used": used,
        "broker_unusable_since": _iso(state.failing_since_us),
        "error": state.error,
        "fallback_since": _iso(state.fallback_since_us),
        "fallback_error": state.fallback_error,
    }


def _iso(us: int | None) -> str | None:
    return None if us is None else to_iso(us)


def sink_names(node: Node) -> Iterable[str]:
    """Return the names of the configured sinks, none where no transport is configured."""
    configured = node.config.broker or node.config.directory
    return sink_factories(node) if configured else ()


def _sink(node: Node, logs: NodeLogs, name: str) -> dict[str, Any]:
    cursors = Cursors(node.database, node.clock)
    incarnations = logs.incarnations()
    stands = {incarnation: cursors.load(name, incarnation) for incarnation in incarnations}
    # The log of an earlier incarnation may be purged, so that nothing tells any more where it ended.
    behind = sum(max(0, logs.of(incarnation).head().lsn - lsn) for incarnation, lsn in stands.items())
    waiting = [_oldest(node, incarnation, lsn) for incarnation, lsn in stands.items()]
    oldest_us = min((us for us in waiting if us is not None), default=None)
    return {
        "sink": name,
        "cursor_lsn": stands[node.facts.incarnation],
        "lag_changes": behind,
        "oldest_unpublished_seconds": _age_seconds(node, oldest_us),
    }


def _oldest(node: Node, incarnation: str, after_lsn: int) -> int | None:
    """Return when the first tx behind the cursor was captured: a probe of the primary key."""
    query = (
        sa.select(rf.tx.c.captured_us)
        .where(rf.tx.c.incarnation == incarnation, rf.tx.c.to_lsn > after_lsn)
        .order_by(rf.tx.c.to_lsn)
        .limit(1)
    )
    return in_transaction(node.database, lambda connection: connection.execute(query).scalar())


def _age_seconds(node: Node, since_us: int | None) -> float:
    """Return an age for people and gauges; never negative, whatever the clocks say."""
    return 0.0 if since_us is None else round(max(0, node.clock.now_us() - since_us) / 1e6, 3)


def _clients(connection: sa.Connection) -> list[dict[str, Any]]:
    state = rf.sync_state
    query = sa.select(state).where(state.c.direction == "out").order_by(state.c.peer, state.c.updated_us)
    return [
        {"client": row.peer, "incarnation": row.incarnation, "last_lsn": row.last_lsn, "updated_us": row.updated_us}
        for row in connection.execute(query)
    ]
