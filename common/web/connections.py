"""Who may hold a connection, and who makes room when all are taken."""

import asyncio
import ipaddress
import logging
import math
from collections.abc import Sequence
from enum import IntEnum

from common.http.callers import KNOWN
from common.seldom import Seldom
from common.web.auth import network_of
from common.web.handshakes import Handshakes
from common.web.patience import PatientProtocol

_seldom = Seldom(logging.getLogger(__name__))

_SOON_SECONDS = 5.0
"""What nobody who shows no token needs longer for."""


class _Claim(IntEnum):
    """What a connection has to say for itself when there are too many: the lowest goes first."""

    IDLE_STRANGER = 0
    SLOW_STRANGER = 1
    IDLE = 2
    """Of somebody who showed a token or a session, or a proxy's: to connect anew costs little."""
    STRANGER = 3
    WORKING = 4
    """A request of somebody who is known: it is never cut off."""


class BoundedProtocol(PatientProtocol):
    """A connection among so many at most."""

    network: str | None = None
    _is_proxys = False
    _was_known = False
    _since = -math.inf
    """When it was made, or its last answer was complete."""
    handshakes: Handshakes | None = None
    """Those that come before a connection, where there are any."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.handshakes is not None:
            self.handshakes.over(transport.get_extra_info("socket").fileno())
        self._since = self.loop.time()
        self.network = network_of(self.client[0]) if self.client else None
        self._is_proxys = self.client is not None and is_proxy(self.client[0], self.config.forwarded_allow_ips)
        if self._has_its_share():
            _seldom.warn("http.too_many_connections", network=self.network)
            transport.abort()
            return
        self._make_room()

    def on_response_complete(self) -> None:
        self._was_known = self._shows_known()
        self._since = self.loop.time()
        super().on_response_complete()

    def _has_its_share(self) -> bool:
        """Tell whether one client's network had half of the connections before this one: the others shall get in too.

        A proxy in front speaks for many."""
        if self.client is None or self._is_proxys:
            return False
        most = max(1, (self.config.limit_concurrency or 0) // 2)
        return sum(one.network == self.network for one in self._others()) >= most

    def _make_room(self) -> None:
        """Hang up on the one with the least claim where all connections are taken: whoever comes gets in.

        So many addresses together can't shut others out, whatever they do with their connections: each that they make
        costs them one that they have."""
        others = self._others()
        if len(others) + 1 < (self.config.limit_concurrency or math.inf):
            return
        weakest = min(others, key=lambda one: (one.claim, one._since), default=None)
        if weakest is None or weakest.claim is _Claim.WORKING:
            return
        _seldom.warn("http.connections_all_taken", network=self.network)
        weakest.transport.abort()
        # It is counted until the loop comes to it.
        self.connections.discard(weakest)

    @property
    def claim(self) -> _Claim:
        """What this connection has to say for itself."""
        is_known = self._was_known or self._is_proxys or self._shows_known()
        if self.cycle is None or self.cycle.response_complete:
            return _Claim.IDLE if is_known else _Claim.IDLE_STRANGER
        if is_known:
            return _Claim.WORKING
        return _Claim.STRANGER if self.loop.time() - self._since < _SOON_SECONDS else _Claim.SLOW_STRANGER

    def _shows_known(self) -> bool:
        return self.scope is not None and bool(self.scope["state"].get(KNOWN))

    def _others(self) -> "list[BoundedProtocol]":
        return [one for one in self.connections if one is not self and isinstance(one, BoundedProtocol)]


def is_proxy(address: str, proxies: Sequence[str]) -> bool:
    """Tell whether `address` is one of `proxies`: addresses and networks."""
    return any(_holds(one, address) for one in proxies)


def _holds(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False
