"""What goes each way between this node and another one, in numbers: how far each has the other's log."""

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from common.config.model import Config
from common.ops.fleet import FleetNode, sinks_to
from common.ops.status import Standing
from common.schema import tables as rf


@dataclass(frozen=True, slots=True)
class WayIn:
    """Another node's log on its way here. LSNs count in `incarnation`; None: nobody has said it, or nothing came."""

    incarnation: str | None
    head_lsn: int | None
    """Where its log ended when it spoke last."""
    came_lsn: int | None
    """The highest that has come here; below it some may be missing."""
    done_lsn: int | None
    """All up to here is applied, or is a dead letter."""
    done_us: int | None
    """When that moved last."""


@dataclass(frozen=True, slots=True)
class Road:
    """One way out that this node's changes take towards the other one."""

    sink: str
    sent_lsn: int
    waiting: int
    """Changes that it has not taken yet."""
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class WayOut:
    """This node's log on its way there. LSNs count in its present incarnation."""

    head_lsn: int
    unsealed: int
    """Changes that are captured and have no LSN yet."""
    roads: tuple[Road, ...]
    """None where it comes for them itself."""
    taken_lsn: int | None
    """Up to here the other one is known to have it; None: it has not said so."""
    taken_us: int | None
    """Since when that is known."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Open dead letters of one kind."""

    state: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class NodeWays:
    """One node beside this one; of this node itself `way_in` is None, and `way_out` is to whoever takes it."""

    node: FleetNode
    way_in: WayIn | None
    way_out: WayOut
    letters: tuple[Letters, ...]
    first_seen_us: int | None
    every_seconds: float | None
    """How often it says that it is there."""
    spoke_us: int | None
    """When its last heartbeat came; batches tell of it too."""


def read_ways(connection: sa.Connection, config: Config, standing: Standing, node: FleetNode) -> NodeWays:
    """Return what is known. Reads no large table whole."""
    row = connection.execute(sa.select(rf.node).where(rf.node.c.node_id == node.name)).mappings().one_or_none()
    taken_lsn, taken_us = (None, None) if node.is_self else _taken(connection, standing, node.name)
    return NodeWays(
        node=node,
        way_in=None if node.is_self else _way_in(connection, standing, node.name),
        way_out=WayOut(
            head_lsn=standing.shares.get("head_lsn", 0),
            unsealed=standing.shares.get("unsealed_changes", 0),
            roads=tuple(_roads(config, standing, node)),
            taken_lsn=taken_lsn,
            taken_us=taken_us,
        ),
        letters=tuple(_letters(connection, None if node.is_self else node.name)),
        first_seen_us=None if row is None else row["first_seen_us"],
        every_seconds=None if row is None or row["every_us"] is None else row["every_us"] / 1_000_000,
        spoke_us=None if row is None or node.is_self else row["heard_us"],
    )


def _way_in(connection: sa.Connection, standing: Standing, name: str) -> WayIn:
    heard = next((one for one in standing.peers if one.node == name), None)
    newest = next((one for one in standing.sources if one.peer == name), None)
    incarnation = heard.incarnation if heard is not None else newest.incarnation if newest is not None else None
    mark = rf.sync_state.c
    query = sa.select(mark.last_lsn, mark.highest_lsn, mark.updated_us).where(
        mark.peer == name, mark.direction == "in", mark.incarnation == incarnation
    )
    row = connection.execute(query).one_or_none()
    return WayIn(
        incarnation=incarnation,
        head_lsn=None if heard is None else heard.head_lsn,
        came_lsn=None if row is None else max(row.highest_lsn, row.last_lsn),
        done_lsn=None if row is None else row.last_lsn,
        done_us=None if row is None else row.updated_us,
    )


def _taken(connection: sa.Connection, standing: Standing, name: str) -> tuple[int | None, int | None]:
    """Return up to where a node has this one's log, as it said or as it fetched it, and since when that is known."""
    own, passed = standing.facts, rf.passed.c
    query = sa.select(passed.lsn, passed.said_us).where(
        passed.peer == name, passed.origin == own.node_id, passed.incarnation == own.incarnation
    )
    known = [(row.lsn, row.said_us) for row in connection.execute(query)]
    clients: tuple[dict[str, Any], ...] = tuple(standing.shares.get("clients", ()))
    known += [
        (one["last_lsn"], one["updated_us"])
        for one in clients
        if one["client"] == name and one["incarnation"] == own.incarnation
    ]
    return max(known, default=(None, None), key=lambda one: one[0] or 0)


def _roads(config: Config, standing: Standing, node: FleetNode) -> list[Road]:
    sinks = standing.shares.get("sinks", ()) if node.is_self else sinks_to(node.name, config, standing)
    return [
        Road(one["sink"], one["cursor_lsn"], one["lag_changes"], one["oldest_unpublished_seconds"]) for one in sinks
    ]


def _letters(connection: sa.Connection, source: str | None) -> list[Letters]:
    letter = rf.dead_letter.c
    query = sa.select(letter.state, letter.reason, sa.func.count()).where(letter.state.in_(rf.OPEN_DEAD_LETTERS))
    if source is not None:
        query = query.where(letter.source_node == source)
    query = query.group_by(letter.state, letter.reason).order_by(letter.state, letter.reason)
    return [Letters(*row) for row in connection.execute(query)]
