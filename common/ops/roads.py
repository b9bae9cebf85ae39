"""By which ways changes go between a node and this one, in words: how its own come here, and how this node's go there.

What is open is told, and what stands in the way of it; by which of several ways a change came is on record nowhere."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from common.config.model import Config
from common.http.scopes import Scope, read_scopes
from common.ops.status import Standing
from common.schema import tables as rf


def read_pushers(connection: sa.Connection, now_us: int) -> frozenset[str]:
    """Return the nodes that may push here: each has a token for it that still works."""
    token = rf.token.c
    works = sa.and_(token.revoked_us.is_(None), sa.or_(token.expires_us.is_(None), token.expires_us > now_us))
    rows = connection.execute(sa.select(token.node_id, token.scopes).where(works))
    return frozenset(row.node_id for row in rows if Scope.PUSH in read_scopes(row.scopes))


def way_in(name: str, config: Config, pushers: frozenset[str]) -> str:
    """Say how a node's changes come here."""
    return ", or ".join(_ways_in(name, config, pushers)) or "in files that somebody carries and imports"


def _ways_in(name: str, config: Config, pushers: frozenset[str]) -> Iterator[str]:
    if name in config.peers:
        yield "over HTTP: this node fetches them"
    if name in pushers:
        yield "over HTTP: it pushes them"
    if config.broker is not None:
        yield "by the broker"
    if config.directory is not None:
        yield "through the shared folder"
    if config.peers and name not in config.peers and config.broker is None and config.directory is None:
        yield f"over HTTP: {_handing(config)} on"


def way_out(name: str, config: Config, standing: Standing) -> str:
    """Say how this node's changes go to another one."""
    found = ", or ".join(_ways_out(name, config, standing))
    return found or "it fetches them over HTTP, or somebody carries them in files"


def _ways_out(name: str, config: Config, standing: Standing) -> Iterator[str]:
    # Whom this node pushes to needs no other way.
    if name in config.peers:
        yield "over HTTP: this node pushes them" + (", but can't reach it" if _is_away(name, standing) else "")
    elif standing.shares.get("road") is not None:
        yield _by_road(standing.shares["road"])
    elif config.peers:
        yield f"over HTTP: {_handing(config)} on"
    if any(one["client"] == name for one in standing.shares.get("clients", ())):
        yield "over HTTP: it fetches them"


def _is_away(name: str, standing: Standing) -> bool:
    peers = standing.shares.get("http_peers", ())
    return any(one["peer"] == name and one["unusable_since"] is not None for one in peers)


def _handing(config: Config) -> str:
    one = ", ".join(sorted(config.peers))
    return f"{one} hands them" if len(config.peers) == 1 else f"one of {one} hands them"


def own_way(standing: Standing) -> str:
    """Say how this node's changes leave it."""
    road = standing.shares.get("road")
    found = [] if road is None else [_by_road(road)]
    if standing.shares.get("http_peers"):
        found.append("over HTTP: this node pushes them")
    return " and ".join(found) or "over HTTP: others fetch them"


def _by_road(road: dict[str, Any]) -> str:
    if road["used"] == "broker":
        return "by the broker" if road["broker_unusable_since"] is None else "by the broker, which is unusable"
    if road.get("folder_unusable_since"):
        return "as files in the shared folder, which is unusable"
    return "as files in the shared folder" + (", because the broker is unusable" if road["fallback_since"] else "")
