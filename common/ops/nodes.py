"""The nodes that this one knows: what it has of each, what each has passed, and taking leave of one for good."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from common.clock import Clock, to_iso
from common.config.model import Config
from common.errors import UsageError
from common.ops.passed import live_peers, read_passed
from common.ops.peers import MISSED_HEARTBEATS
from common.ops.tokens import revoke_all_of
from common.ports.dialect import Database, NodeFacts
from common.retry import in_transaction
from common.schema import tables as rf
from common.schema.main_node import known_main, role_of


class NodeState(StrEnum):
    """How a node stands with this one."""

    SELF = "this node"
    HEARD = "heard"
    """It has sent something; nodes without heartbeats are never called silent."""
    SILENT = "silent"
    NEVER_HEARD = "never heard"
    """The configuration names it."""
    RETIRED = "retired"
    RETURNED = "returned"
    """It was retired, and has spoken again: it counts as before."""


@dataclass(frozen=True, slots=True)
class KnownNode:
    """One node. Instants are microseconds since the epoch."""

    node: str
    role: str | None
    incarnation: str | None
    state: NodeState
    last_heard_us: int | None
    watermark: int | None
    """Up to here this node has seen its log, in its present incarnation; None for this node itself."""
    passed_lsn: int | None
    """Up to here it has seen this node's log; None: it has never said so."""
    passed: Mapping[str, int]
    """The same for the logs of others, each in the incarnation that is furthest."""
    retired_us: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "node": self.node,
            "role": self.role,
            "incarnation": self.incarnation,
            "state": self.state.value,
            "last_heard": None if self.last_heard_us is None else to_iso(self.last_heard_us),
            "watermark": self.watermark,
            "passed_lsn": self.passed_lsn,
            "passed": dict(self.passed),
            "retired_at": None if self.retired_us is None else to_iso(self.retired_us),
        }


@dataclass(frozen=True, slots=True)
class Retired:
    """What was kept for a node until now."""

    node: str
    freed: Mapping[str, int]
    already: bool
    at_us: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {
            "node": self.node,
            "already": self.already,
            "retired_at": to_iso(self.at_us),
            "freed": dict(self.freed),
        }


class Nodes:
    """Of one node's database."""

    def __init__(self, database: Database, config: Config, facts: NodeFacts, clock: Clock) -> None:
        self._database = database
        self._config = config
        self._facts = facts
        self._clock = clock

    def known(self) -> list[KnownNode]:
        """Return this node, then all others by name."""
        return in_transaction(self._database, self._read)

    def retire(self, node_id: str, actor: str) -> Retired:
        """Keep nothing more for a node. Raises UsageError for this node itself, and for one that nobody knows."""
        if node_id == self._facts.node_id:
            raise UsageError(f"{node_id} is this node itself: `rowferry unmigrate` removes Rowferry from its database")
        names = {one.node for one in self.known()}
        if node_id not in names:
            raise UsageError(f"{node_id}: no such node; see `rowferry node list`")
        return in_transaction(self._database, lambda connection: self._retire(connection, node_id, actor))

    def _read(self, connection: sa.Connection) -> list[KnownNode]:
        rows = {row.node_id: row for row in connection.execute(sa.select(rf.node))}
        names = {*rows, *live_peers(connection, self._config, self._facts)} - {self._facts.node_id}
        said = read_passed(connection, names)
        state = rf.sync_state.c
        query = sa.select(state.peer, state.incarnation, state.last_lsn).where(state.direction == "in")
        marks = {(peer, incarnation): lsn for peer, incarnation, lsn in connection.execute(query)}
        found = [
            KnownNode(
                self._facts.node_id,
                self._facts.role,
                self._facts.incarnation,
                NodeState.SELF,
                None,
                None,
                None,
                {},
                None,
            )
        ]
        listened_us = rows[self._facts.node_id].heard_us or 0
        main = known_main(connection, self._config)
        for name in sorted(names):
            row = rows.get(name)
            passed = said.get(name, {})
            found.append(
                KnownNode(
                    node=name,
                    role=role_of(name, main),
                    incarnation=(row.incarnation or None) if row else None,
                    state=_state(row, listened_us),
                    last_heard_us=(row.last_seen_us or None) if row else None,
                    watermark=marks.get((name, row.incarnation), 0) if row else 0,
                    passed_lsn=passed.get((self._facts.node_id, self._facts.incarnation)),
                    passed=_furthest(passed, {name, self._facts.node_id}),
                    retired_us=row.retired_us if row else None,
                )
            )
        return found

    def _retire(self, connection: sa.Connection, node_id: str, actor: str) -> Retired:
        now_us = self._clock.now_us()
        peer = rf.node.c.node_id == node_id
        retired = sa.update(rf.node).where(peer, rf.node.c.retired_us.is_(None))
        is_news = connection.execute(retired.values(retired_us=now_us, returned_us=None)).rowcount > 0
        row = connection.execute(sa.select(rf.node).where(peer)).one_or_none()
        if row is None:
            # Only the configuration names it.
            new = {"node_id": node_id, "incarnation": "", "is_self": False, "first_seen_us": now_us, "last_seen_us": 0}
            connection.execute(sa.insert(rf.node).values(**new, retired_us=now_us))
            is_news = True
        # Also of one that is retired: somebody may have made it a token since.
        tokens = len(revoke_all_of(connection, node_id, actor, now_us))
        if not is_news and row is not None:
            return Retired(node_id, {"tokens": tokens} if tokens else {}, True, row.retired_us)
        freed = {
            "requests": connection.execute(sa.delete(rf.request).where(rf.request.c.peer == node_id)).rowcount,
            "passed": connection.execute(sa.delete(rf.passed).where(rf.passed.c.peer == node_id)).rowcount,
            "tokens": tokens,
            "clients": connection.execute(
                sa.delete(rf.sync_state).where(rf.sync_state.c.peer == node_id, rf.sync_state.c.direction == "out")
            ).rowcount,
        }
        line = {"at_us": now_us, "actor": actor, "action": "node-retired", "source_node": node_id}
        connection.execute(sa.insert(rf.audit).values(**line, detail=json.dumps(freed)))
        return Retired(node_id, freed, False, now_us)


def _state(row: sa.Row[Any] | None, listened_us: int) -> NodeState:
    if row is None:
        return NodeState.NEVER_HEARD
    if row.retired_us is not None:
        return NodeState.RETIRED
    is_silent = row.heard_us is not None and listened_us - row.heard_us > MISSED_HEARTBEATS * (row.every_us or 0)
    if is_silent:
        return NodeState.SILENT
    return NodeState.HEARD if row.returned_us is None else NodeState.RETURNED


def _furthest(passed: Mapping[tuple[str, str], int], without: set[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for (origin, _), lsn in sorted(passed.items()):
        if origin not in without:
            found[origin] = max(lsn, found.get(origin, 0))
    return found
