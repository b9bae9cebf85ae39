"""What nodes tell each other beside batches: lines that carry no data, each whole in itself.

A later release may have more kinds of them. Whoever does not know one leaves it: nothing is lost by it.
"""

import hashlib
import re
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec

from common.clock import to_us
from common.wire.lines import lines_of
from common.wire.records import FORMAT
from common.wire.scalars import Lsn, NodeId
from common.wire.signing import NO_PROOF, Proof, Purpose, Signer
from common.wire.unreadable import UNREADABLE

_LONGEST_LINE = 64 * 1024
_MOST_BYTES = 1024 * 1024
"""Of lines in one message; nodes send each alone. A short one takes ten times its size once it is read."""
MOST_SEEN = 100
"""Of so many logs a heartbeat says how far its node has them: they fit the longest line."""
_BATCH_TYPES = frozenset({"batch", "change", "chunk", "end"})
_PROOF = re.compile(rb',"key":"([0-9a-f]{16})","signature":"([A-Za-z0-9+/=]{88})"\}\n\Z')
_LONGEST_PROOF = 200
_FORMAT_PATTERN = r"^rowferry/\d+(\.\d+)?\Z"
_OURS = (FORMAT, FORMAT + ".")

_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_TxId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")]
_Text = Annotated[str, msgspec.Meta(max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")]
"""No control characters: PostgreSQL takes no NUL, and terminals obey the others."""
_Instant = Annotated[str, msgspec.Meta(max_length=40)]


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="request"):
    """A node asks another one for a stretch of its log once more: whole txs, after `after_lsn`, up to `until_lsn`."""

    format: str = FORMAT
    from_node: NodeId
    to_node: NodeId
    incarnation: NodeId
    after_lsn: Lsn
    until_lsn: Lsn
    asked_at: _Instant

    @property
    def sender(self) -> str:
        """Who says it."""
        return self.from_node


class Gone(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="gone"):
    """The answer to a request for what is not in the log any more, from `after_lsn` up to `until_lsn`."""

    format: str = FORMAT
    from_node: NodeId
    to_node: NodeId
    incarnation: NodeId
    after_lsn: Lsn
    until_lsn: Lsn

    @property
    def sender(self) -> str:
        """Who says it."""
        return self.from_node


class SeenLog(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where a node has another one's log: applied, or set aside."""

    incarnation: NodeId
    lsn: Lsn
    tx_id: _TxId | None = None


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="heartbeat"):
    """What a node says of itself now and then, also when nothing happens."""

    format: str = FORMAT
    source_node: NodeId
    incarnation: NodeId
    head_lsn: Lsn
    """The end of its log."""
    head_tx_id: _TxId | None
    """None where nothing is sealed yet."""
    sent_lsn: Lsn
    """Up to here the broker has confirmed the log, before this was said: who lacks some of it lost it."""
    every_seconds: Annotated[float, msgspec.Meta(gt=0, le=31_536_000)]
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    """Its clock."""
    number: Lsn | None = None
    """The later of its heartbeats has the higher one, whatever its clock did; None: of a release without them."""
    release: _Text
    features: Annotated[tuple[_Text, ...], msgspec.Meta(max_length=100)]
    """What it understands in a batch's `requires`."""
    schema_sha256: _Sha256
    policies_sha256: _Sha256
    passed: Annotated[tuple[tuple[NodeId, NodeId, Lsn], ...], msgspec.Meta(max_length=1_000)] | None = None
    """Origin, incarnation and the LSN up to which it has seen all of that log. None: it does not say."""
    seen: Annotated[dict[NodeId, SeenLog], msgspec.Meta(max_length=MOST_SEEN)] = {}
    """By source: so that a node which was put back to an earlier state hears of it."""

    @property
    def sender(self) -> str:
        """Who says it."""
        return self.source_node

    @property
    def at_us(self) -> int:
        """Its clock, in microseconds since the epoch."""
        return to_us(self.at)


Control = Request | Gone | Heartbeat


class Unknown(msgspec.Struct, frozen=True):
    """A line of a kind that this release does not know."""

    type: str
    format: str


class _Opening(msgspec.Struct):
    type: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    format: Annotated[str, msgspec.Meta(pattern=_FORMAT_PATTERN)]


_opening = msgspec.json.Decoder(_Opening)
_control: msgspec.json.Decoder[Control] = msgspec.json.Decoder(Control)
_KNOWN = frozenset({"request", "gone", "heartbeat"})


class Said(NamedTuple):
    """One line, and what shows who made it. Nobody has looked at the proof yet."""

    what: Control | Unknown
    sha256: str
    """Over the line without its proof and its newline."""
    proof: Proof
    line: bytes
    """As it came."""


def encode_control(control: Control, signer: Signer | None = None) -> bytes:
    """Return the line, with its newline; signed where there is a `signer`."""
    line = msgspec.json.encode(control)
    if signer is None:
        return line + b"\n"
    proof = signer.fields(Purpose.SAYING, hashlib.sha256(line).hexdigest())
    return line[:-1] + proof.encode() + b"}\n"


def control_lines(raw: bytes) -> list[Control | Unknown] | None:
    """Return what `said_in` does, without what shows who made it."""
    found = said_in(raw)
    return None if found is None else [one.what for one in found]


def said_in(raw: bytes) -> list[Said] | None:
    """Return the lines of `raw` where each is one that stands beside batches; None where one is anything else.

    So it is with damaged bytes, with a line of a batch, with a line of a known kind that is not as it must be, and
    with more than 1 MiB."""
    if len(raw) > _MOST_BYTES:
        return None
    found: list[Said] = []
    for line in lines_of(raw):
        read = _read(line)
        if read is None:
            return None
        found.append(_said(read, line))
    return found or None


def _said(what: Control | Unknown, line: bytes) -> Said:
    proof = _PROOF.search(line, max(0, len(line) - _LONGEST_PROOF))
    if proof is None:
        return Said(what, hashlib.sha256(line[:-1]).hexdigest(), NO_PROOF, line)
    key, signature = (one.decode("ascii") for one in proof.groups())
    return Said(what, hashlib.sha256(line[: proof.start()] + b"}").hexdigest(), Proof(key, signature), line)


def _read(line: bytes) -> Control | Unknown | None:
    if len(line) > _LONGEST_LINE or not line.endswith(b"\n"):
        return None
    try:
        line.decode("utf-8")
        opening = _opening.decode(line)
        if opening.type in _BATCH_TYPES:
            return None
        if opening.type in _KNOWN and (opening.format == _OURS[0] or opening.format.startswith(_OURS[1])):
            return _control.decode(line)
    except UNREADABLE:
        return None
    return Unknown(opening.type, opening.format)
