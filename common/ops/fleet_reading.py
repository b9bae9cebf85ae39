"""Reads what one node knows of each other: counts of what waits, and what each is known to have of this node's log."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.config.model import Config
from common.ops.passed import live_peers, read_passed
from common.ops.peers import PeerStanding
from common.ops.roads import read_pushers, way_in
from common.ops.status import Standing
from common.schema import tables as rf

_ON_THE_WAY_US = 5_000_000
"""What is younger than this when a peer speaks may just not have reached it."""


@dataclass(frozen=True, slots=True)
class Lag:
    """What one side has of the other's log and what it lacks. None: nobody has said it."""

    changes: int | None = None
    oldest_seconds: float | None = None
    """How long the oldest of it waits; 0 where nothing does."""
    newer: int = 0
    """Changes besides, written since the other side spoke last: nobody knows yet whether it has them."""
    unsent: int = 0
    """Changes that no way there has taken yet; they are among the others, but for what has no number yet."""


@dataclass(frozen=True, slots=True)
class Peer:
    """What is on record of one peer, before it is put in words."""

    name: str
    row: sa.Row[Any] | None
    standing: PeerStanding | None
    letters: Mapping[str, int]
    """By reason: those that need a person."""
    early: int
    forked: int
    conflicts: int
    lacks: Lag
    way_in: str
    """How its changes come here."""


def read_known(connection: sa.Connection, config: Config, standing: Standing) -> list[Peer]:
    """Return the peers that count, in the order of their names. Reads no large table whole."""
    names = live_peers(connection, config, standing.facts)
    rows = {row.node_id: row for row in connection.execute(sa.select(rf.node))}
    heard = {one.node: one for one in standing.peers}
    letters, conflicts = _letters(connection), _conflicts(connection)
    passed, pushers = _taken(connection, names, standing), read_pushers(connection, standing.at_us)
    found = []
    for name in names:
        mine = [row for row in letters if row.source_node == name]
        bound_us = _bound(heard.get(name), standing.at_us)
        found.append(
            Peer(
                name=name,
                row=rows.get(name),
                standing=heard.get(name),
                letters={row.reason: row.letters for row in mine if row.state == "dead"},
                early=sum(row.letters for row in mine if row.state == "early"),
                forked=sum(row.letters for row in mine if row.state == "forked"),
                conflicts=conflicts.get(name, 0),
                lacks=_lacks(connection, standing, passed.get(name), bound_us),
                way_in=way_in(name, config, pushers),
            )
        )
    return found


def _letters(connection: sa.Connection) -> list[sa.Row[Any]]:
    letter = rf.dead_letter.c
    count = sa.func.count().label("letters")
    query = sa.select(letter.source_node, letter.state, letter.reason, count).where(
        letter.state.in_(rf.OPEN_DEAD_LETTERS)
    )
    query = query.group_by(letter.source_node, letter.state, letter.reason)
    return list(connection.execute(query.order_by(letter.source_node, sa.desc("letters"))))


def _conflicts(connection: sa.Connection) -> dict[str, int]:
    met = rf.conflict.c
    query = sa.select(met.source_node, sa.func.count()).where(met.state == "waiting").group_by(met.source_node)
    return {row[0]: row[1] for row in connection.execute(query)}


def _taken(connection: sa.Connection, names: list[str], standing: Standing) -> dict[str, int]:
    """Return up to where each peer is known to have this node's log: what it said, or what it fetched by HTTP."""
    own = standing.facts.node_id, standing.facts.incarnation
    said = {name: passed[own] for name, passed in read_passed(connection, names).items() if own in passed}
    for one in standing.shares.get("clients", ()):
        if one["incarnation"] == own[1]:
            said[one["client"]] = max(said.get(one["client"], 0), one["last_lsn"])
    return said


def _bound(peer: PeerStanding | None, now_us: int) -> int:
    """Return when something must have been captured for a peer to lack it, and not only not to have said so yet."""
    is_talking = peer is not None and not peer.is_silent
    return (peer.heard_us if peer is not None and is_talking else now_us) - _ON_THE_WAY_US


def _lacks(connection: sa.Connection, standing: Standing, taken_lsn: int | None, bound_us: int) -> Lag:
    if taken_lsn is None:
        return Lag()
    tx = rf.tx.c
    waits = sa.and_(tx.incarnation == standing.facts.incarnation, tx.to_lsn > taken_lsn, tx.captured_us < bound_us)
    # Two looks along the primary key, not one over all that lies between.
    first = sa.select(tx.captured_us).where(waits).order_by(tx.to_lsn).limit(1)
    last = sa.select(tx.to_lsn).where(waits).order_by(tx.to_lsn.desc()).limit(1)
    oldest_us = connection.scalar(first)
    head_lsn, unsealed = standing.shares.get("head_lsn", 0), standing.shares.get("unsealed_changes", 0)
    count = 0 if oldest_us is None else (connection.scalar(last) or taken_lsn) - taken_lsn
    newer = max(0, head_lsn - taken_lsn - count) + unsealed
    if oldest_us is None:
        return Lag(0, 0.0, newer)
    return Lag(count, max(0.0, (standing.at_us - oldest_us) / 1e6), newer)
