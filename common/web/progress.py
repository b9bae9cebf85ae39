"""Work that waits: the ages that `/readyz`, metrics and the page show alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from common.ops.progress import age_seconds, joined, sides_of
from common.ops.stalls import told
from common.ports.part import Part
from common.retry import in_transaction
from common.runtime.node import Node


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
    progress = in_transaction(node.database, partial(joined, sides_of(parts, node)))
    now_us = node.clock.now_us()
    stalled = next(iter(progress.stalled), None)
    return Waits(
        age_seconds(progress.unpublished_since_us, now_us),
        age_seconds(progress.unapplied_since_us, now_us),
        None if stalled is None else told(stalled.document(now_us)),
    )
