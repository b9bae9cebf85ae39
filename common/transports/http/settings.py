"""What it takes to talk to one peer."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from common.config.load import read_secret_file
from common.config.model import Config, PeerSection
from common.errors import ConfigError, UsageError
from common.http.loopback import is_loopback
from common.wire.compress import Encoding


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """One peer. `name` is the id that it must answer with; None: whoever answers."""

    url: str
    name: str | None = None
    token: str | None = None
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
            f"{where}.url: without TLS everybody on the way to {peer.url} reads the token: use https://, or, in a "
            f"network that is private by itself, set {where}.plain_http = true"
        )
    token = None if peer.token_file is None else read_secret_file(peer.token_file, f"{where}.token_file")
    encoding: Encoding | None = None if peer.compression == "none" else peer.compression
    return PeerSettings(peer.url, name, token, encoding, peer.tls_ca_file, peer.trusted_forwarder)


def settings_for_url(config: Config, url: str, token_file: Path | None) -> PeerSettings:
    """Return the settings of the peer with this url; of any other place where `token_file` names the token.

    Raises UsageError, ConfigError."""
    for name, peer in config.peers.items():
        if peer.url.rstrip("/") == url.rstrip("/") and token_file is None:
            return settings_of(name, peer)
    if token_file is None:
        raise UsageError(f"--url {url}: no [peers] section has this url; add one, or name the token with --token-file")
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise UsageError(f"--url {url}: write it like https://main.example:8443")
    if urlsplit(url).scheme == "http" and not is_loopback_url(url):
        raise UsageError(
            f"--url {url}: without TLS everybody on the way reads the token: use https://, or a [peers] section with "
            "plain_http = true in a network that is private by itself"
        )
    return PeerSettings(url, token=read_secret_file(token_file, "--token-file"), encoding="zstd")


def is_loopback_url(url: str) -> bool:
    """Tell whether a URL names this machine."""
    return is_loopback(urlsplit(url).hostname or "")
