"""Who asks, by the token that the request shows."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Annotated, Protocol

import anyio.to_thread
from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from common.http.actors import actor_of
from common.http.problems import ProblemError
from common.http.scopes import Scope
from common.visible import visible

_bearer = HTTPBearer(auto_error=False, scheme_name="token", description="Made by `rowferry token create`.")


_LONGEST_ADDRESS = 200

KNOWN = "is_known"
"""In the state of a request: it showed a token, or a session, that is good."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whom a token speaks for, and what it may."""

    node_id: str
    token_id: str
    scopes: frozenset[Scope]

    @property
    def actor(self) -> str:
        """Who did it, for the audit."""
        return actor_of(self.node_id, self.token_id)


class Gate(Protocol):
    """Knows the tokens. Any thread."""

    def admit(self, address: str, token: str | None) -> Caller:
        """Return whom `token` speaks for. Raises ProblemError: 401 for none or a wrong one, 429 after too many."""
        ...


def address_of(request: Request) -> str:
    """Return where a request comes from."""
    return shown_address(request.client.host) if request.client else "unknown"


def shown_address(address: str) -> str:
    """Return an address as it is noted: a proxy that is trusted may pass on whatever a stranger wrote there."""
    return visible(address)[:_LONGEST_ADDRESS]


def note_known(request: Request) -> None:
    """Note that whoever asks is known: such a connection is not given up for a stranger's."""
    setattr(request.state, KNOWN, True)


def check_again(request: Request) -> None:
    """Ask for the token of a request once more, after it waited: it may be revoked since. Raises ProblemError."""
    gate: Gate = request.app.state.gate
    gate.admit(address_of(request), bearer_of(request))


async def check_still(request: Request) -> None:
    """See `check_again`: after the body was read, which takes as long as the client likes. Raises ProblemError."""
    await anyio.to_thread.run_sync(check_again, request)


def bearer_of(request: Request) -> str | None:
    """Return the token that a request shows; None where it shows none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def admitted(request: Request, token: str | None, scopes: Collection[Scope]) -> Caller:
    """Return whom `token` speaks for, where it has any of `scopes`. Raises ProblemError, OutageError."""
    gate: Gate = request.app.state.gate
    caller = gate.admit(address_of(request), token)
    note_known(request)
    if not caller.scopes.intersection(scopes):
        wanted = " or ".join(scope.value for scope in scopes)
        raise ProblemError(403, f"this needs a token with scope {wanted}", reason="scope")
    return caller


def caller_with(*scopes: Scope) -> Callable[..., Caller]:
    """Return the dependency of a route that is for tokens with any of `scopes`."""

    def admit(
        request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Caller:
        return admitted(request, credentials.credentials if credentials else None, scopes)

    return admit
