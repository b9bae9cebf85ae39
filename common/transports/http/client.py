"""A small typed client for the routes that nodes use with each other."""

import io
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import httpx

from common.errors import ConfigError, OutageError, PoisonError, RowferryError
from common.http.certificates import CertificateError
from common.http.wire import (
    ADOPT_PATH,
    AGAIN_PATH,
    CURSOR_HEADER,
    DIGESTS_PATH,
    GONE_HEADER,
    HEARTBEAT_PATH,
    MEDIA_TYPE,
    MORE_HEADER,
    PULL_PATH,
    PUSH_PATH,
    ROWS_PATH,
    STATE_PATH,
    TXS_HEADER,
    WAITING_PATH,
)
from common.transports.http.answers import (
    AnswerBytes,
    Heard,
    Missing,
    PeerState,
    Pushed,
    RowsGiven,
    RowsTaken,
    Waiting,
    checked_mark,
    read_answer,
    read_whole,
)
from common.transports.http.faults import no_problem, words_for
from common.transports.http.pace import Pace, keep_pace
from common.transports.http.settings import PeerSettings, is_loopback_url, is_token
from common.visible import visible
from common.wire.compress import compress, open_decompressed
from common.wire.limits import DEFAULT_LIMITS

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_PUSH_SECONDS = 900.0
"""The answer to a push comes after its commit."""
_CHUNK_BYTES = 256 * 1024
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_ANSWER = 16 * 1024 * 1024
_LONGEST_REFUSAL = 1024 * 1024
_LONGEST_DETAIL = 2_000
"""Characters of a refusal that are told."""


class RefusedError(RowferryError):
    """The peer understood and said no: trying the same again won't help. `reason` is its word for programs."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class PullAnswer:
    """An answer that is being read. Close it."""

    cursor: str
    """Empty for what was asked for once more: no mark moves by it."""
    body: BinaryIO
    """The batches, unwrapped while they are read; its faults are OutageErrors and PoisonErrors."""
    _response: httpx.Response
    gone_until_lsn: int | None = None
    """Up to here the log was asked for once more, and is gone."""
    has_more: bool = True
    """Whether there was more to give than is in it; a release of before does not say."""

    def close(self) -> None:
        """Give the connection back; what was not read is left. Safe to call twice."""
        self._response.close()


@dataclass(slots=True)
class Streamed:
    """An answer in lines that is being read. Close it."""

    body: BinaryIO
    """Unwrapped while it is read; its faults are OutageErrors and PoisonErrors."""
    _response: httpx.Response

    def close(self) -> None:
        """Give the connection back; what was not read is left. Safe to call twice."""
        self._response.close()


class PeerClient:
    """Talks to one peer. Belongs to one thread. OutageError from any method: try again later with a new one."""

    def __init__(self, settings: PeerSettings) -> None:
        self._settings = settings
        # What is not a stream of batches is small; nor is anything unwrapped but within bounds.
        headers = {"User-Agent": "rowferry", "Accept-Encoding": "identity"}
        if settings.token is not None:
            if not is_token(settings.token):
                raise ConfigError(f"the token for {settings.url} is not a token: a header can't carry it")
            headers["Authorization"] = f"Bearer {settings.token}"
        self._http = httpx.Client(
            base_url=settings.url.rstrip("/"),
            headers=headers,
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
            verify=_trusting(settings),
            # Redirects would carry the token elsewhere.
            follow_redirects=False,
            trust_env=_may_go_by_proxy(settings.url),
        )
        self._pace = Pace()
        keep_pace(self._http, self._pace)

    @property
    def url(self) -> str:
        """Where the peer is."""
        return self._settings.url

    def state(self) -> PeerState:
        """Return who the peer is. Raises OutageError, RefusedError, ConfigError where it is somebody else."""
        state = read_answer(PeerState, self._call("GET", STATE_PATH))
        wanted = self._settings.name
        if wanted is not None and state.node != wanted:
            raise ConfigError(f"peers.{wanted}.url: {self.url} is the node {state.node!r}; correct the name or the url")
        return state

    def push(self, body: bytes, more: Mapping[str, str] | None = None) -> Pushed:
        """Send batches; returns after they are committed there. Raises OutageError, RefusedError.

        `more`: headers that go along."""
        return read_answer(Pushed, self._send_wrapped(PUSH_PATH, body, MEDIA_TYPE, more))

    def waiting(self) -> Waiting:
        """Return which batches met conflicts that wait for a choice there. Raises OutageError, RefusedError."""
        return read_answer(Waiting, self._call("GET", WAITING_PATH))

    def pull(self, after: str | None, *, limit: int, wait_seconds: float = 0.0, forwarded: bool = True) -> PullAnswer:
        """Ask for what comes after a mark (None: where the peer knows this node to be); waits for news.

        Raises OutageError, RefusedError."""
        asked: dict[str, Any] = {"limit": limit, "wait": wait_seconds, "forwarded": "true" if forwarded else "false"}
        if after is not None:
            asked["after"] = after
        request = self._http.build_request(
            "GET",
            PULL_PATH,
            params=asked,
            headers=self._wrapped,
            timeout=httpx.Timeout(_READ_SECONDS + wait_seconds, connect=_CONNECT_SECONDS),
        )
        return self._reading(self._sent(request), has_mark=True)

    def again(self, source: str, incarnation: str, after_lsn: int, until_lsn: int) -> PullAnswer:
        """Ask for a stretch of a log once more. Raises OutageError, RefusedError."""
        asked: dict[str, Any] = {"source": source, "incarnation": incarnation}
        asked |= {"after_lsn": after_lsn, "until_lsn": until_lsn}
        return self._reading(
            self._sent(self._http.build_request("GET", AGAIN_PATH, params=asked, headers=self._wrapped))
        )

    def digests(self, question: bytes) -> Streamed:
        """Ask what the peer's tables hold (`common.wire.digests`). Raises OutageError, RefusedError."""
        headers = self._wrapped | {"Content-Type": "application/json"}
        # It reads whole tables before it has much to say.
        timeout = httpx.Timeout(_PUSH_SECONDS, connect=_CONNECT_SECONDS)
        response = self._sent(
            self._http.build_request("POST", DIGESTS_PATH, content=question, headers=headers, timeout=timeout)
        )
        try:
            return Streamed(self._unwrapped(response), response)
        except PoisonError as error:
            response.close()
            raise OutageError(f"{self.url} does not answer as a node does: {error}") from error

    def send_rows(self, body: bytes) -> RowsTaken:
        """Send rows with their versions once more; returns after they are committed there.

        Raises OutageError, RefusedError."""
        return read_answer(RowsTaken, self._send_wrapped(ROWS_PATH, body, MEDIA_TYPE))

    def give_first(self, question: bytes) -> RowsGiven:
        """Ask the peer to give rows of its own their first version; returns after that is committed there.

        `question`: `{"rows":[{"table":…,"pk":{…}},…]}`. Raises OutageError, RefusedError."""
        return read_answer(RowsGiven, self._send_wrapped(ADOPT_PATH, question, "application/json"))

    def say(self, line: bytes) -> Missing | None:
        """Tell the peer this node's heartbeat; return what it lacks of this node. Raises OutageError, RefusedError."""
        headers = {"Content-Type": MEDIA_TYPE}
        return read_answer(Heard, self._call("POST", HEARTBEAT_PATH, content=line, headers=headers)).missing

    def heartbeats(self) -> bytes:
        """Return the lines of the peer, and of those that it hands on. Raises OutageError, RefusedError."""
        return self._call("GET", HEARTBEAT_PATH)

    def close(self) -> None:
        """Give the connections back. Safe to call twice."""
        self._http.close()

    @property
    def _wrapped(self) -> dict[str, str]:
        return {"Accept-Encoding": self._settings.encoding or "identity"}

    def _send_wrapped(self, path: str, body: bytes, media_type: str, more: Mapping[str, str] | None = None) -> bytes:
        """Post what takes the peer a while to work off, wrapped as is set; return its answer. `more`: other headers."""
        encoding = self._settings.encoding
        headers = {"Content-Type": media_type, **({"Content-Encoding": encoding} if encoding else {}), **(more or {})}
        timeout = httpx.Timeout(_PUSH_SECONDS, connect=_CONNECT_SECONDS)
        return self._call("POST", path, content=compress(body, encoding), headers=headers, timeout=timeout)

    def _reading(self, response: httpx.Response, *, has_mark: bool = False) -> PullAnswer:
        try:
            body = self._unwrapped(response)
            cursor = checked_mark(_header(response, CURSOR_HEADER)) if has_mark else ""
            if not has_mark and TXS_HEADER not in response.headers:
                # The page of a proxy in between would become a dead letter.
                _check_media_type(response)
            gone = response.headers.get(GONE_HEADER)
            has_more = response.headers.get(MORE_HEADER) != "false"
            return PullAnswer(cursor, body, response, None if gone is None else int(gone), has_more)
        except (ValueError, PoisonError) as error:
            response.close()
            raise OutageError(f"{self.url} does not answer as a node does: {error}") from error

    def _unwrapped(self, response: httpx.Response) -> BinaryIO:
        encoding = response.headers.get("content-encoding")
        raw = cast(BinaryIO, io.BufferedReader(AnswerBytes(response, self._outage), _CHUNK_BYTES))
        return open_decompressed(raw, encoding, DEFAULT_LIMITS.max_stream_bytes)

    def _call(self, method: str, path: str, **options: Any) -> bytes:
        response = self._sent(self._http.build_request(method, path, **options))
        return read_whole(response, _LONGEST_ANSWER, self._outage)

    def _sent(self, request: httpx.Request) -> httpx.Response:
        """Return an answer of which nothing is read yet. Raises OutageError, RefusedError."""
        self._pace.begin(request.extensions["timeout"]["read"])
        try:
            response = self._http.send(request, stream=True)
        except httpx.HTTPError as error:
            raise self._outage(error) from (None if isinstance(error, httpx.LocalProtocolError) else error)
        if response.status_code == 200:
            return response
        raise _refusal(self.url, response, read_whole(response, _LONGEST_REFUSAL, self._outage))

    def _outage(self, error: httpx.HTTPError) -> OutageError:
        if isinstance(error, httpx.LocalProtocolError):
            # Its message, and the library's below it, quote the header: the token may be in it.
            return OutageError(f"{self.url}: what was to be asked can't be sent over HTTP")
        return OutageError(f"{self.url}: {words_for(self.url, error)}")


def _header(response: httpx.Response, name: str) -> str:
    found: str | None = response.headers.get(name)
    if found is None:
        raise ValueError(f"no header {name}")
    return found


def _check_media_type(response: httpx.Response) -> None:
    found = _header(response, "Content-Type")
    if found.partition(";")[0].strip().lower() != MEDIA_TYPE:
        raise ValueError(f"{found[:_LONGEST_DETAIL]!r} is not {MEDIA_TYPE}")


def _may_go_by_proxy(url: str) -> bool:
    """Tell whether a proxy that the environment names may be in between: not on the way to this machine itself, and
    without TLS it would read the token and the rows."""
    return urlsplit(url).scheme == "https" and not is_loopback_url(url)


@lru_cache(maxsize=2)
def _usual_trust(hour: int, *, by_environment: bool) -> ssl.SSLContext:
    """Whom everybody trusts, read again each `hour`: to read it takes 20 ms and some memory, and each try has a client
    of its own."""
    del hour
    return httpx.create_ssl_context(trust_env=by_environment)


def _trusting(settings: PeerSettings) -> ssl.SSLContext:
    if settings.tls_ca_file is None:
        return _usual_trust(int(time.monotonic() // 3600), by_environment=_may_go_by_proxy(settings.url))
    try:
        return ssl.create_default_context(cafile=str(settings.tls_ca_file))
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(
            f"peers.{settings.name}.tls_ca_file: {settings.tls_ca_file} can't be used: {error}"
        ) from error


def _refusal(url: str, response: httpx.Response, body: bytes) -> RowferryError:
    status = response.status_code
    try:
        problem = json.loads(body)
        detail, kind = " ".join(visible(str(problem["detail"])).split())[:_LONGEST_DETAIL], str(problem["type"])
    except (ValueError, KeyError, TypeError, RecursionError):
        detail, kind = f"answered with {status}, {_leads_elsewhere(response) or no_problem(response)}", ""
    if status in _AGAIN:
        return OutageError(f"{url}: {detail}")
    return RefusedError(f"{url} refuses: {detail}", status, kind.removeprefix("urn:rowferry:"))


def _leads_elsewhere(response: httpx.Response) -> str | None:
    """Say where a redirection leads. Nobody follows it: the token is for the peer that was named."""
    place = " ".join(visible(response.headers.get("location", "")).split())[:_LONGEST_DETAIL]
    if not (response.is_redirect and place):
        return None
    return f"which leads to {place}: if the peer is there, its url must say so"
