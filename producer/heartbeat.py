"""What this node says of itself, in a heartbeat."""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import sqlalchemy as sa

from common.clock import from_us
from common.ops.agreement import agreement
from common.ops.passed import own_passed
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from common.wire.control import MOST_SEEN, Heartbeat, SeenLog
from common.wire.records import UNDERSTOOD_FEATURES
from producer.log import NodeLogs

NOBODY_KNOWS_SECONDS = 31_536_000.0
"""How often a node sends heartbeats that says something when somebody calls a command: nobody ever waits for it."""


def own_heartbeat(node: Node, sent: Callable[[str], int], every_seconds: float) -> Heartbeat:
    """Return this node's heartbeat. `sent`: up to where the other side has the log of an incarnation for good.

    Raises OutageError."""
    facts = node.facts
    # In this order: whatever this says that it has was there at that moment, and nothing was sent that it lacks.
    at_us = node.clock.now_us()
    number = in_transaction(node.database, partial(_next_number, now_us=at_us))
    passed = in_transaction(node.database, own_passed)
    sent_lsn = sent(facts.incarnation)
    head = NodeLogs(node.database, facts).of(facts.incarnation).head()
    agreed = agreement(node.config, node.captured_tables().values())
    return Heartbeat(
        source_node=facts.node_id,
        incarnation=facts.incarnation,
        head_lsn=head.lsn,
        head_tx_id=head.tx_id,
        sent_lsn=min(sent_lsn, head.lsn),
        every_seconds=every_seconds,
        at=from_us(at_us),
        number=number,
        release=version("rowferry"),
        features=tuple(sorted(UNDERSTOOD_FEATURES)),
        schema_sha256=agreed.schema_sha256,
        policies_sha256=agreed.policies_sha256,
        passed=tuple((origin, incarnation, lsn) for (origin, incarnation), lsn in passed.items()),
        seen=in_transaction(node.database, seen_logs),
    )


def _next_number(connection: sa.Connection, now_us: int) -> int:
    """Count one heartbeat. By the clock, so that a node that was put back, or set up anew, goes on above what it said;
    one by one as long as the clock is behind that."""
    own = rf.node.c
    before = sa.func.coalesce(own.heartbeat_us, 0)
    number = sa.case((before < now_us, now_us), else_=before + 1)
    counted = sa.update(rf.node).where(own.is_self).values(heartbeat_us=number).returning(own.heartbeat_us)
    return int(connection.execute(counted).scalar_one())


def seen_logs(connection: sa.Connection) -> dict[str, SeenLog]:
    """Return up to where this node has each source's log, of each its newest incarnation here; the last moved first."""
    state = rf.sync_state.c
    query = sa.select(rf.sync_state).where(state.direction == "in").order_by(state.updated_us.desc(), state.peer)
    found: dict[str, SeenLog] = {}
    for row in connection.execute(query):
        if row.peer not in found and len(found) < MOST_SEEN:
            found[row.peer] = SeenLog(incarnation=row.incarnation, lsn=row.last_lsn, tx_id=row.last_tx_id)
    return found
