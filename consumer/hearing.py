"""What a peer over HTTP says of itself, and of the nodes that it hands on, is asked for now and then."""

import logging
import time
from collections.abc import Callable

from common.config.model import PeerSection
from common.errors import RowferryError
from common.ops.peers import MISSED_HEARTBEATS
from common.periodic import Periodic
from common.ports.source import Delivery
from common.runtime.node import Node
from common.transports.http.client import PeerClient
from common.transports.http.peer import checked_state, is_trusted
from common.transports.http.settings import PeerSettings, settings_of
from common.wire.control import Heartbeat, said_in
from common.wire.lines import lines_of
from consumer.control import Controls
from consumer.heard import note_listening
from consumer.peers import PeerIds

log = logging.getLogger(__name__)

_FIRST_SECONDS = 5.0
"""After the start: `run --once` ends before, with a last look."""


def hear(node: Node, settings: PeerSettings, controls: Controls) -> None:
    """Ask a peer for what it and others say, and take that in. Raises OutageError, RefusedError, ConfigError."""
    client = PeerClient(settings)
    try:
        state = checked_state(client, node.facts.node_id)
        lines = client.heartbeats()
    finally:
        client.close()
    delivery = Delivery(
        lines,
        f"http:{state.node}",
        None,
        source_node=state.node,
        verified=True,
        may_forward=is_trusted(settings, state, node.config, node.main()),
    )
    for line in lines_of(lines):
        # Each alone: one that this release does not take, or that was made up, silences nobody else.
        for said in said_in(line) or ():
            if isinstance(said.what, Heartbeat):
                controls.take(said, delivery)


class PeerHearing(Periodic):
    """Hears one peer. A `Service` of `run`; belongs to one thread."""

    def __init__(
        self, node: Node, name: str, peer: PeerSection, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(monotonic)
        self.name = f"hearing-{name}"
        self._node = node
        self._peer = name
        self._section = peer
        self._controls = Controls(node, PeerIds(node))
        self._every = node.config.limits.announce_seconds
        self.look_again_in(min(_FIRST_SECONDS, self._every))

    def look(self) -> bool:
        """Hear it. Never work that a drained node would wait for; a peer that is away, or of a release of before, is
        no outage of this node."""
        self.look_again_in(self._every)
        if self._has_heard():
            note_listening(self._node)
        return False

    def last_look(self) -> None:
        """Hear it. That this node listens is not noted: it heard nobody who spoke in between."""
        self._has_heard()

    def _has_heard(self) -> bool:
        try:
            hear(self._node, settings_of(self._peer, self._section), self._controls)
        except RowferryError as error:
            # Its intake and its relay tell of one that can't be used.
            log.info("heartbeat.not_heard", extra={"peer": self._peer, "error": str(error)})
            return False
        return True


class Listening(Periodic):
    """Notes that this node listens to those who come over HTTP: whoever was heard long before that is silent.

    A `Service` of `serve`. Not at once: who missed this node while it was away has to have time to speak again."""

    name = "listening"

    def __init__(self, node: Node, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__(monotonic)
        self._node = node
        self._every = node.config.limits.announce_seconds or 60.0
        self.look_again_in(MISSED_HEARTBEATS * self._every)

    def look(self) -> bool:
        """Note it. Raises OutageError."""
        note_listening(self._node)
        self.look_again_in(self._every)
        return False
