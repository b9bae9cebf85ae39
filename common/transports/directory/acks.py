"""`<id>/acks.json`: up to where a node has passed each origin, for the writers, which delete by it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.clock import from_iso, to_iso
from common.transports.directory.names import ACKS_NAME
from common.transports.files import open_regular, replace_file_durably
from common.wire.records import Lsn, NodeId
from common.wire.signing import Proof, Purpose, Signer, Trust

_MAX_BYTES = 4 * 1024 * 1024
T = TypeVar("T")
TxId = Annotated[str, Field(max_length=40)]


class BrokenAcksError(ValueError):
    """An acks.json that can't be used; the message says why."""


@dataclass(slots=True)
class Acks:
    """Watermarks by origin and incarnation: the highest LSN up to which everything is seen there."""

    node: str
    passed: dict[tuple[str, str], int] = field(default_factory=dict)
    read_until_ns: int = 0
    """For the node itself: it has read every file that was put there (by the share's clock) up to this moment."""
    had: dict[tuple[str, str], int] = field(default_factory=dict)
    """For the node itself: what it had passed before its database was put back, until it has passed that again."""
    tx_ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """Which tx ends at the LSN that was passed: an origin that has another one there was put back."""
    updated_us: int = field(default=0, compare=False)
    """When it was written, by its node's clock; 0 where that can't be read."""

    def once_passed(self) -> dict[tuple[str, str], int]:
        """Return the most that the node ever said it has passed."""
        return {key: max(self.passed.get(key, 0), self.had.get(key, 0)) for key in self.passed.keys() | self.had.keys()}

    def has_passed(self, origin: str, incarnation: str, lsn: int) -> bool:
        return self.passed.get((origin, incarnation), 0) >= lsn


class _AcksFile(BaseModel):
    """The file as it is written; unknown keys are left for later releases."""

    model_config = ConfigDict(extra="ignore")

    format: Annotated[str, Field(pattern=r"^rowferry-acks/1(\.\d+)?$")]
    node: NodeId
    updated_at: Annotated[str, Field(max_length=40)]
    origins: dict[NodeId, dict[NodeId, Lsn]]
    read_until_ns: Annotated[int, Field(ge=0, strict=True)] = 0
    had: dict[NodeId, dict[NodeId, Lsn]] | None = None
    tx_ids: dict[NodeId, dict[NodeId, TxId]] | None = None
    key: str | None = None
    signature: str | None = None

    @property
    def sha256(self) -> str:
        """Over what is signed: all that this release reads of it, without spaces."""
        # Without these it is what an earlier release signs.
        later = {"had": self.had, "tx_ids": self.tx_ids}
        beside = {"key", "signature"} | {name for name, value in later.items() if value is None}
        return hashlib.sha256(self.model_dump_json(exclude=beside).encode()).hexdigest()


class _Written(_AcksFile):
    format: Literal["rowferry-acks/1"] = "rowferry-acks/1"


def write_acks(root: Path, acks: Acks, now_us: int, signer: Signer | None = None) -> None:
    """Replace the node's acks.json; signed where there is a `signer`. Raises OSError."""
    document = _Written(
        node=acks.node,
        updated_at=to_iso(now_us),
        origins=_by_origin(acks.passed),
        read_until_ns=acks.read_until_ns,
        had=_by_origin(acks.had) or None,
        tx_ids=_by_origin(acks.tx_ids) or None,
    )
    if signer is not None:
        proof = {"key": signer.key_id, "signature": signer.sign(Purpose.ACKS, document.sha256)}
        document = document.model_copy(update=proof)
    text = document.model_dump_json(indent=1, exclude_none=True)
    replace_file_durably(root / acks.node / ACKS_NAME, text.encode() + b"\n")


def read_acks(root: Path, node_id: str, trust: Trust | None = None) -> Acks | None:
    """Return what a node has passed, None when it has left no acks.json yet. Raises BrokenAcksError, OSError.

    One that its node would have to sign, by `trust`, and has not, is broken."""
    try:
        with open_regular(root / node_id, ACKS_NAME) as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > _MAX_BYTES:
        raise BrokenAcksError(f"larger than {_MAX_BYTES} bytes")
    try:
        found = _AcksFile.model_validate(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise BrokenAcksError(_brief(error)) from error
    if found.node != node_id:
        raise BrokenAcksError(f"it names the node {found.node!r}")
    fault = None
    if trust is not None:
        fault = trust.fault(node_id, Purpose.ACKS, found.sha256, Proof(found.key, found.signature))
    if fault is not None:
        raise BrokenAcksError(str(fault))
    return Acks(
        node_id,
        _flat(found.origins),
        found.read_until_ns,
        _flat(found.had or {}),
        _flat(found.tx_ids or {}),
        _written_us(found.updated_at),
    )


def _written_us(text: str) -> int:
    try:
        return from_iso(text)
    except ValueError:
        return 0


def _by_origin(passed: Mapping[tuple[str, str], T]) -> dict[str, dict[str, T]]:
    origins: dict[str, dict[str, T]] = {}
    for (origin, incarnation), said in sorted(passed.items(), key=lambda item: item[0]):
        origins.setdefault(origin, {})[incarnation] = said
    return origins


def _flat(origins: Mapping[str, Mapping[str, T]]) -> dict[tuple[str, str], T]:
    return {(origin, incarnation): said for origin, passed in origins.items() for incarnation, said in passed.items()}


def _brief(error: ValueError | RecursionError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"key {'.'.join(str(step) for step in first['loc'])!r}: {first['msg']}"
