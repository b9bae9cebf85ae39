"""What the URLs of settings have to be. What is wrong with one is told without it: it may hold a password."""

import re
from urllib.parse import SplitResult, urlsplit

OF_SQLALCHEMY = frozenset({"sqla", "sqlalchemy"})
"""What the URL of a broker in a database begins with, before a `+` and the database's own URL."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ESCAPED = "in a user or password write / as %2F, ? as %3F, # as %23, @ as %40, [ as %5B"


def split_url(url: str, *, reads_port: bool = True) -> SplitResult:
    """Return the parts of a URL, a port that is a number among them. Raises ValueError."""
    try:
        parts = urlsplit(url)
        _ = parts.port if reads_port else None
    except ValueError:
        # Python's own message quotes what it stumbled over.
        raise ValueError(f"is not a URL: its host or port can't be read; {_ESCAPED}") from None
    return parts


def check_broker_url(url: str) -> None:
    """See that a broker's URL is one. Raises ValueError."""
    if _SCHEME.match(url) is None:
        raise ValueError('must be a URL, like "amqp://user:password@host:5672/vhost"')
    # Other schemes are kombu's: it takes several URLs in one, for example.
    split_url(url, reads_port=url.startswith(("amqp:", "amqps:")))


def check_peer_url(url: str) -> None:
    """See that a URL is where a peer answers. Raises ValueError."""
    parts = split_url(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError('must be a URL, like "https://main.example:8443"')
    if "@" in url:
        raise ValueError("must not contain a user or password: a peer asks for a token, in a token_file")
