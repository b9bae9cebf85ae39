"""The least speed at which a peer may take and give: who drips byte by byte would else hold a pull for days.

Timeouts of the library count for one read or write each, and begin anew with every byte."""

import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import httpx

LEAST_BYTES_A_SECOND = 1024
_PIECE_BYTES = 4 * 1024
"""What is written at once: less than becomes free when a peer takes something. The library begins its patience anew as
often as it has to wait for one piece."""


class Pace:
    """How long a peer may still keep this node waiting in one request. Belongs to one thread.

    It begins with the patience for its first byte. Waiting uses it up, bytes bring it back, never above the beginning:
    so neither a pause that is too long nor a stream that is too slow goes on for ever."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._most = self._left = 0.0

    def begin(self, seconds: float) -> None:
        """Begin a request, whose peer may be silent for so long."""
        self._most = self._left = seconds

    @contextmanager
    def waiting(self) -> Iterator[float]:
        """Count the time in the context; give how long it may take at most."""
        began = self._monotonic()
        yield self._left
        self._left -= self._monotonic() - began

    def moved(self, count: int) -> None:
        """Count bytes that came or went. Raises httpx.ReadTimeout where they were too slow."""
        self._left = min(self._most, self._left + count / LEAST_BYTES_A_SECOND)
        if self._left <= 0:
            raise httpx.ReadTimeout(f"too slow: less than {LEAST_BYTES_A_SECOND} bytes a second, and for too long")


def keep_pace(client: httpx.Client, pace: Pace) -> None:
    """Have all of a client's connections keep `pace`; it has made none yet."""
    # The library hands no network on to its pools: there is one for each proxy of the environment, and the plain one.
    for transport in (client._transport, *client._mounts.values()):
        if transport is not None:
            pool: Any = transport._pool  # type: ignore[attr-defined]
            pool._network_backend = _Network(pool._network_backend, pace)


class _Stream(Protocol):
    def read(self, max_bytes: int, timeout: float | None = None) -> bytes: ...

    def write(self, buffer: bytes, timeout: float | None = None) -> None: ...

    def close(self) -> None: ...

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> "_Stream": ...

    def get_extra_info(self, info: str) -> Any: ...


class _Network:
    """The library's network, each of whose connections keeps the pace."""

    def __init__(self, network: Any, pace: Pace) -> None:
        self._network = network
        self._pace = pace

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        return Paced(self._network.connect_tcp(host, port, timeout, local_address, socket_options), self._pace)

    def sleep(self, seconds: float) -> None:
        self._network.sleep(seconds)


class Paced:
    """A connection that keeps the pace."""

    def __init__(self, stream: _Stream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        with self._pace.waiting() as left:
            came = self._stream.read(max_bytes, _least(timeout, left))
        self._pace.moved(len(came))
        return came

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), _PIECE_BYTES):
            piece = buffer[start : start + _PIECE_BYTES]
            with self._pace.waiting() as left:
                self._stream.write(piece, _least(timeout, left))
            self._pace.moved(len(piece))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> _Stream:
        return Paced(self._stream.start_tls(ssl_context, server_hostname, timeout), self._pace)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _least(timeout: float | None, left: float) -> float:
    return left if timeout is None else min(timeout, left)
