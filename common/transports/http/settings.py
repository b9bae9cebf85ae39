"""What it takes to talk to one peer."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from common.config.load import read_secret_file
from common.config.model import Config, PeerSection
from common.config.urls import check_peer_url
from common.errors import ConfigError, UsageError
from common.http.loopback import is_loopback
from common.wire.compress import Encoding

_TOKEN = re.compile(r"[!-~]+")
"""What a header can carry as one word."""


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """One peer. `name` is the id that it must answer with; None: whoever answers."""

    url: str
    name: str | None = None
    token: str | None = field(default=None, repr=False)
    encoding: Encoding | None = None
    tls_ca_file: Path | None = None
    is_trusted_forwarder: bool | None = None
    """None: by the rule for the main node."""


def settings_of(name: str, peer: PeerSection) -> PeerSettings:
    """Return a configured peer's settings; its token is read anew each time, so that it may be renewed meanwhile.

    Raises ConfigError."""
    where = f"peers.{name}"
    if urlsplit(peer.url).scheme == "http" and not peer.plain_http and not is_loopback_url(peer.url):
        raise ConfigError(
            f"{where}.url: without TLS anyone on the way to {peer.url} can read the token: use https://, or, in a "
            f"private network, set {where}.plain_http = true"
        )
    token = None if peer.token_file is None else _read_token(peer.token_file, f"{where}.token_file")
    encoding: Encoding | None = None if peer.compression == "none" else peer.compression
    return PeerSettings(peer.url, name, token, encoding, peer.tls_ca_file, peer.trusted_forwarder)


def settings_for_url(config: Config, url: str, token_file: Path | None) -> PeerSettings:
    """Return the settings of the peer with this url; of any other place where `token_file` names the token.

    Raises UsageError, ConfigError."""
    try:
        check_peer_url(url)
    except ValueError as error:
        # It may hold a password.
        raise UsageError(f"--url: {error}") from None
    for name, peer in config.peers.items():
        if peer.url.rstrip("/") == url.rstrip("/") and token_file is None:
            return settings_of(name, peer)
    if token_file is None:
        raise UsageError(f"--url {url}: no [peers] section has this url; add one, or name the token with --token-file")
    if urlsplit(url).scheme == "http" and not is_loopback_url(url):
        raise UsageError(
            f"--url {url}: without TLS anyone on the way can read the token: use https://, or, in a private network, "
            "a [peers] section with plain_http = true"
        )
    return PeerSettings(url, token=_read_token(token_file, "--token-file"), encoding="zstd")


def is_token(text: str) -> bool:
    """Tell whether a text can be shown as a token."""
    return _TOKEN.fullmatch(text) is not None


def _read_token(file: Path, where: str) -> str:
    """Return the token that a file holds. Raises ConfigError, which tells nothing of what stands there."""
    text = read_secret_file(file, where)
    if is_token(text):
        return text
    fault = "is empty" if not text else "has more than one line" if "\n" in text else "holds no token"
    raise ConfigError(
        f"{where}: {file} {fault}: it must hold only the token, on one line, as `rowferry token create` prints it"
    )


def is_loopback_url(url: str) -> bool:
    """Tell whether a URL names this machine."""
    return is_loopback(urlsplit(url).hostname or "")
