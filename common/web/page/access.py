"""Who may see a page and who may do something on one: the cookie, the session behind it, where a form comes from."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Annotated
from urllib.parse import parse_qsl, urlsplit

from fastapi import Depends, Request, Response

from common.http.callers import Caller, address_of, note_known
from common.http.loopback import is_loopback
from common.http.problems import BrokenOffError, ProblemError
from common.http.scopes import Scope
from common.web.auth import RefusedTokenError, TokenGate
from common.web.page.login_audit import LoginAudit
from common.web.page.sessions import Session, Sessions
from common.web.refusal_audit import note_refused

FORM_BYTES = 64 * 1024
_MOST_FIELDS = 500
_LONGEST_WORD = 200


class LoginNeededError(Exception):
    """Whoever asks is not logged in, or not any more. The text says why."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """Somebody who is logged in and looks at a page."""

    session: Session
    is_live: bool
    """The page looks again by itself, and wants only what may have changed."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A form that somebody who is logged in has sent from a page of this session."""

    session: Session
    fields: dict[str, list[str]]

    @property
    def actor(self) -> str:
        """Who did it, for the audit."""
        return self.session.caller.actor

    def one(self, name: str) -> str:
        """Return a field that is there once, without space around it; empty where it is not there."""
        values = self.fields.get(name, [])
        if len(values) > 1:
            raise ProblemError(422, f"{name}: given more than once", reason="request")
        return values[0].strip() if values else ""


class Doorkeeper:
    """Logs people in and out, and finds their session again. Any thread; each look asks the database for the token."""

    def __init__(
        self, gate: TokenGate, sessions: Sessions, audit: LoginAudit, node_id: str, *, always_secure: bool
    ) -> None:
        self._gate = gate
        self._sessions = sessions
        self._audit = audit
        # Cookies know no ports: two nodes on one machine must not end each other's sessions.
        self._name = f"rowferry-{node_id}"
        self._always_secure = always_secure

    def login(self, request: Request, response: Response, token: str) -> Session:
        """Open a session for who shows `token`, and end the one that the browser had. Both are audited before.

        Raises ProblemError, OutageError."""
        caller = self._admitted(address_of(request), token)
        before = self._sessions.find(self._cookie(request), by_person=False)
        self._audit.came(caller, address_of(request), None if before is None else before.caller)
        self._sessions.end(self._cookie(request))
        session_id, session = self._sessions.open(caller)
        note_known(request)
        name, is_secure = self._cookie_name(request)
        response.set_cookie(name, session_id, path="/", secure=is_secure, httponly=True, samesite="strict")
        return session

    def _admitted(self, address: str, token: str) -> Caller:
        try:
            caller = self._gate.admit(address, token)
        except RefusedTokenError as error:
            note_refused(self._audit.refusals, address, error)
            raise
        except ProblemError:
            # So many wrong ones came from there that this one was not looked at.
            self._audit.refusals.left_out()
            raise
        if Scope.OPS not in caller.scopes:
            self._audit.refusals.refused(address, "the token has no scope ops", (caller.token_id, caller.node_id))
            raise ProblemError(403, "this token is for a node: the page needs one with scope ops", reason="scope")
        return caller

    def logout(self, request: Request, response: Response, caller: Caller) -> None:
        """End the session that the browser has, which is of `caller`. Raises OutageError, after it has ended."""
        self._sessions.end(self._cookie(request))
        name, is_secure = self._cookie_name(request)
        response.delete_cookie(name, path="/", secure=is_secure, httponly=True, samesite="strict")
        self._audit.went(caller, address_of(request))

    def find(self, request: Request, *, by_person: bool) -> Session:
        """Return the session of a request. Raises LoginNeededError, OutageError."""
        session_id = self._cookie(request)
        session = self._sessions.find(session_id, by_person=by_person) if session_id else None
        if session is None:
            raise LoginNeededError("Your session has ended." if session_id else "")
        session.caller = self._still(session_id, session.caller)
        note_known(request)
        return session

    def _still(self, session_id: str, caller: Caller) -> Caller:
        try:
            found = self._gate.still(caller)
        except ProblemError as error:
            self._sessions.end(session_id)
            raise LoginNeededError(f"Your session has ended: {error.detail}.") from error
        if Scope.OPS not in found.scopes:
            self._sessions.end(session_id)
            raise LoginNeededError("Your session has ended: the token has no scope ops any more.")
        return found

    def _cookie(self, request: Request) -> str:
        return request.cookies.get(self._cookie_name(request)[0], "")

    def is_secure(self, request: Request) -> bool:
        """Tell whether browsers come over TLS: this node's own, or a proxy's."""
        return self._always_secure or request.url.scheme == "https"

    def _cookie_name(self, request: Request) -> tuple[str, bool]:
        is_secure = self.is_secure(request)
        return (f"__Host-{self._name}" if is_secure else self._name), is_secure


def door_of(request: Request) -> Doorkeeper:
    """Return the doorkeeper of the application."""
    door: Doorkeeper = request.app.state.door
    return door


def still_admitted(request: Request, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Give a long answer piece by piece as long as its viewer is logged in: it ends in the middle once the token is
    revoked, which the browser tells. Raises BrokenOffError, OutageError."""
    yield from islice(pieces, 1)
    for piece in pieces:
        try:
            door_of(request).find(request, by_person=False)
        except LoginNeededError as error:
            raise BrokenOffError(str(error)) from error
        yield piece


def _viewer(request: Request) -> Viewer:
    is_live = "hx-request" in request.headers
    return Viewer(door_of(request).find(request, by_person=not is_live), is_live)


async def read_form(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form. Raises ProblemError for one from another site, or that is too large."""
    check_origin(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise ProblemError(415, "a form of this page is application/x-www-form-urlencoded", reason="request")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise ProblemError(413, f"the form has more than {FORM_BYTES} bytes", reason="limit")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise ProblemError(422, "this is no form of this page", reason="request") from error
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        if "\0" in value:
            raise ProblemError(422, f"{name}: no database takes a NUL", reason="request")
        fields.setdefault(name, []).append(value)
    return fields


def check_origin(request: Request) -> None:
    """Refuse what another site had a browser send. Raises ProblemError.

    Over plain HTTP browsers tell no Sec-Fetch-Site to another machine than their own, but every one tells Origin."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    is_own_site = site in (None, "same-origin")
    if origin is None:
        is_own_origin = site is not None
    else:
        is_own_origin = _netloc(origin) == request.headers.get("host", "").lower() != ""
        is_own_origin = is_own_origin and (not door_of(request).is_secure(request) or _is_safe(origin))
    if not (is_own_site and is_own_origin):
        raise ProblemError(403, "this form was not sent from this page", reason="origin")


def _is_safe(origin: str) -> bool:
    """Tell whether nobody on the way could have put a page there: over TLS, or this machine itself."""
    parts = urlsplit(origin)
    return parts.scheme == "https" or is_loopback(parts.hostname or "")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _submitted(request: Request, fields: Annotated[dict[str, list[str]], Depends(read_form)]) -> Submitted:
    session = door_of(request).find(request, by_person=True)
    given = fields.pop("csrf", [])
    if len(given) != 1 or not session.fits(given[0]):
        raise ProblemError(403, "this form is not of this session: go back and load the page again", reason="csrf")
    return Submitted(session, fields)


def asked(request: Request, name: str, longest: int = _LONGEST_WORD) -> str | None:
    """Return a condition of the query, of at most so many characters; None where it is empty or not there.

    Raises ProblemError."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise ProblemError(422, f"{name}: given more than once", reason="request")
    value = values[0].strip() if values else ""
    if len(value) > longest or "\0" in value:
        raise ProblemError(422, f"{name}: at most {longest:,} characters, and no NUL", reason="request")
    return value or None


def asked_number(request: Request, name: str, most: int) -> int | None:
    """Return a whole number of the query, 0 to `most`; None where it is not there. Raises ProblemError."""
    value = asked(request, name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and int(value) <= most):
        raise ProblemError(422, f"{name}: a whole number, at most {most}", reason="request")
    return int(value)


SignedIn = Annotated[Viewer, Depends(_viewer)]
"""Of a page that only shows."""
FormSent = Annotated[Submitted, Depends(_submitted)]
"""Of a route that does something."""
