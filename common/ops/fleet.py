"""The fleet as one node knows it: of each node how far it is, by which ways, and in sentences why it is behind."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import sqlalchemy as sa

from common.config.model import Config
from common.ops.fleet_reading import Lag, Peer, read_known
from common.ops.roads import own_way, way_out
from common.ops.stalls import OF_SINK, OF_SOURCE, told
from common.ops.status import Standing, State
from common.ops.status_words import coming, counted, heals, missing, not_applied, not_come, not_whole
from common.schema import tables as rf
from common.schema.main_node import known_main, role_of


@dataclass(frozen=True, slots=True)
class FleetNode:
    """One node. Instants are microseconds since the epoch."""

    name: str
    is_self: bool
    role: str | None
    """None while nobody is known to be main: it may be this one."""
    state: State
    reasons: tuple[str, ...]
    """Why it is not up to date, the gravest first."""
    way_in: str
    """How its changes come here; empty on this node's own line."""
    way_out: str
    """How this node's changes go there; on this node's own line, how they leave it."""
    url: str | None
    """Where this node reaches it over HTTP."""
    lacks: Lag
    """What it lacks of this node's changes, as of when it spoke last."""
    missing: Lag
    """What this node lacks of its changes."""
    dead_letters: int
    """Of its txs here; on this node's own line, all."""
    conflicts: int
    """That wait for a choice here."""
    differs: tuple[str, ...]
    """In what it is not set up as this node is: `tables`, `policies`, `capture`."""
    clock_seconds: float | None
    """Its clock before this node's."""
    clock_is_off: bool
    release: str | None
    heard_us: int | None
    is_silent: bool = False

    @property
    def oldest_seconds(self) -> float | None:
        """How long the oldest change waits, either way."""
        known = [one.oldest_seconds for one in (self.lacks, self.missing) if one.oldest_seconds is not None]
        return max(known, default=None)


def read_fleet(connection: sa.Connection, config: Config, standing: Standing) -> list[FleetNode]:
    """Return this node, then the silent ones, then those that need a person first. Reads no large table whole."""
    peers = read_known(connection, config, standing)
    main = known_main(connection, config)
    others = [_node(peer, config, standing, main) for peer in peers]
    order = [State.NEEDS_ATTENTION, State.BEHIND, State.UP_TO_DATE]
    others.sort(key=lambda one: (not one.is_silent, order.index(one.state), one.name))
    of_others = {reason for one in others for reason in one.reasons}
    return [_self(standing, of_others), *others]


def _self(standing: Standing, of_others: set[str]) -> FleetNode:
    attention = [reason for reason in standing.attention if reason not in of_others]
    waiting = [reason for reason in standing.waiting if reason not in of_others]
    shares = standing.shares
    unsealed = shares.get("unsealed_changes", 0)
    lags = [sink["lag_changes"] for sink in shares.get("sinks", ())]
    peers = {*(one.peer for one in standing.sources), *(one["peer"] for one in standing.unfinished)}
    lacking, behind = max(lags, default=0) + unsealed, sum(max(standing.behind(peer)) for peer in peers)
    ages = [sink["oldest_unpublished_seconds"] for sink in shares.get("sinks", ()) if sink["lag_changes"]]
    ages += [shares.get("oldest_unsealed_seconds", 0.0)] if unsealed else []
    return FleetNode(
        name=standing.facts.node_id,
        is_self=True,
        role=standing.facts.role,
        state=_state(attention, waiting),
        reasons=(*attention, *waiting),
        way_in="",
        way_out=own_way(standing),
        url=None,
        lacks=Lag(lacking, max(ages, default=0.0)),
        missing=Lag(behind, _oldest([one["oldest_seconds"] for one in standing.unapplied], behind)),
        dead_letters=sum(standing.dead_letters.get(state, 0) for state in rf.OPEN_DEAD_LETTERS),
        conflicts=standing.conflicts.get("waiting", 0),
        differs=("capture",) if standing.drifted else (),
        clock_seconds=None,
        clock_is_off=False,
        release=version("rowferry"),
        heard_us=standing.at_us,
    )


def _node(peer: Peer, config: Config, standing: Standing, main: str | None) -> FleetNode:
    unsent = _unsent(peer, config, standing)
    attention, waiting = list(_attention(peer, config, standing)), list(_waiting(peer, standing, unsent))
    heard = peer.standing
    differs = []
    if heard is not None and not standing.drifted:
        differs = ["tables"] * heard.schema_differs + ["policies"] * heard.policies_differ
    ahead_us = max((one.ahead_us for one in standing.clocks_ahead if one.node == peer.name), default=0)
    clock_us = ahead_us or (heard.clock_us if heard is not None else None)
    return FleetNode(
        name=peer.name,
        is_self=False,
        role=role_of(peer.name, main),
        state=_state(attention, waiting),
        reasons=(*attention, *waiting),
        way_in=peer.way_in,
        way_out=way_out(peer.name, config, standing),
        url=config.peers[peer.name].url if peer.name in config.peers else None,
        lacks=replace(peer.lacks, unsent=unsent),
        missing=_missing(peer, standing),
        dead_letters=sum(peer.letters.values()) + peer.early + peer.forked,
        conflicts=peer.conflicts,
        differs=tuple(differs),
        clock_seconds=None if clock_us is None else clock_us / 1_000_000,
        clock_is_off=bool(ahead_us) or (heard is not None and heard.clock_is_off),
        release=heard.release if heard is not None else None,
        heard_us=_heard(peer),
        is_silent=heard is not None and heard.is_silent,
    )


def _heard(peer: Peer) -> int | None:
    if peer.row is None:
        return None
    latest: int = max(peer.row.last_seen_us, peer.row.heard_us or 0)
    return latest


def _missing(peer: Peer, standing: Standing) -> Lag:
    """What this node lacks of a peer: by what came of it, by what it says itself, and what waits to be applied."""
    behind = standing.behind(peer.name)
    if peer.standing is not None:
        behind.append(peer.standing.missing)
    if not behind:
        return Lag()
    works = [one["oldest_seconds"] for one in standing.unapplied if one["work"] == f"{OF_SOURCE}{peer.name}"]
    return Lag(max(behind), _oldest(works, max(behind)))


def _oldest(works: Iterable[float], behind: int) -> float | None:
    """Return how long the oldest of `behind` changes waits; None where nobody knows. `works`: 0 of what has no age."""
    return max((age for age in works if age), default=None) if behind else 0.0


def _attention(peer: Peer, config: Config, standing: Standing) -> Iterator[str]:
    if peer.standing is not None:
        found = peer.standing.silence, *peer.standing.attention, standing.disagreement(peer.standing)
        yield from (one for one in found if one)
    yield from (str(one) for one in standing.clocks_ahead if one.node == peer.name)
    yield from standing.http_troubles(peer.name)
    if _rides_broker(peer.name, config) and standing.broker_trouble:
        yield standing.broker_trouble
    yield from (missing(gap) for gap in standing.gaps if gap["peer"] == peer.name and not heals(gap))
    works = (f"{OF_SOURCE}{peer.name}", f"{OF_SINK}http-{peer.name}")
    yield from (told(one) for one in standing.stalled if one["work"] in works)
    if peer.letters:
        count = sum(peer.letters.values())
        reasons = ", ".join(f"{reason} ({number})" for reason, number in peer.letters.items())
        what = counted(count, "transaction of it", "transactions of it")
        waits = "waits as a dead letter" if count == 1 else "wait as dead letters"
        yield f"{what} could not be applied here and {waits}: {reasons}"
    if peer.forked:
        yield counted(peer.forked, "batch of it is", "batches of it are") + " from another history than this node knows"
    if peer.conflicts:
        yield counted(peer.conflicts, "conflict with it waits", "conflicts with it wait") + " for a choice"


def sinks_to(name: str, config: Config, standing: Standing) -> list[Mapping[str, Any]]:
    """Return the ways out that lead to a node, as the producer's share of `status` tells of them."""
    sinks: Iterable[Mapping[str, Any]] = standing.shares.get("sinks", ())
    # Whom this node pushes to needs no other way; who comes with the others takes what all of them take.
    if name in config.peers:
        return [one for one in sinks if one["sink"] == f"http-{name}"]
    return [one for one in sinks if not one["sink"].startswith("http-")]


def _unsent(peer: Peer, config: Config, standing: Standing) -> int:
    """Return how many changes no way to a peer has taken yet, and it is not known to have by another one."""
    lags: list[int] = [one["lag_changes"] for one in sinks_to(peer.name, config, standing)]
    if not lags:
        return 0
    unsealed: int = standing.shares.get("unsealed_changes", 0)
    if peer.lacks.changes is None:
        return max(lags) + unsealed
    return min(max(lags), peer.lacks.changes + peer.lacks.newer - unsealed) + unsealed


def _waiting(peer: Peer, standing: Standing, unsent: int) -> Iterator[str]:
    gaps = [gap for gap in standing.gaps if gap["peer"] == peer.name]
    yield from (coming(gap) for gap in gaps if heals(gap))
    behind = [one.behind for one in standing.sources if one.peer == peer.name and one.behind]
    if not gaps:
        yield from (not_applied(one, peer.name) for one in behind)
        if not behind and peer.standing is not None and peer.standing.missing and not peer.standing.is_silent:
            yield not_come(peer.standing)
    here = standing.facts.node_id
    yield from (not_whole(one, "it") for one in standing.unfinished if one["peer"] == peer.name)
    if peer.lacks.changes:
        yield f"{counted(peer.lacks.changes, 'change', 'changes')} of {here} had not reached it when it last spoke"
    if unsent:
        yield f"{counted(unsent, 'change', 'changes')} of {here} {'is' if unsent == 1 else 'are'} not sent to it yet"
    if peer.early:
        yield (
            counted(peer.early, "transaction of it waits", "transactions of it wait")
            + " for rows that have not arrived yet"
        )


def _state(attention: list[str], waiting: list[str]) -> State:
    if attention:
        return State.NEEDS_ATTENTION
    return State.BEHIND if waiting else State.UP_TO_DATE


def _rides_broker(name: str, config: Config) -> bool:
    return config.broker is not None and name not in config.peers
