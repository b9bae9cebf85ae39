"""The consumer's share of `status`: what hangs between having come and being applied."""

from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.ops.stalls import read_seen, waits
from common.runtime.node import Node
from common.schema import tables as rf
from consumer.gaps import Gap, find_gaps
from consumer.standing.store import counts
from consumer.statements import reading
from consumer.waiting import held_seen, in_all, source_work, unfinished_by_source
from consumer.watermark import Mark, read_all

_ASKED = sa.select(rf.request).where(rf.request.c.direction == "out")


def read_status(node: Node) -> dict[str, Any]:
    """Return unfinished large txs, rows that have stepped back, and sources in whose log something is missing here."""
    now_us = node.clock.now_us()
    with reading(node.database) as connection:
        by_source = unfinished_by_source(connection)
        unfinished_txs, oldest_us = in_all(by_source)
        stepped_back = counts(connection)
        marks = {key: mark for key, (mark, _) in read_all(connection).items()}
        gaps = {gap.key: gap for gap in find_gaps(connection)}
        for key in gaps:
            marks.setdefault(key, Mark(*key))
        seen = read_seen(connection)
        asked = {(row.peer, row.incarnation): row for row in connection.execute(_ASKED)}
    works = [*held_seen(seen, now_us), *source_work(node)]
    heals = node.config.broker is not None and node.config.broker.is_rabbitmq
    return {
        "unfinished_txs": unfinished_txs,
        "oldest_unfinished_seconds": None if oldest_us is None else max(0.0, (now_us - oldest_us) / 1_000_000),
        "unfinished": [
            {"peer": one.key[0], "txs": one.txs, "changes": one.changes, "parts": one.parts}
            | {"oldest_seconds": max(0.0, (now_us - one.since_us) / 1_000_000)}
            for one in by_source
        ],
        "stepped_back": stepped_back,
        "unapplied": [one.document(now_us) for one in waits(works, seen, now_us, node.config.limits.stall_seconds)],
        "gaps": [
            _gap(mark, gaps.get(key), asked.get(key), heals)
            for key, mark in sorted(marks.items())
            if mark.gap or (key in gaps and key in asked)
        ],
    }


def _gap(mark: Mark, gap: Gap | None, request: sa.Row[Any] | None, heals: bool) -> dict[str, Any]:
    return {
        "peer": mark.source_node,
        "incarnation": mark.incarnation,
        "after_lsn": mark.last_lsn,
        "highest_lsn": max(mark.highest_lsn, gap.until_lsn if gap else 0),
        "heals": heals,
        "asked": request.asked if request else 0,
        "asked_at": to_iso(request.last_asked_us) if request else None,
        "gone_until_lsn": request.gone_until_lsn if request else None,
    }
