"""`<id>/acks.json`: up to where a node has passed each origin, for the writers, which delete by it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.clock import to_iso
from common.transports.directory.names import ACKS_NAME
from common.transports.files import open_regular, replace_file_durably
from common.wire.records import Lsn, NodeId

_MAX_BYTES = 4 * 1024 * 1024


class BrokenAcksError(ValueError):
    """An acks.json that can't be used; the message says why."""


@dataclass(slots=True)
class Acks:
    """Watermarks by origin and incarnation: the highest LSN up to which everything is seen there."""

    node: str
    passed: dict[tuple[str, str], int] = field(default_factory=dict)
    read_until_ns: int = 0
    """For the node itself: it has read every file that was put there (by the share's clock) up to this moment."""

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


class _Written(_AcksFile):
    format: Literal["rowferry-acks/1"] = "rowferry-acks/1"


def write_acks(root: Path, acks: Acks, now_us: int) -> None:
    """Replace the node's acks.json. Raises OSError."""
    origins: dict[str, dict[str, int]] = {}
    for (origin, incarnation), lsn in sorted(acks.passed.items()):
        origins.setdefault(origin, {})[incarnation] = lsn
    document = _Written(node=acks.node, updated_at=to_iso(now_us), origins=origins, read_until_ns=acks.read_until_ns)
    replace_file_durably(root / acks.node / ACKS_NAME, document.model_dump_json(indent=1).encode() + b"\n")


def read_acks(root: Path, node_id: str) -> Acks | None:
    """Return what a node has passed, None when it has left no acks.json yet. Raises BrokenAcksError, OSError."""
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
    return Acks(node_id, _flat(found.origins), found.read_until_ns)


def _flat(origins: Mapping[str, Mapping[str, int]]) -> dict[tuple[str, str], int]:
    return {(origin, incarnation): lsn for origin, passed in origins.items() for incarnation, lsn in passed.items()}


def _brief(error: ValueError | RecursionError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"key {'.'.join(str(step) for step in first['loc'])!r}: {first['msg']}"
