"""TLS handshakes under way: they count among the connections, from the moment that they are accepted."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from common.seldom import Seldom
from common.web.auth import network_of

_seldom = Seldom(logging.getLogger(__name__))


@dataclass(slots=True)
class _Handshake:
    connection: socket.socket
    network: str
    timer: asyncio.TimerHandle


class Handshakes:
    """Who has connected and not said yet what a connection of ours is. Belongs to the server's loop.

    The library tells of a connection once its handshake is over; one that never ends would be no connection, and
    anybody could have as many of them as this process may open."""

    def __init__(
        self, most: int, seconds: float, networks: Callable[[], Iterable[str | None]], is_proxy: Callable[[str], bool]
    ) -> None:
        """`networks`: of each connection whose handshake is over. `most`: of both together; one network may have half
        of them, a proxy all."""
        self._most = most
        self._seconds = seconds
        self._networks = networks
        self._is_proxy = is_proxy
        self._under_way: dict[int, _Handshake] = {}

    def begin(self, connection: socket.socket, address: str) -> bool:
        """Take in one more, at the cost of the oldest where all places are taken. False: it must be closed."""
        self._sweep()
        network, there = network_of(address), [*self._networks()]
        there += [one.network for one in self._under_way.values()]
        if not self._is_proxy(address) and there.count(network) >= max(1, self._most // 2):
            _seldom.warn("http.too_many_connections", network=network)
            return False
        if len(there) + 1 >= self._most and self._under_way:
            _seldom.warn("http.connections_all_taken", network=network)
            self._end(next(iter(self._under_way)))
        number = connection.fileno()
        timer = asyncio.get_running_loop().call_later(self._seconds, self._end, number)
        self._under_way[number] = _Handshake(connection, network, timer)
        return True

    def over(self, number: int) -> None:
        """Count the connection with this number no more: it is one like all others now."""
        if (one := self._under_way.pop(number, None)) is not None:
            one.timer.cancel()

    def _end(self, number: int) -> None:
        """Give one up. The connection is the library's, who closes it when it hears that it has ended."""
        one = self._under_way.get(number)
        self.over(number)
        if one is None or one.connection.fileno() < 0:
            return
        try:
            one.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            # It was the client who ended it.
            return

    def _sweep(self) -> None:
        for number in [number for number, one in self._under_way.items() if one.connection.fileno() < 0]:
            self.over(number)


class Listener(socket.socket):
    """A listening socket each of whose connections has to be let in."""

    handshakes: Handshakes | None = None

    @classmethod
    def of(cls, plain: socket.socket) -> "Listener":
        """Take over a listening socket."""
        return cls(plain.family, plain.type, plain.proto, plain.detach())

    def accept(self) -> tuple[socket.socket, Any]:
        while True:
            connection, address = super().accept()
            if self.handshakes is None or self.handshakes.begin(connection, address[0]):
                return connection, address
            connection.close()
