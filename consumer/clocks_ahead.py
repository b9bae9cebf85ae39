"""Nodes whose clocks are ahead of this one's: what they write beats what is written later elsewhere."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from common.schema import tables as rf
from consumer import audit
from consumer.incoming import Outcome, Result

_SAID_AGAIN_US = 3_600_000_000


def latest_by_source(results: Sequence[Result]) -> dict[str, Result]:
    """Return, for each source of which something was applied, the tx that its latest clock stands in."""
    found: dict[str, Result] = {}
    for result in results:
        if result.outcome is Outcome.APPLIED and result.counts.latest_us:
            source = result.incoming.source_node
            if source not in found or result.counts.latest_us > found[source].counts.latest_us:
                found[source] = result
    return found


def tell_news(
    connection: sa.Connection, latest: Mapping[str, Result], bound_seconds: float, now_us: int
) -> list[audit.Line]:
    """Return audit lines for the sources that are ahead and were not said to be within the last hour.

    Their results are marked (`Counts.ahead_us`), for who logs after the commit. Call it before the peers are noted."""
    lines = []
    for source, result in latest.items():
        ahead_us = result.counts.latest_us - now_us
        if ahead_us <= bound_seconds * 1_000_000 or _was_said(connection, source, now_us):
            continue
        result.counts.ahead_us = ahead_us
        detail = {"ahead_seconds": round(ahead_us / 1_000_000, 3), "bound_seconds": bound_seconds}
        lines.append(audit.Line("clock-ahead", *result.incoming.key, detail=detail))
    return lines


def _was_said(connection: sa.Connection, source: str, now_us: int) -> bool:
    peer = sa.select(rf.node.c.ahead_seen_us).where(rf.node.c.node_id == source, rf.node.c.ahead_us > 0)
    seen_us = connection.scalar(peer)
    return seen_us is not None and abs(now_us - seen_us) < _SAID_AGAIN_US
