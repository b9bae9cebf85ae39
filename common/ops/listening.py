"""With which `[server]` a node can't serve, told before it tries."""

import errno
import socket

from common.config.model import ServerSection
from common.http.loopback import is_loopback

IN_THE_OPEN_REMEDY = (
    "set server.tls_cert_file and server.tls_key_file, or server.proxies if a proxy does TLS, or, in a private "
    "network, server.plain_http = true"
)


def is_in_the_open(server: ServerSection) -> bool:
    """Tell whether tokens would come over an open network in plain text."""
    return not (server.tls_cert_file or server.plain_http or server.proxies or is_loopback(server.host))


def in_the_open(server: ServerSection) -> str:
    """Return what is told of that."""
    return (
        f"server.host: {server.host} is reachable from other machines, and without TLS anyone on the way can read the "
        "tokens"
    )


def address_fault(server: ServerSection) -> str | None:
    """Return why nobody could listen there; None where somebody could, or does already."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in server.host else socket.AF_INET, socket.SOCK_STREAM) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind((server.host, server.port))
    except OSError as error:
        return None if error.errno == errno.EADDRINUSE else cannot_listen(server, error)
    return None


def cannot_listen(server: ServerSection, error: OSError) -> str:
    """Return what is told where that failed."""
    why = error.strerror or error
    return f"server.host and server.port: can't listen on {server.host}:{server.port}: {why}"
