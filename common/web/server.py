"""The server round the application: its socket, TLS, slow clients, and a stop within seconds."""

import logging
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from common.clock import Clock, SystemClock
from common.config.model import ServerSection
from common.errors import ConfigError, RowferryError
from common.http.certificates import Pair
from common.ops.listening import IN_THE_OPEN_REMEDY, cannot_listen, in_the_open, is_in_the_open
from common.web import renewal
from common.web.connections import BoundedProtocol, is_proxy
from common.web.handshakes import Handshakes, Listener
from common.web.noise import quiet_library
from common.web.renewal import RenewedCertificate

log = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 75
_GRACE_SECONDS = 3
_BACKLOG = 256
_JOIN_SECONDS = 6.0


@contextmanager
def serving(app: ASGIApp, server: ServerSection, clock: Clock | None = None) -> Iterator[int]:
    """Answer until the context ends; give the port. Raises ConfigError, and RowferryError where the port is taken."""
    check_exposure(server)
    certificate = _certificate(server, clock or SystemClock())
    listener = _listen(server)
    port: int = listener.getsockname()[1]
    protocol = _protocol(server)
    running = uvicorn.Server(_uvicorn_config(app, server, protocol, certificate))
    if server.tls_cert_file is not None:
        _count_handshakes(running, protocol, listener)
    thread = threading.Thread(target=running.run, args=([listener],), name="rowferry-http", daemon=True)
    thread.start()
    scheme = "https" if server.tls_cert_file else "http"
    log.info("serve.listening", extra={"url": f"{scheme}://{server.host}:{port}"})
    try:
        with quiet_library():
            yield port
    finally:
        running.should_exit = True
        thread.join(_JOIN_SECONDS)
        listener.close()


def check_exposure(server: ServerSection) -> None:
    """Refuse to take tokens over an open network in plain text. Raises ConfigError."""
    if is_in_the_open(server):
        raise ConfigError(f"{in_the_open(server)}: {IN_THE_OPEN_REMEDY}")


def _listen(server: ServerSection) -> Listener:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        return Listener.of(socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG))
    except OSError as error:
        raise RowferryError(cannot_listen(server, error)) from error


def _protocol(server: ServerSection) -> type[BoundedProtocol]:
    class Protocol(BoundedProtocol):
        slow_seconds = server.slow_seconds

    return Protocol


def _count_handshakes(running: uvicorn.Server, protocol: type[BoundedProtocol], listener: Listener) -> None:
    """Let a client in by what it has of connections and of TLS handshakes together."""

    def networks() -> list[str | None]:
        return [one.network for one in running.server_state.connections if isinstance(one, protocol)]

    def is_proxys(address: str) -> bool:
        return is_proxy(address, running.config.forwarded_allow_ips or ())

    most = running.config.limit_concurrency or 0
    protocol.handshakes = listener.handshakes = Handshakes(most, protocol.head_seconds, networks, is_proxys)


def _certificate(server: ServerSection, clock: Clock) -> RenewedCertificate | None:
    """Read it before the library does: its errors name neither file, and for a password it asks on the terminal."""
    if server.tls_cert_file is None:
        return None
    return RenewedCertificate(Pair("server", server.tls_cert_file, server.tls_key_file), clock)


def _uvicorn_config(
    app: ASGIApp, server: ServerSection, protocol: type[BoundedProtocol], certificate: RenewedCertificate | None
) -> uvicorn.Config:
    tls: dict[str, Any] = {}
    if certificate is not None:
        tls = {"ssl_certfile": server.tls_cert_file, "ssl_keyfile": server.tls_key_file}
        tls |= {"callback_notify": certificate.look, "timeout_notify": renewal.LOOK_SECONDS}
    config = uvicorn.Config(
        app,
        http=protocol,
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
    if config.ssl is not None and certificate is not None:
        certificate.show_in(config.ssl)
    return config
