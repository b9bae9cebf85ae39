"""What a peer answers, and how its bytes are taken: it can't fill this node's memory, nor its tables with nonsense."""

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from common.errors import OutageError, PoisonError, Reason
from common.wire.compress import open_decompressed
from common.wire.limits import Limits
from common.wire.records import Lsn, NodeId

_Model = TypeVar("_Model", bound=BaseModel)
_LONGEST_MARK = 1_000

_Word = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]


class _Answer(BaseModel):
    """What a peer answers; keys that a later release adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class PushedTx(_Answer):
    """What one tx came to."""

    tx_id: _Word
    source_node: _Word
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


class WaitingTx(_Answer):
    """A tx whose conflicts wait for a choice at the peer."""

    tx_id: _Word
    source_node: _Word
    waiting: int


class Waiting(_Answer):
    """What waits for a choice at the peer."""

    txs: tuple[WaitingTx, ...]
    has_more: bool


class PeerProgress(_Answer):
    """How far the peer and this node are with each other."""

    peer: _Word
    direction: Literal["in", "out"]
    incarnation: _Word
    last_lsn: Lsn
    highest_lsn: Lsn
    last_tx_id: _Word | None = None


class PeerState(_Answer):
    """Who a peer is."""

    node: NodeId
    role: _Word
    incarnation: NodeId
    head_lsn: Lsn
    peers: tuple[PeerProgress, ...]


class Missing(_Answer):
    """The first stretch of this node's log that a peer has not."""

    incarnation: NodeId
    after_lsn: Lsn
    until_lsn: Lsn


class Heard(_Answer):
    """What a peer answers to a heartbeat."""

    missing: Missing | None = None


class RowTaken(_Answer):
    """What one row came to."""

    outcome: _Word
    why: str | None = None
    reason: str | None = None


class RowsTaken(_Answer):
    """What rows came to that were sent once more."""

    results: tuple[RowTaken, ...]


class RowGiven(_Answer):
    """What became of one row that was to get its first version."""

    outcome: _Word
    why: str | None = None


class RowsGiven(_Answer):
    """What became of rows that were to get their first version."""

    results: tuple[RowGiven, ...]


def read_answer(model: type[_Model], answer: bytes) -> _Model:
    """Return what an answer says. Raises OutageError."""
    try:
        return model.model_validate_json(answer)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        told = f"{where}: {first['msg']}" if where else first["msg"]
        raise OutageError(f"the peer does not answer as a node does: {told}") from error


def checked_mark(mark: str) -> str:
    """Return a mark that a peer gave; it is the peer's own, but has to fit into a URL. Raises ValueError."""
    if not (0 < len(mark) <= _LONGEST_MARK and mark.isascii() and mark.isprintable()):
        raise ValueError("its mark is none that could be shown again")
    return mark


def read_whole(response: httpx.Response, most_bytes: int, outage: Callable[[httpx.HTTPError], OutageError]) -> bytes:
    """Return all of an answer, unwrapped, and close it. Raises OutageError, also for more than `most_bytes`."""
    try:
        raw = AnswerBytes(response, outage)
        travelled = io.BufferedReader(raw).read(most_bytes + 1)
        if len(travelled) > most_bytes:
            raise PoisonError(Reason.LIMIT, f"it has more than {most_bytes} bytes")
        encoding = response.headers.get("content-encoding", "").strip().lower()
        limits = Limits(max_stream_bytes=most_bytes)
        return open_decompressed(io.BytesIO(travelled), encoding, len(travelled), limits).read()
    except PoisonError as error:
        raise OutageError(f"the peer does not answer as a node does: {error}") from error
    finally:
        response.close()


class AnswerBytes(io.RawIOBase):
    """An answer's bytes as they travel. What fails is told by `outage`."""

    def __init__(self, response: httpx.Response, outage: Callable[[httpx.HTTPError], OutageError]) -> None:
        self._chunks: Iterator[bytes] = response.iter_raw()
        self._left = b""
        self._outage = outage

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            while not self._left:
                self._left = next(self._chunks)
        except StopIteration:
            return 0
        except httpx.HTTPError as error:
            raise self._outage(error) from error
        view = memoryview(buffer)
        size = min(len(view), len(self._left))
        view[:size], self._left = self._left[:size], self._left[size:]
        return size
