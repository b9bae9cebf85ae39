"""Work that waits: the ages that `/readyz`, metrics and the page show alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.ops.stalls import told
from common.ports.part import Part
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf


@dataclass(frozen=True, slots=True)
class Waits:
    """Ages in seconds; None where nothing is known, 0 where nothing waits."""

    unpublished_seconds: float | None = None
    unapplied_seconds: float | None = None
    stalled: str | None = None
    """What waits and does not get on, in words, as `status` says it; None: nothing."""


def read_waits(node: Node, parts: Sequence[Part[Node]]) -> Waits:
    """Return how old the oldest change is that was not published yet, and the oldest that came and waits.

    Raises OutageError."""
    shares: dict[str, Any] = {}
    for part in parts:
        shares |= part.status(node)
    early_us = in_transaction(node.database, lambda connection: connection.scalar(_OLDEST_EARLY))
    early = 0.0 if early_us is None else max(0.0, (node.clock.now_us() - early_us) / 1_000_000)
    waiting = [one["oldest_seconds"] for one in shares.get("unapplied", ())]
    unapplied = max([early, shares.get("oldest_unfinished_seconds") or 0.0, *waiting])
    found = [one for one in (*shares.get("unpublished", ()), *shares.get("unapplied", ())) if one["stalled"]]
    return Waits(_unpublished(shares), unapplied, told(found[0]) if found else None)


_OLDEST_EARLY = sa.select(sa.func.min(rf.dead_letter.c.first_failed_us)).where(rf.dead_letter.c.state == "early")


def _unpublished(shares: Mapping[str, Any]) -> float:
    ages = [one["oldest_unpublished_seconds"] for one in shares.get("sinks", ())]
    oldest: float = max([shares.get("oldest_unsealed_seconds") or 0.0, *ages])
    return oldest
