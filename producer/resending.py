"""What a peer over HTTP says that it lacks of this node's log is sent once more."""

import logging

from common.transports.http.answers import Missing
from producer.relay import Relay

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 16
"""Heartbeats."""


class Resending:
    """Lets a relay begin anew where its peer ends. Belongs to the thread that sends the heartbeats.

    The same stretch is sent again at once, then after twice as many heartbeats each time: the log may not have it any
    more, or the peer may be unable to take it."""

    def __init__(self, peer: str, relay: Relay) -> None:
        self._peer = peer
        self._relay = relay
        self._last: Missing | None = None
        self._left = 0
        self._pause = 1

    def __call__(self, missing: Missing | None) -> None:
        """Take in what the peer lacks by its last answer."""
        if missing != self._last:
            self._last, self._left, self._pause = missing, 0, 1
        if missing is None:
            return
        if self._left > 0:
            self._left -= 1
            return
        self._left, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        log.warning("push.begins_anew", extra={"peer": self._peer, **missing.model_dump()})
        self._relay.begin_anew()
