"""How far each peer is, as it has said itself: in a heartbeat, or in the folder that nodes share (`rf_passed`).

It tells what has been passed of each origin's log, and with itself as origin the end of its own: whatever it wrote
before it had passed the rest lies below that."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import sqlalchemy as sa

from common.config.model import Config
from common.ports.dialect import NodeFacts
from common.schema import tables as rf
from common.transports.directory.acks import Acks, BrokenAcksError, read_acks
from common.wire.signing import Trust

log = logging.getLogger(__name__)

MOST = 400
"""So many origins are told of at most, those that moved last."""
MOST_STRANGE = 10_000
"""Of so many logs that this node has nothing of a peer's word is kept: it may have made them up."""
OriginKey = tuple[str, str]
"""Origin and incarnation."""


def own_passed(connection: sa.Connection) -> dict[OriginKey, int]:
    """Return what this node has passed. Read the end of the own log after it, never before."""
    state = rf.sync_state.c
    query = sa.select(state.peer, state.incarnation, state.last_lsn)
    query = query.where(state.direction == "in", state.last_lsn > 0).order_by(state.updated_us.desc()).limit(MOST)
    return {(peer, incarnation): lsn for peer, incarnation, lsn in connection.execute(query)}


def note_passed(connection: sa.Connection, peer: str, passed: Mapping[OriginKey, int], now_us: int) -> None:
    """Keep what a peer says; of origins that it does not name what it said before. A node put back says less."""
    known = read_passed(connection, [peer]).get(peer, {})
    if len(known.keys() | passed.keys()) > MOST_STRANGE:
        passed = _within_bounds(connection, peer, known, passed)
    moved = [
        {"peer": peer, "origin": origin, "incarnation": incarnation, "lsn": lsn, "said_us": now_us}
        for (origin, incarnation), lsn in sorted(passed.items())
        if known.get((origin, incarnation)) != lsn
    ]
    if not moved:
        return
    if old := [key for key, lsn in sorted(passed.items()) if known.get(key, lsn) != lsn]:
        _forget(connection, peer, old)
    connection.execute(sa.insert(rf.passed), moved)


def _within_bounds(
    connection: sa.Connection, peer: str, known: Mapping[OriginKey, int], passed: Mapping[OriginKey, int]
) -> Mapping[OriginKey, int]:
    """Return what of `passed` there is room for, and forget of what is `known` that which was said longest ago.

    All is kept of the logs that this node has something of, of its own and of the peer's: these alone are asked for."""
    state, node, table = rf.sync_state.c, rf.node.c, rf.passed
    logs = sa.select(state.peer, state.incarnation).where(state.direction == "in")
    ends = sa.select(node.node_id, node.incarnation).where(sa.or_(node.is_self, node.node_id == peer))
    here = {(origin, incarnation) for query in (logs, ends) for origin, incarnation in connection.execute(query)}
    strange = [key for key in passed if key not in here]
    left_out = frozenset(strange[MOST_STRANGE:])
    before = {key for key in known if key not in here and key not in passed}
    too_many = len(before) + len(strange) - len(left_out) - MOST_STRANGE
    if too_many > 0:
        said = sa.select(table.c.origin, table.c.incarnation).where(table.c.peer == peer).order_by(table.c.said_us)
        oldest = [(origin, incarnation) for origin, incarnation in connection.execute(said)]
        gone = [key for key in oldest if key in before][:too_many]
        _forget(connection, peer, gone)
    return {key: lsn for key, lsn in passed.items() if key not in left_out}


def _forget(connection: sa.Connection, peer: str, keys: Sequence[OriginKey]) -> None:
    table = rf.passed
    these = sa.and_(
        table.c.peer == peer,
        table.c.origin == sa.bindparam("of_origin"),
        table.c.incarnation == sa.bindparam("of_incarnation"),
    )
    given = [{"of_origin": origin, "of_incarnation": incarnation} for origin, incarnation in keys]
    connection.execute(sa.delete(table).where(these), given)


def read_passed(
    connection: sa.Connection, peers: Iterable[str], origins: Iterable[str] | None = None
) -> dict[str, dict[OriginKey, int]]:
    """Return what each of `peers` has said, of these `origins` alone where some are given; those that never said
    anything are left out."""
    table = rf.passed.c
    query = sa.select(table.peer, table.origin, table.incarnation, table.lsn).where(table.peer.in_(list(peers)))
    if origins is not None:
        query = query.where(table.origin.in_(list(origins)))
    found: dict[str, dict[OriginKey, int]] = {}
    for peer, origin, incarnation, lsn in connection.execute(query):
        found.setdefault(peer, {})[origin, incarnation] = lsn
    return found


def passed_in_folder(root: Path, peers: Iterable[str], trust: Trust) -> dict[str, dict[OriginKey, int]]:
    """Return how far peers are by what they have left in the folder that nodes share, as `acks_in_folder`."""
    return {peer: acks.passed for peer, acks in acks_in_folder(root, peers, trust).items() if acks.passed}


def acks_in_folder(root: Path, peers: Iterable[str], trust: Trust) -> dict[str, Acks]:
    """Return what peers have left in the folder that nodes share. What can't be read tells nothing, and is logged."""
    found = {}
    for peer in peers:
        try:
            acks = read_acks(root, peer, trust)
        except (BrokenAcksError, OSError) as error:
            log.warning("purge.acks_broken", extra={"subject": peer, "error": str(error)})
            continue
        if acks is not None:
            found[peer] = acks
    return found


def live_peers(connection: sa.Connection, config: Config, facts: NodeFacts, beside: Collection[str] = ()) -> list[str]:
    """Return the nodes that count: heard of, named in the configuration or `beside` it, and not retired."""
    node = rf.node.c
    rows = connection.execute(sa.select(node.node_id, node.retired_us).where(node.is_self.is_(False))).all()
    retired = {name for name, retired_us in rows if retired_us is not None}
    named = {*beside, *config.peers} | ({config.node.main} if config.node.main else set())
    if config.broker is not None:
        named |= {*config.broker.peers, *config.broker.listen}
    return sorted((named | {name for name, _ in rows}) - retired - {facts.node_id})
