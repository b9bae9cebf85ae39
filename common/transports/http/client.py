"""A small typed client for the routes that nodes use with each other."""

import io
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, TypeVar, cast

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import ConfigError, OutageError, RowferryError
from common.http.wire import (
    AGAIN_PATH,
    CURSOR_HEADER,
    GONE_HEADER,
    HEARTBEAT_PATH,
    MEDIA_TYPE,
    PULL_PATH,
    PUSH_PATH,
    STATE_PATH,
    TXS_HEADER,
)
from common.transports.http.settings import PeerSettings, is_loopback_url
from common.wire.compress import compress, open_decompressed
from common.wire.limits import DEFAULT_LIMITS

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_PUSH_SECONDS = 900.0
"""The answer to a push comes after its commit."""
_CHUNK_BYTES = 256 * 1024
_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_LONGEST_ANSWER = 256 * 1024 * 1024
_Model = TypeVar("_Model", bound=BaseModel)


class RefusedError(RowferryError):
    """The peer understood and said no: trying the same again won't help. `reason` is its word for programs."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class _Answer(BaseModel):
    """What a peer answers; keys that a later release adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PushedTx(_Answer):
    """What one tx came to."""

    tx_id: str
    source_node: str
    outcome: str
    state: str | None = None
    reason: str | None = None
    error: str | None = None
    conflicts: int = 0
    waiting: int = 0


class Pushed(_Answer):
    """What a push came to."""

    results: tuple[PushedTx, ...]
    counts: Mapping[str, int]


class PeerProgress(_Answer):
    """How far the peer and this node are with each other."""

    peer: str
    direction: Literal["in", "out"]
    incarnation: str
    last_lsn: int
    highest_lsn: int
    last_tx_id: str | None = None


class PeerState(_Answer):
    """Who a peer is."""

    node: str
    role: str
    incarnation: str
    head_lsn: int
    peers: tuple[PeerProgress, ...]


class Missing(_Answer):
    """The first stretch of this node's log that a peer has not."""

    incarnation: str
    after_lsn: int
    until_lsn: int


class _Heard(_Answer):
    missing: Missing | None = None


@dataclass(slots=True)
class PullAnswer:
    """An answer that is being read. Close it."""

    cursor: str
    """Empty for what was asked for once more: no mark moves by it."""
    txs: int
    body: BinaryIO
    """The batches, unwrapped while they are read; its faults are OutageErrors and PoisonErrors."""
    _response: httpx.Response
    gone_until_lsn: int | None = None
    """Up to here the log was asked for once more, and is gone."""

    def close(self) -> None:
        """Give the connection back; what was not read is left. Safe to call twice."""
        self._response.close()


class PeerClient:
    """Talks to one peer. Belongs to one thread. OutageError from any method: try again later with a new one."""

    def __init__(self, settings: PeerSettings) -> None:
        self._settings = settings
        headers = {"User-Agent": "rowferry"}
        if settings.token is not None:
            headers["Authorization"] = f"Bearer {settings.token}"
        self._http = httpx.Client(
            base_url=settings.url.rstrip("/"),
            headers=headers,
            timeout=httpx.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS),
            verify=_trusting(settings),
            # Redirects would carry the token elsewhere; a proxy of the environment is none for this machine itself.
            follow_redirects=False,
            trust_env=not is_loopback_url(settings.url),
        )

    @property
    def url(self) -> str:
        """Where the peer is."""
        return self._settings.url

    def state(self) -> PeerState:
        """Return who the peer is. Raises OutageError, RefusedError, ConfigError where it is somebody else."""
        state = _read(PeerState, self._call("GET", STATE_PATH))
        wanted = self._settings.name
        if wanted is not None and state.node != wanted:
            raise ConfigError(f"peers.{wanted}.url: {self.url} is the node {state.node!r}; correct the name or the url")
        return state

    def push(self, body: bytes, more: Mapping[str, str] | None = None) -> Pushed:
        """Send batches; returns after they are committed there. Raises OutageError, RefusedError.

        `more`: headers that go along."""
        encoding = self._settings.encoding
        headers = {"Content-Type": MEDIA_TYPE, **({"Content-Encoding": encoding} if encoding else {}), **(more or {})}
        timeout = httpx.Timeout(_PUSH_SECONDS, connect=_CONNECT_SECONDS)
        answer = self._call("POST", PUSH_PATH, content=compress(body, encoding), headers=headers, timeout=timeout)
        return _read(Pushed, answer)

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
            headers={"Accept-Encoding": self._settings.encoding or "identity"},
            timeout=httpx.Timeout(_READ_SECONDS + wait_seconds, connect=_CONNECT_SECONDS),
        )
        return self._reading(self._sent(request, stream=True), has_mark=True)

    def again(self, source: str, incarnation: str, after_lsn: int, until_lsn: int) -> PullAnswer:
        """Ask for a stretch of a log once more. Raises OutageError, RefusedError."""
        asked: dict[str, Any] = {"source": source, "incarnation": incarnation}
        asked |= {"after_lsn": after_lsn, "until_lsn": until_lsn}
        return self._reading(self._sent(self._http.build_request("GET", AGAIN_PATH, params=asked), stream=True))

    def say(self, line: bytes) -> Missing | None:
        """Tell the peer this node's heartbeat; return what it lacks of this node. Raises OutageError, RefusedError."""
        headers = {"Content-Type": MEDIA_TYPE}
        return _read(_Heard, self._call("POST", HEARTBEAT_PATH, content=line, headers=headers)).missing

    def heartbeats(self) -> bytes:
        """Return the lines of the peer, and of those that it hands on. Raises OutageError, RefusedError."""
        return self._call("GET", HEARTBEAT_PATH)

    def close(self) -> None:
        """Give the connections back. Safe to call twice."""
        self._http.close()

    def _reading(self, response: httpx.Response, *, has_mark: bool = False) -> PullAnswer:
        try:
            encoding = response.headers.get("content-encoding")
            raw = cast(BinaryIO, io.BufferedReader(_Stream(response, self.url), _CHUNK_BYTES))
            body = open_decompressed(raw, encoding, DEFAULT_LIMITS.max_stream_bytes)
            cursor = response.headers[CURSOR_HEADER] if has_mark else ""
            gone = response.headers.get(GONE_HEADER)
            txs = int(response.headers[TXS_HEADER])
            return PullAnswer(cursor, txs, body, response, None if gone is None else int(gone))
        except (KeyError, ValueError) as error:
            response.close()
            raise OutageError(f"{self.url} does not answer as a node does: {error}") from error

    def _call(self, method: str, path: str, **options: Any) -> bytes:
        return self._sent(self._http.build_request(method, path, **options)).content

    def _sent(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        try:
            response = self._http.send(request, stream=stream)
            if response.status_code != 200:
                response.read()
        except httpx.HTTPError as error:
            raise _outage(self.url, error) from error
        if response.status_code == 200:
            return response
        response.close()
        raise _refusal(self.url, response)


class _Stream(io.RawIOBase):
    """An answer's bytes as they travel."""

    def __init__(self, response: httpx.Response, url: str) -> None:
        self._chunks: Iterator[bytes] = response.iter_raw()
        self._left = b""
        self._url = url

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._left:
                self._left = next(self._chunks)
        except StopIteration:
            return 0
        except httpx.HTTPError as error:
            raise _outage(self._url, error) from error
        view = memoryview(buffer)
        size = min(len(view), len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        return size


def _trusting(settings: PeerSettings) -> ssl.SSLContext | bool:
    if settings.tls_ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(settings.tls_ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"peers.{settings.name}.tls_ca_file: {settings.tls_ca_file} can't be used: {error}"
        ) from error


def _read(model: type[_Model], answer: bytes) -> _Model:
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        raise OutageError(f"the peer does not answer as a node does: {error.errors()[0]['msg']}") from error


def _outage(url: str, error: httpx.HTTPError) -> OutageError:
    return OutageError(f"{url}: {str(error) or type(error).__name__}")


def _refusal(url: str, response: httpx.Response) -> RowferryError:
    try:
        problem = response.json()
        detail, kind = str(problem["detail"]), str(problem["type"])
    except (ValueError, KeyError, TypeError):
        detail, kind = f"answered with {response.status_code}, and not as a node does", ""
    if response.status_code in _AGAIN:
        return OutageError(f"{url}: {detail}")
    return RefusedError(f"{url} refuses: {detail}", response.status_code, kind.removeprefix("urn:rowferry:"))
