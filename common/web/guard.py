"""The outermost layer: request ids, security headers, how much and how slowly others may send and take.

Plain ASGI, so that it also stands before what refuses a request and sees every byte of a stream."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from common.http.callers import shown_address
from common.http.problems import BrokenOffError, ProblemError, problem_response
from common.seldom import Seldom
from common.web.patience import HANG_UP, LEFT, TASK
from common.web.targets import in_origin_form

log = logging.getLogger(__name__)
_seldom = Seldom(log)

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}\Z")
_LEAST_BYTES_A_SECOND = 1024
_GRACE_SECONDS = 30.0
_ONCE = ("authorization", "content-encoding", "origin", "sec-fetch-site")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class WebLimits:
    """What a client may ask of this node. Sizes in bytes as they travel, times in seconds."""

    body_bytes: int = 1024 * 1024
    body_bytes_at: Mapping[str, int] = field(default_factory=dict)
    """Paths at which another size holds."""
    slow_seconds: float = 30.0
    """The longest wait for a client's next bytes, and for it to take ours."""
    body_seconds: float = 3600.0
    """The longest that a whole body may take: it takes a connection, a place and room on the disk meanwhile."""


class Guard:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, limits: WebLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(in_origin_form(scope), receive, send, self._limits)
        try:
            await self._answer(request)
        except _TooSlowError as error:
            _seldom.warn("http.too_slow", str(error), **request.fields, error=str(error))
            request.hang_up()
        except BrokenOffError as error:
            _seldom.tell(logging.INFO, "http.broken_off", str(error), **request.fields, error=str(error))
            request.hang_up()
        except ClientDisconnect:
            # Nobody is there to be answered, and nothing is wrong here: who comes and goes must not fill the log.
            log.debug("http.client_left", extra=request.fields)
        except asyncio.CancelledError:
            if scope["state"].get(LEFT):
                log.debug("http.client_left", extra=request.fields)
            else:
                await self._stopped(request)
        except Exception:
            log.exception("http.failed", extra=request.fields)
            if not request.begun:
                await problem_response(FAULT, request.id)(scope, receive, request.send)
        finally:
            fields = {"status": request.status, "seconds": round(time.monotonic() - request.began, 3)}
            log.debug("http.request", extra=request.fields | fields)

    async def _stopped(self, request: "_Request") -> None:
        """The node stops, and has waited as long as it may: no fault, and whoever asks is told to ask again."""
        log.info("http.stopped_amid_work", extra=request.fields)
        if request.begun:
            request.hang_up()
        else:
            await problem_response(STOPPING, request.id)(request.scope, request.receive, request.send)

    async def _answer(self, request: "_Request") -> None:
        try:
            request.check_head()
        except ProblemError as error:
            await problem_response(error, request.id)(request.scope, request.receive, request.send)
            return
        await self._app(_asked(request.scope), request.receive, request.send)


def answers_head(path: str) -> bool:
    """Tell whether HEAD is answered as GET is: it must change nothing, and a pull says what was taken."""
    return not path.startswith("/sync/")


def _asked(scope: Scope) -> Scope:
    """Return what the application is asked. Of an answer to HEAD the server itself leaves the body out."""
    return {**scope, "method": "GET"} if scope["method"] == "HEAD" and answers_head(scope["path"]) else scope


FAULT = ProblemError(500, "this is a fault of Rowferry's: its log tells more under this request's id")

STOPPING = ProblemError(503, "this node stops: send it again", reason="outage", headers={"Retry-After": "5"})


class _TooSlowError(Exception):
    """The client does not take what it asked for: the connection is given up."""


class _Request:
    """One request: what came and went of it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: WebLimits) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._limits = limits
        self._most_bytes = limits.body_bytes_at.get(scope["path"], limits.body_bytes)
        self._headers = Headers(scope=scope)
        asked = self._headers.get("x-request-id", "")
        self.id = asked if _REQUEST_ID.match(asked) else uuid.uuid4().hex
        scope.setdefault("state", {}).update({"request_id": self.id, TASK: asyncio.current_task()})
        self.began = time.monotonic()
        self.begun = False
        self.status = 0
        self._taken = 0
        self._has_body = True

    @property
    def fields(self) -> dict[str, object]:
        """What log lines of this request carry."""
        client = self.scope.get("client")
        return {
            "request_id": self.id,
            "method": self.scope["method"],
            "path": self.scope["path"],
            "address": shown_address(client[0]) if client else None,
        }

    def check_head(self) -> None:
        """Refuse a body that says itself that it is too large, before a byte of it is read.

        Also one that tells its length in two ways, or who shows two tokens: what stands in front may have believed the
        other."""
        for name in _ONCE:
            if len(self._headers.getlist(name)) > 1:
                text = f"{name}: given more than once"
                raise ProblemError(400, text, reason="request", headers={"Connection": "close"})
        if "content-length" in self._headers and "transfer-encoding" in self._headers:
            text = "Content-Length and Transfer-Encoding at once: one of them tells where the body ends"
            raise ProblemError(400, text, reason="request", headers={"Connection": "close"})
        said = self._headers.get("content-length", "0")
        if said.isdigit() and int(said) > self._most_bytes:
            raise self._too_large()

    def hang_up(self) -> None:
        """Drop the connection: closed politely it would first be given all that waits to be sent."""
        drop: Callable[[], None] | None = self.scope["state"].get(HANG_UP)
        if drop is not None:
            drop()

    async def receive(self) -> Message:
        if not self._has_body:
            # Whoever asks now waits for the client to leave, however long the answer takes.
            return await self._receive()
        left = self._limits.body_seconds - (time.monotonic() - self.began)
        try:
            message = await asyncio.wait_for(self._receive(), min(self._limits.slow_seconds, max(left, 0.0)))
        except TimeoutError as error:
            raise self._refused(408, "the body did not come in time", "slow") from error
        if message["type"] == "http.request":
            self._taken += len(message.get("body", b""))
            self._has_body = message.get("more_body", False)
            self._check_taken()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.begun = True
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if self.scope.get("scheme") == "https":
                headers.setdefault("Strict-Transport-Security", "max-age=31536000")
            headers["X-Request-Id"] = self.id
        try:
            await asyncio.wait_for(self._send(message), self._limits.slow_seconds)
        except TimeoutError as error:
            raise _TooSlowError("the client does not take the answer") from error

    def _check_taken(self) -> None:
        if self._taken > self._most_bytes:
            raise self._too_large()
        passed = time.monotonic() - self.began
        if self._has_body and passed > _GRACE_SECONDS and self._taken < passed * _LEAST_BYTES_A_SECOND:
            raise self._refused(408, "the body comes too slowly", "slow")

    def _too_large(self) -> Exception:
        text = f"the body has more than {self._most_bytes} bytes: send less at once"
        return self._refused(413, text, "limit", most_bytes=self._most_bytes)

    def _refused(self, status: int, text: str, reason: str, **more: object) -> Exception:
        """Return what ends the request: an answer that has begun can't be another one any more."""
        if self.begun:
            return BrokenOffError(f"the answer had begun, and {text}")
        return ProblemError(status, text, reason=reason, headers={"Connection": "close"}, **more)
