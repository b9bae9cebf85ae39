"""How far the node's own changes are: the log's head, each sink's cursor, and what is not published yet."""

from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.ops.directories import FOLDER
from common.ops.stalls import Seen, read_seen, waits
from common.retry import in_transaction
from common.runtime.node import Node
from common.runtime.transports import BROKER, DIRECTORY, peer_road
from common.schema import tables as rf
from producer.log import NodeLogs
from producer.road import RoadState, read_road
from producer.waiting import SinkLag, sealer_work, sink_kept, sink_lag, sink_names, sink_work


def producer_status(node: Node) -> dict[str, Any]:
    """Return the producer's share of `status --json`."""
    log = NodeLogs(node.database, node.facts).of(node.facts.incarnation)
    head, unsealed = log.head(), log.unsealed()
    lags = [sink_lag(node, name) for name in sink_names(node)]
    now_us = node.clock.now_us()
    work = [sealer_work(node, head.lsn, unsealed), *(sink_work(node, lag) for lag in lags)] if lags else []
    seen = in_transaction(node.database, read_seen)
    return {
        "incarnation": node.facts.incarnation,
        "head_lsn": head.lsn,
        "head_tx_id": head.tx_id,
        "unsealed_changes": unsealed.changes,
        "oldest_unsealed_seconds": _age_seconds(node, unsealed.oldest_us),
        "sinks": [_sink(node, lag) for lag in lags],
        "unpublished": [one.document(now_us) for one in waits(work, seen, now_us, node.config.limits.stall_seconds)],
        "folder": _folder(node, seen.get(FOLDER)),
        "road": _road(node),
        "http_peers": [_http_peer(node, name, peer.url) for name, peer in node.config.peers.items()],
        "clients": in_transaction(node.database, _clients),
    }


def _folder(node: Node, seen: Seen | None) -> dict[str, Any] | None:
    """Return what the node's own folder held when it was cleaned last: a share that hangs must not hang `status`."""
    directory = node.config.directory
    if directory is None or seen is None:
        return None
    return {
        "bytes": seen.pending,
        "files": int(seen.mark),
        "max_bytes": directory.max_bytes,
        "oldest_at": _iso(seen.oldest_us),
        "looked_at": to_iso(seen.looked_us),
    }


def _road(node: Node) -> dict[str, Any] | None:
    """Return which way the changes take and why; None where nothing is configured to carry them."""
    config = node.config
    if config.broker is None:
        return None if config.directory is None else _folder_document(read_road(node.database, DIRECTORY))
    state = read_road(node.database)
    return _road_document(BROKER if state.fallback_since_us is None else DIRECTORY, state)


def _http_peer(node: Node, name: str, url: str) -> dict[str, Any]:
    state = read_road(node.database, peer_road(name))
    return {"peer": name, "url": url, "unusable_since": _iso(state.failing_since_us), "error": state.error}


def _folder_document(state: RoadState) -> dict[str, Any]:
    """Of a node that has no broker."""
    found = _road_document(DIRECTORY, RoadState(error=state.error))
    return found | {"folder_unusable_since": _iso(state.failing_since_us)}


def _road_document(used: str, state: RoadState) -> dict[str, Any]:
    return {
        "used": used,
        "broker_unusable_since": _iso(state.failing_since_us),
        "folder_unusable_since": None,
        "error": state.error,
        "fallback_since": _iso(state.fallback_since_us),
        "fallback_error": state.fallback_error,
    }


def _iso(us: int | None) -> str | None:
    return None if us is None else to_iso(us)


def _sink(node: Node, lag: SinkLag) -> dict[str, Any]:
    kept = sink_kept(node, lag.sink)
    return {
        "sink": lag.sink,
        "cursor_lsn": lag.cursor_lsn,
        "lag_changes": lag.changes,
        "kept_txs": kept.txs,
        "kept_bytes": kept.bytes,
        "oldest_unpublished_seconds": _age_seconds(node, lag.oldest_us),
    }


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
