"""The broker's management API, as far as comparing needs it: reads only."""

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from common.errors import ConfigError, OutageError
from common.transports.rabbitmq.connection import password_of, tls_context, user_of
from common.transports.rabbitmq.settings import RabbitSettings

_PATIENCE_SECONDS = 10.0
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404


class RefusedError(OutageError):
    """The account lacks a right, or its password is wrong."""


class _StaysThere(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the library would show the password wherever one leads."""

    def redirect_request(self, *_: Any) -> None:
        """Leave it an answer like others."""


@dataclass(frozen=True, slots=True)
class Management:
    """One account's way to the API."""

    url: str
    """Without user and password."""
    user: str
    password: str = field(repr=False)
    tls: ssl.SSLContext

    def get(self, *path: str) -> Any:
        """Return what stands at `path`, None where nothing does. Raises RefusedError, OutageError."""
        address = f"{self.url}/api/{'/'.join(quote(step, safe='') for step in path)}"
        request = urllib.request.Request(address, headers={"Authorization": f"Basic {self._credentials()}"})
        try:
            with self._opener().open(request, timeout=_PATIENCE_SECONDS) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                self._judge(error.code)
            return None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise OutageError(f"the management API at {self.url} is out of reach: {reason}") from error
        except ValueError as error:
            raise OutageError(f"{self.url} answers, but not as a management API; check --management") from error

    def _judge(self, code: int) -> None:
        if code in (_UNAUTHORIZED, _FORBIDDEN):
            raise RefusedError(
                f"the management API at {self.url} refuses user {self.user!r}: check its password and its tag "
                "(management; administrator to see users)"
            )
        if code != _NOT_FOUND:
            raise OutageError(f"the management API at {self.url} answers {code}")

    def _credentials(self) -> str:
        return base64.b64encode(f"{self.user}:{self.password}".encode()).decode("ascii")

    def _opener(self) -> urllib.request.OpenerDirector:
        # Straight to the broker, as AMQP goes: an administrator's password is nothing for a proxy.
        return urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.tls), _StaysThere()
        )


def open_management(url: str, settings: RabbitSettings, password: str | None = None) -> Management:
    """Return the way to the API at `url`; user and password from there, else those of the broker's own URL.

    Raises ConfigError, and OutageError when it doesn't answer or refuses them."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("--management: must be a URL like http://admin@host:15672")
    try:
        tls = tls_context(settings)
    except (OSError, ValueError) as error:
        raise ConfigError(f"[broker] TLS files can't be used: {error}") from error
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/"), query="", fragment="")
    user = unquote(parts.username) if parts.username else user_of(settings)
    secret = password or (unquote(parts.password) if parts.password else password_of(settings)) or ""
    made = Management(bare.geturl(), user, secret, tls)
    if made.get("whoami") is None:
        raise OutageError(f"{made.url} answers, but not as a management API; check --management")
    return made
