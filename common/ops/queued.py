"""What waits in the broker's queue of this node while nobody takes it, and that a running node can't take anything."""

import sqlalchemy as sa

from common.ops.samples import sampled_queue
from common.ops.stalls import INTAKE, Seen, Wait, Work, is_fresh, read_seen, waits
from common.schema import tables as rf

_INTAKE = f"{INTAKE}broker"
_SHUT = "way in takes nothing from the broker: service.outage in the log of run tells why (rowferry doctor)"
_AWAY = sa.select(rf.road.c.failing_since_us).where(rf.road.c.sink == "broker")


def queued(connection: sa.Connection, node_id: str, depth: int, now_us: int, stall_seconds: float) -> list[Wait]:
    """Return it, since then as the watchdog tells: AMQP does not. `depth`: how many messages are in the queue."""
    name = f"rowferry.node.{node_id}"
    seen = read_seen(connection).get(_INTAKE)
    runs = seen is not None and is_fresh(seen, now_us)
    # Of a node that runs the watchdog tells what it holds, and, where that is nothing, since when it can't take any.
    if seen is not None and runs and (seen.pending or seen.oldest_us is None):
        return []
    since_us = None if seen is None else seen.oldest_us if runs else seen.looked_us
    before = {} if since_us is None else {_INTAKE: Seen(0, "", None, None, since_us)}
    if not depth:
        # The queue may be gone, or another one than it should be: what others send is not even seen here then.
        found = waits([Work(_INTAKE, 1, _SHUT, "shut")], before, now_us, stall_seconds) if runs else []
        return found if any(one.stalled for one in found) and not _is_away(connection) else []
    remedy = (
        "the running node can't take them (service.outage in its log)" if runs else "nobody takes them (rowferry run)"
    )
    work = Work(_INTAKE, depth, f"messages wait in {name}, and {remedy}", "queue")
    return waits([work], before, now_us, stall_seconds)


def _is_away(connection: sa.Connection) -> bool:
    """Tell whether the node can't send by the broker either: that is told as such, and files may travel meanwhile."""
    return connection.scalar(_AWAY) is not None


def queued_lately(connection: sa.Connection, node_id: str, now_us: int, stall_seconds: float) -> list[Wait]:
    """Return the same without asking the broker: by what it said within the last minutes."""
    return queued(connection, node_id, sampled_queue(connection, now_us) or 0, now_us, stall_seconds)
