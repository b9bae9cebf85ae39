"""Every metric that a node gives: its name, what it means, its labels. docs/reference/metrics.md is made of this.

Names follow Prometheus: `_total` counts on, `_seconds` are seconds, the rest stands as it is now.
`python -m common.metrics` prints the page."""

import sys
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How a metric behaves."""

    COUNTER = "counter"
    """Rises; a fall means that it began anew."""
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Metric:
    """One family of values."""

    name: str
    kind: Kind
    text: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Measure:
    """One value now. `labels`: in the order of the metric's own."""

    metric: Metric
    value: float
    labels: tuple[str, ...] = ()


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"rowferry_{name}", Kind.GAUGE, text, labels)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"rowferry_{name}_total", Kind.COUNTER, text, labels)


NODE_INFO = _gauge("node_info", "Always 1: which node this is.", "node", "role", "release", "database")
DATABASE_UP = _gauge("database_up", "1 where the node's database answered; 0: only process metrics are there.")
WATCHDOG_AGE = _gauge(
    "watchdog_age_seconds", "Since `rowferry run` looked after the work last; it does twice a minute."
)
PUT_BACK = _gauge("put_back", "1 where this node is known to be put back to an earlier state, or to run twice.")

OLDEST_UNPUBLISHED = _gauge(
    "oldest_unpublished_seconds", "Age of the oldest change that some road has not taken yet; 0: none waits."
)
OLDEST_UNAPPLIED = _gauge(
    "oldest_unapplied_seconds",
    "Since when the oldest waits that came here, or is known to be at its source, and is not applied; 0: none.",
)
STALLED = _gauge("stalled", "Kinds of work that wait and of which nothing was done for `limits.stall_seconds`.")

SEALED_CHANGES = _counter("sealed_changes", "Own changes sealed; begins anew with a new incarnation.")
SEALED_TXS = _counter("sealed_txs", "Own transactions sealed, counted once a minute.")
UNSEALED = _gauge("unsealed_changes", "Captured changes that wait to be sealed.")
LOG_CHANGES = _gauge("log_changes", "Own changes in the log: sealed and not purged.")
PUBLISHED_CHANGES = _counter(
    "published_changes", "Own changes that a road has taken; begins anew with a new incarnation.", "road"
)
UNPUBLISHED = _gauge("unpublished_changes", "Sealed changes that a road has not taken.", "road")
UNPUBLISHED_AGE = _gauge("unpublished_age_seconds", "Age of the oldest of them; 0: none waits.", "road")
ROAD_USABLE = _gauge("road_usable", "1 where a road can be used, as far as is known.", "road")

APPLIED_CHANGES = _counter("applied_changes", "Other nodes' changes applied, counted once a minute.")
APPLIED_TXS = _counter("applied_txs", "Other nodes' transactions applied, counted once a minute.")
PASSED_CHANGES = _counter(
    "passed_changes", "A peer's changes that were applied or set aside; begins anew with its incarnation.", "peer"
)
UNAPPLIED = _gauge("unapplied_changes", "Changes that a peer's log is known to have, and this node has not.", "peer")
HELD = _gauge("held_messages", "Messages taken and not let go of by a running node.")
QUEUE = _gauge("queue_messages", "In the broker's queue of this node, asked for once a minute.")
UNFINISHED = _gauge("unfinished_txs", "Large transactions of which parts are missing.")
DEAD_LETTERS = _gauge("dead_letters", "Batches set aside that wait for a person.", "reason")
EARLY_LETTERS = _gauge("early_letters", "Batches set aside that are tried again by themselves.")
WAITING_CONFLICTS = _gauge("waiting_conflicts", "Conflicts that wait for a choice.")

HEARTBEAT_AGE = _gauge("peer_heartbeat_age_seconds", "Since a peer was heard last, by the broker.", "peer")
CLOCK_AHEAD = _gauge("peer_clock_ahead_seconds", "A peer's clock before this node's, by its last heartbeat.", "peer")

METRICS: tuple[Metric, ...] = (
    NODE_INFO,
    DATABASE_UP,
    WATCHDOG_AGE,
    PUT_BACK,
    OLDEST_UNPUBLISHED,
    OLDEST_UNAPPLIED,
    STALLED,
    SEALED_CHANGES,
    SEALED_TXS,
    UNSEALED,
    LOG_CHANGES,
    PUBLISHED_CHANGES,
    UNPUBLISHED,
    UNPUBLISHED_AGE,
    ROAD_USABLE,
    APPLIED_CHANGES,
    APPLIED_TXS,
    PASSED_CHANGES,
    UNAPPLIED,
    HELD,
    QUEUE,
    UNFINISHED,
    DEAD_LETTERS,
    EARLY_LETTERS,
    WAITING_CONFLICTS,
    HEARTBEAT_AGE,
    CLOCK_AHEAD,
)

_HEAD = """# Metrics

`GET /metrics` of `rowferry serve`, in Prometheus' text format, or OpenMetrics where the scraper asks for it. The values
come from the node's database at each scrape, so `serve` tells what `run` does in another process. On loopback it is
open, from elsewhere it needs a token with scope `ops` ([http.md](http.md)). Alerts and a dashboard:
[howto/monitoring.md](../howto/monitoring.md). This page is made by `python -m common.metrics`.

`road` is a way out: `broker`, `directory`, `http-PEER`. `peer` is a node that this one knows and that is not retired.
`reason` is one of [reasons.md](reasons.md). A value that is not known is left out. The usual metrics of a Python
process (`process_…`, `python_…`) are those of `serve`.

| metric | kind | labels | |
| --- | --- | --- | --- |
"""


def page() -> str:
    """Return docs/reference/metrics.md."""
    rows = [f"| `{one.name}` | {one.kind} | {_labels(one)} | {one.text} |\n" for one in METRICS]
    return _HEAD + "".join(rows)


def _labels(metric: Metric) -> str:
    return ", ".join(f"`{label}`" for label in metric.labels)


if __name__ == "__main__":
    sys.stdout.write(page())
