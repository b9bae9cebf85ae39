"""The server round the application: its socket, TLS, slow clients, and a stop within seconds."""

import asyncio
import ipaddress
import logging
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from common.config.model import ServerSection
from common.errors import ConfigError, RowferryError
from common.http.loopback import is_loopback
from common.web.auth import network_of

log = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 3
_BACKLOG = 256
_JOIN_SECONDS = 6.0
_TELL_SECONDS = 60.0


class PatientProtocol(H11Protocol):
    """HTTP/1.1 as uvicorn speaks it; a client that dawdles over its header lines is hung up on."""

    head_seconds = 20.0
    network: str | None = None
    _timer: asyncio.TimerHandle | None = None
    _share_told = -math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.network = network_of(self.client[0]) if self.client else None
        if self._has_its_share():
            self._tell_share()
            transport.abort()
            return
        self._arm()

    def _has_its_share(self) -> bool:
        """Tell whether one client's network had half of the connections before this one: the others shall get in too.

        A proxy in front speaks for many."""
        if self.client is None or _is_proxy(self.client[0], self.config.forwarded_allow_ips):
            return False
        most = max(1, (self.config.limit_concurrency or 0) // 2)
        others = (one for one in self.connections if one is not self and isinstance(one, PatientProtocol))
        return len([one for one in others if one.network == self.network]) >= most

    def _tell_share(self) -> None:
        """Log it, now and then: whoever causes it could fill the log."""
        now = time.monotonic()
        if now >= PatientProtocol._share_told + _TELL_SECONDS:
            PatientProtocol._share_told = now
            log.warning("http.too_many_connections", extra={"network": self.network})

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._awaits_head():
            self._arm()
        else:
            self._disarm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _awaits_head(self) -> bool:
        return bool(self.conn.states[self.conn.their_role].__name__ == "IDLE")

    def _arm(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.head_seconds, self._hang_up)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        self._timer = None
        log.info("http.head_too_slow", extra={"address": self.client[0] if self.client else None})
        self.transport.abort()


@contextmanager
def serving(app: ASGIApp, server: ServerSection) -> Iterator[int]:
    """Answer until the context ends; give the port. Raises ConfigError, and RowferryError where the port is taken."""
    check_exposure(server)
    listener = _listen(server)
    port: int = listener.getsockname()[1]
    running = uvicorn.Server(_uvicorn_config(app, server))
    thread = threading.Thread(target=running.run, args=([listener],), name="rowferry-http", daemon=True)
    thread.start()
    scheme = "https" if server.tls_cert_file else "http"
    log.info("serve.listening", extra={"url": f"{scheme}://{server.host}:{port}"})
    try:
        yield port
    finally:
        running.should_exit = True
        thread.join(_JOIN_SECONDS)
        listener.close()


def check_exposure(server: ServerSection) -> None:
    """Refuse to take tokens over an open network in plain text. Raises ConfigError."""
    if server.tls_cert_file or server.plain_http or server.proxies or is_loopback(server.host):
        return
    raise ConfigError(
        f"server.host: {server.host} is not this machine alone, and without TLS everybody on the way reads the tokens: "
        "set server.tls_cert_file and server.tls_key_file, or server.proxies where a proxy does TLS, or, in a network "
        "that is private by itself, server.plain_http = true"
    )


def _is_proxy(address: str, proxies: Sequence[str]) -> bool:
    """Tell whether `address` is one of `proxies`: addresses and networks."""
    return any(_holds(one, address) for one in proxies)


def _holds(network: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network)
    except ValueError:
        return False


def _listen(server: ServerSection) -> socket.socket:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        why = error.strerror or error
        raise RowferryError(
            f"server.host and server.port: can't listen on {server.host}:{server.port}: {why}"
        ) from error


def _uvicorn_config(app: ASGIApp, server: ServerSection) -> uvicorn.Config:
    tls: dict[str, Any] = {}
    if server.tls_cert_file is not None:
        tls = {"ssl_certfile": server.tls_cert_file, "ssl_keyfile": server.tls_key_file}
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(server.proxies),
        forwarded_allow_ips=list(server.proxies),
        limit_concurrency=server.max_connections,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        **tls,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"server.tls_cert_file, server.tls_key_file: can't be used: {error}") from error
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config
