"""What waits in the broker's queue of this node while nobody takes it."""

import sqlalchemy as sa

from common.ops.samples import sampled_queue
from common.ops.stalls import Seen, Wait, Work, is_fresh, read_seen, waits


def queued(connection: sa.Connection, node_id: str, depth: int, now_us: int, stall_seconds: float) -> list[Wait]:
    """Return it, since then as the watchdog tells: AMQP does not. `depth`: how many messages are in the queue."""
    name = f"rowferry.node.{node_id}"
    seen = read_seen(connection).get("intake broker")
    runs = seen is not None and is_fresh(seen, now_us)
    # Of a node that runs the watchdog tells what it holds, and, where that is nothing, since when it can't take any.
    if not depth or (seen is not None and runs and (seen.pending or seen.oldest_us is None)):
        return []
    remedy = (
        "the running node can't take them (service.outage in its log)" if runs else "nobody takes them (rowferry run)"
    )
    work = Work("intake broker", depth, f"messages wait in {name}, and {remedy}", "queue")
    since_us = None if seen is None else seen.oldest_us if runs else seen.looked_us
    before = {} if since_us is None else {work.name: Seen(0, "", None, None, since_us)}
    return waits([work], before, now_us, stall_seconds)


def queued_lately(connection: sa.Connection, node_id: str, now_us: int, stall_seconds: float) -> list[Wait]:
    """Return the same without asking the broker: by what it said within the last minutes."""
    return queued(connection, node_id, sampled_queue(connection, now_us) or 0, now_us, stall_seconds)
