"""Opens the ways to and from one peer: who answers there is checked before anything travels."""

import logging
from collections.abc import Callable, Iterator

from common.config.model import Config
from common.errors import ConfigError
from common.ports.dialect import NodeFacts
from common.ports.sink import KnownLog
from common.ports.source import Place
from common.transports.http.answers import PeerState, Pushed
from common.transports.http.client import PeerClient
from common.transports.http.saying import HttpSaying, OnMissing
from common.transports.http.settings import PeerSettings
from common.transports.http.sink import HttpSink
from common.transports.http.source import HttpSource

log = logging.getLogger(__name__)


def asked_state(settings: PeerSettings, own_id: str) -> PeerState:
    """Return who a peer is. Raises OutageError, RefusedError, ConfigError."""
    client = PeerClient(settings)
    try:
        return checked_state(client, own_id)
    finally:
        client.close()


def open_peer_sink(
    settings: PeerSettings, facts: NodeFacts, on_pushed: Callable[[Pushed], None] | None = None
) -> HttpSink:
    """Open the sink to a peer. `on_pushed` is told of each answer. Raises OutageError, RefusedError, ConfigError."""
    client = PeerClient(settings)
    try:
        state = checked_state(client, facts.node_id)
    except BaseException:
        client.close()
        raise
    logs = list(known_logs(state, facts.node_id))
    return HttpSink(client, known_lsn(state, facts.incarnation), on_pushed, logs)


def open_peer_source(settings: PeerSettings, config: Config, place: Place, main: str | None) -> HttpSource:
    """Open the source of what a peer gives. `main`: the main node, where it is known.

    Raises OutageError, RefusedError, ConfigError."""
    client = PeerClient(settings)
    try:
        state = checked_state(client, config.node.id)
        return HttpSource(client, state.node, may_forward=is_trusted(settings, state, config, main), place=place)
    except BaseException:
        client.close()
        raise


def open_saying(settings: PeerSettings, own_id: str, on_missing: OnMissing) -> HttpSaying:
    """Open the way to tell a peer what is said beside batches. Raises OutageError, RefusedError, ConfigError."""
    client = PeerClient(settings)
    try:
        checked_state(client, own_id)
        return HttpSaying(client, on_missing)
    except BaseException:
        client.close()
        raise


def is_trusted(settings: PeerSettings, state: PeerState, config: Config, main: str | None) -> bool:
    """Tell whether a peer may hand on other nodes' batches: the main node may, to branches, unless it is said.

    Where nobody is known to be main (None), whoever says so of itself is believed."""
    if settings.is_trusted_forwarder is not None:
        return settings.is_trusted_forwarder
    if config.node.role != "branch":
        return False
    return state.role == "main" if main is None else state.node == main


def known_logs(state: PeerState, node_id: str) -> Iterator[KnownLog]:
    """Yield up to where a peer has each of a node's logs: without a gap, and above gaps too."""
    for one in state.peers:
        if (one.peer, one.direction) == (node_id, "in"):
            yield KnownLog(one.incarnation, one.last_lsn, one.last_tx_id)
            if one.highest_lsn > one.last_lsn:
                yield KnownLog(one.incarnation, one.highest_lsn, None)


def known_lsn(state: PeerState, incarnation: str) -> int:
    """Return up to where a peer has this node's log without a gap."""
    known = (one for one in state.peers if one.direction == "in" and one.incarnation == incarnation)
    return next((one.last_lsn for one in known), 0)


def checked_state(client: PeerClient, own_id: str) -> PeerState:
    """Return who answers, and see that it is not this node itself. Raises OutageError, RefusedError, ConfigError."""
    state = client.state()
    if state.node == own_id:
        raise ConfigError(f"{client.url} is this node itself: name other nodes in [peers]")
    log.info("peer.opened", extra={"peer": state.node, "role": state.role, "head_lsn": state.head_lsn})
    return state
