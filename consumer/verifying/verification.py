"""One comparison from its beginning to its end: chunks, rows, repair, and what is kept of it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from common.clock import from_iso
from common.errors import UsageError
from common.runtime.node import Node
from common.schema import tables as rf
from common.transports.http.client import PeerClient
from common.transports.http.peer import checked_state, is_trusted
from common.transports.http.settings import PeerSettings
from common.wire.digests import MOST_KEYS
from consumer.statements import insert_missing, writing
from consumer.verifying.comparing import ROWS_AT_ONCE, Comparison
from consumer.verifying.differences import Difference, State
from consumer.verifying.put_back import refuse_peer_put_back, refuse_put_back, seen_of
from consumer.verifying.repairing import REPAIRED, Peer, Repairing
from consumer.verifying.report import Report
from consumer.verifying.sides import Advance, FileSide, OwnSide, PeerSide
from consumer.verifying.taking import RowTaking

_MOST_PASSES = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to compare, and how."""

    tables: Collection[str] | None
    """None: all that both have."""
    wait_seconds: float
    most: int
    """So many rows are named."""
    repair: bool
    overtakes: bool
    """Repair also what has not come yet, and may never come."""
    actor: str
    advance: Advance


def verify_with_peer(node: Node, settings: PeerSettings, wanted: Wanted) -> Report:
    """Compare with a peer over HTTP. Raises UsageError, ConfigError, OutageError, RefusedError."""
    if wanted.repair:
        refuse_put_back(node, "repair")
    client = PeerClient(settings)
    try:
        state = checked_state(client, node.facts.node_id)
        sides = OwnSide(node), PeerSide(client, state.node, node.config.trust(), seen_of(node, state.node))
        comparison = Comparison(*sides, wanted.tables, wanted.wait_seconds, wanted.advance)
        if wanted.repair:
            refuse_peer_put_back(node, comparison.heads[1], "repair", is_written=False)
        comparison.count()
        if not wanted.repair:
            return _kept(node, _told(comparison, wanted), wanted)
        may_forward = is_trusted(settings, state, node.config, node.main())
        taking = RowTaking(node, state.node, wanted.actor, may_forward=may_forward)
        forms = {table: one.forms for table, one in comparison.fit.tables.items()}
        states = REPAIRED | {State.IN_FLIGHT} if wanted.overtakes else REPAIRED
        repairing = Repairing(node, sides, Peer(state.node, client, taking), forms, states, wanted.advance)
        return _kept(node, _repaired(comparison, repairing, wanted), wanted)
    finally:
        client.close()


def side_of_file(node: Node, path: Path) -> FileSide:
    """Return what another node wrote. Raises UsageError, PreflightError, RowferryError."""
    there = FileSide(path, node.config.trust())
    if there.head().source_node == node.facts.node_id:
        raise UsageError(f"{path} was written by this node itself: give a file from another node")
    return there


def verify_with_file(node: Node, path: Path, wanted: Wanted) -> Report:
    """Compare with what another node wrote. Raises UsageError, PreflightError, OutageError, RowferryError."""
    comparison = Comparison(OwnSide(node), side_of_file(node, path), wanted.tables, 0, wanted.advance)
    comparison.count()
    return _kept(node, _told(comparison, wanted), wanted)


def _told(comparison: Comparison, wanted: Wanted) -> Report:
    report = Report(comparison, wanted.most)
    for found in comparison.rounds():
        if len(report.rows) >= report.most:
            report.is_complete = False
            break
        report.add(found)
    return report


def _repaired(comparison: Comparison, repairing: Repairing, wanted: Wanted) -> Report:
    report, left = Report(comparison, wanted.most), list[Difference]()
    waiting: list[Difference] = []
    for found in comparison.rounds():
        waiting += found
        if len(waiting) >= MOST_KEYS:
            # Each repair reads the tables a few times: so not for the few rows of each round.
            left += _once(comparison, repairing, report, waiting)
            waiting = []
        if len(left) > ROWS_AT_ONCE:
            report.add(left)
            left = []
    left += _once(comparison, repairing, report, waiting)
    # What was refused may have waited for a row that came since.
    for _ in range(_MOST_PASSES):
        before = len(left)
        if not any(one.state in repairing.states for one in left):
            break
        left = _once(comparison, repairing, report, left)
        if len(left) == before:
            break
    report.add(left)
    return report


def _once(
    comparison: Comparison, repairing: Repairing, report: Report, found: Sequence[Difference]
) -> list[Difference]:
    """Repair rows, count those that are the same now, and return the others."""
    if not found:
        return []
    repairing.repair(found)
    tried = [one for one in found if one.state in repairing.states]
    still = {one.name: one for one in comparison.again(tried)}
    left = [one for one in found if one.state not in repairing.states]
    for one in tried:
        now = still.get(one.name)
        if now is None:
            one.state = State.REPAIRED
            report.add([one])
        else:
            now.repair = one.repair
            left.append(now)
    return left


def _kept(node: Node, report: Report, wanted: Wanted) -> Report:
    """Note when the two were found equal last; nothing of it where only some tables were compared."""
    there = report.comparison.heads[1]
    is_news = wanted.tables is None and bool(report.comparison.tables)
    if not is_news or not (report.is_equal or report.total(State.DIFFERENT)):
        return report
    at_us = min(node.clock.now_us(), from_iso(there.at))
    peer = {
        "node_id": there.source_node,
        "incarnation": there.incarnation,
        "is_self": False,
        "first_seen_us": node.clock.now_us(),
        "last_seen_us": 0,
    }
    values = {"verified_us": at_us if report.is_equal else None}

    def note(connection: sa.Connection) -> None:
        if there.source_node in node.config.named_nodes:
            # For any other node something would be kept from now on, which may never come by.
            insert_missing(connection, rf.node, [peer])
        connection.execute(sa.update(rf.node).where(rf.node.c.node_id == there.source_node).values(values))

    writing(node.database, note)
    return report
