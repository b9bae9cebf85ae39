"""Fetches what a node has lost of its own log from its peers over HTTP: a hub keeps what it hands on."""

import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from common.config.model import PeerSection
from common.errors import ConfigError, OutageError
from common.runtime.node import Node
from common.transports.http.client import PeerClient, RefusedError
from common.transports.http.peer import asked_state, checked_state, is_trusted
from common.transports.http.settings import settings_of
from common.wire.decode import Broken, read_parts
from common.wire.proving import part_fault
from common.wire.records import MAX_LSN, Part

log = logging.getLogger(__name__)

_FIRST_LSNS = 1_000
"""So far back is asked first, and twice as far each time, until something comes that is here too."""


@dataclass(slots=True)
class OwnAgain:
    """What came of one node's own log, and of which peers nothing could be had."""

    parts: list[tuple[str, Part]] = field(default_factory=list)
    """Each with where it came from."""
    not_asked: list[str] = field(default_factory=list)
    """Peers that gave nothing, each with the reason."""


def own_lives_at_peers(node: Node) -> list[dict[str, int]]:
    """Return up to where each HTTP peer has this node's logs, by incarnation. Raises OutageError; a peer that refuses
    or is set up wrong says nothing."""
    found = []
    for name, peer in node.config.peers.items():
        try:
            state = asked_state(settings_of(name, peer), node.facts.node_id)
        except (RefusedError, ConfigError) as error:
            log.warning("own_log_not_asked", extra={"peer": name, "error": str(error)})
            continue
        mine = [one for one in state.peers if (one.peer, one.direction) == (node.facts.node_id, "in")]
        found.append({one.incarnation: one.highest_lsn for one in mine})
    return found


def own_from_peers(node: Node, incarnation: str, head_lsn: int, known: Collection[str]) -> OwnAgain:
    """Ask each HTTP peer for what it has of this node's log and is not here.

    `head_lsn`: where the log ends here; `known`: the ids of its txs. Only who may hand on others' batches is believed;
    where this node signs, its signatures have to hold too. Raises OutageError where a peer can't be reached: it may be
    the only one that has something."""
    found = OwnAgain()
    for name, peer in node.config.peers.items():
        try:
            found.parts += _from_peer(node, name, peer, incarnation, head_lsn, known)
        except (RefusedError, ConfigError) as error:
            log.warning("own_log_not_asked", extra={"peer": name, "error": str(error)})
            found.not_asked.append(f"{name}: {error}")
    return found


def _from_peer(
    node: Node, name: str, peer: PeerSection, incarnation: str, head_lsn: int, known: Collection[str]
) -> list[tuple[str, Part]]:
    settings = settings_of(name, peer)
    client = PeerClient(settings)
    try:
        state = checked_state(client, node.facts.node_id)
        if not is_trusted(settings, state, node.config, node.main()):
            # It has none of this node's to hand on, or is not believed.
            return []
        back = _FIRST_LSNS
        while True:
            after_lsn = max(0, head_lsn - back)
            parts = list(_stretch(client, node, incarnation, after_lsn))
            if after_lsn == 0 or any(part.header.tx_id in known for part in parts):
                return [(f"http:{state.node}", part) for part in parts if part.header.tx_id not in known]
            back *= 2
    finally:
        client.close()


def _stretch(client: PeerClient, node: Node, incarnation: str, after_lsn: int) -> Iterator[Part]:
    """Yield all parts of this node's log after an LSN that a peer has, as far as they are this node's own."""
    trust, node_id = node.config.trust(), node.facts.node_id
    while True:
        answer = client.again(node_id, incarnation, after_lsn, MAX_LSN)
        until_lsn = after_lsn
        try:
            for part in read_parts(answer.body, to_first_fault=True):
                if isinstance(part, Broken):
                    raise OutageError(f"{client.url} gave a batch that is torn: {part.error}")
                header = part.header
                is_own = (header.source_node, header.incarnation) == (node_id, incarnation)
                if not is_own or part_fault(part, trust) is not None:
                    raise ConfigError(f"{client.url} gave {header.tx_id} as this node's own, which it is not")
                until_lsn = max(until_lsn, header.to_lsn)
                yield part
        finally:
            answer.close()
        if until_lsn == after_lsn:
            return
        after_lsn = until_lsn
