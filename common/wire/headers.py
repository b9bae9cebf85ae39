"""The header line of a batch, checked. Pydantic says what a header is; msgspec reads the ones that are plainly so.

A backlog of small txs is as many headers as rows, all but a few of them with the same `tables`.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from common.errors import PoisonError, Reason
from common.ids import NODE_ID
from common.wire.records import FORMAT, MAX_LSN, BatchHeader, Lsn, Name, NodeId, TableMeta
from common.wire.unreadable import UNREADABLE

_TX_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_SHA256 = r"[0-9a-f]{64}"
_FORMAT = re.compile(r"rowferry/1(\.[0-9]+)?\Z")
_LONGEST_INSTANT = 40
_LONGEST_NODE_ID = 64
_MOST_KNOWN = 1_000
_LONGEST_KNOWN = 64 * 1024
"""Bytes of a description of tables that is kept: what a sender makes up must not fill the memory."""

_Number = Annotated[int, Field(ge=1, strict=True)]


class _HeaderLine(BaseModel):
    """What a header line must be. Unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["batch"]
    format: str
    tx_id: Annotated[str, StringConstraints(pattern=f"^{_TX_ID}$")]
    source_node: NodeId
    incarnation: NodeId
    exported_at: Annotated[str, Field(max_length=_LONGEST_INSTANT)]
    from_lsn: Lsn
    to_lsn: Lsn
    prev_lsn: Lsn
    changes: Annotated[int, Field(ge=0, strict=True)]
    part: _Number = 1
    parts: _Number = 1
    tables: dict[Name, TableMeta]
    grouped: Annotated[bool, Field(strict=True)] = False
    tx_sha256: Annotated[str, StringConstraints(pattern=f"^{_SHA256}$")] | None = None
    requires: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _numbers_agree(self) -> "_HeaderLine":
        if not self.prev_lsn < self.from_lsn <= self.to_lsn:
            raise ValueError(f"prev_lsn {self.prev_lsn} < from_lsn {self.from_lsn} <= to_lsn {self.to_lsn} must hold")
        if self.part > self.parts:
            raise ValueError(f"part {self.part} of {self.parts}")
        if self.parts > 1 and self.tx_sha256 is None:
            raise ValueError("a batch in parts must carry tx_sha256")
        return self


def _text(pattern: str) -> msgspec.Meta:
    return msgspec.Meta(pattern=rf"^{pattern}\Z")


_least = msgspec.Meta(ge=0, le=MAX_LSN)


class PlainHeader(msgspec.Struct, gc=False, tag="batch", tag_field="type"):
    """A header as this release writes it: what has this form, `is_plain` and `plain_tables`, `_HeaderLine` takes too,
    and reads the same from it."""

    format: Literal["rowferry/1"]
    tx_id: str
    source_node: str
    incarnation: str
    exported_at: Annotated[str, msgspec.Meta(max_length=_LONGEST_INSTANT)]
    from_lsn: Annotated[int, _least]
    to_lsn: Annotated[int, _least]
    prev_lsn: Annotated[int, _least]
    changes: Annotated[int, _least]
    part: Annotated[int, msgspec.Meta(ge=1, le=MAX_LSN)]
    parts: Annotated[int, msgspec.Meta(ge=1, le=MAX_LSN)]
    tables: msgspec.Raw
    grouped: bool = False
    tx_sha256: Annotated[str, _text(_SHA256)] | None = None
    requires: tuple[str, ...] = ()


_tx_id = re.compile(rf"{_TX_ID}\Z")
_plain = msgspec.json.Decoder(PlainHeader)
_any = msgspec.json.Decoder()
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tables = TypeAdapter(dict[Name, TableMeta])
_tables_known: dict[bytes, Mapping[str, TableMeta]] = {}
"""By their JSON. So that equal descriptions are one object too, but for very long ones."""


def plain_header(line: bytes) -> BatchHeader | None:
    """Return the header that `line` plainly is; None where it takes `read_header` to tell."""
    try:
        found = _plain.decode(line)
    except UNREADABLE:
        return None
    tables = plain_tables(found) if is_plain(found) and line.isascii() else None
    if tables is None:
        return None
    return BatchHeader(
        found.tx_id,
        found.source_node,
        found.incarnation,
        found.exported_at,
        found.from_lsn,
        found.to_lsn,
        found.prev_lsn,
        tables,
        found.grouped,
        found.requires,
        changes=found.changes,
        part=found.part,
        parts=found.parts,
        tx_sha256=found.tx_sha256,
    )


def is_plain(found: PlainHeader) -> bool:
    """Tell whether what a header says of its tx is right; else it takes `read_header` to tell what is wrong with it."""
    if _tx_id.match(found.tx_id) is None or not found.prev_lsn < found.from_lsn <= found.to_lsn:
        return False
    return found.part <= found.parts and (found.parts == 1 or found.tx_sha256 is not None)


def plain_tables(found: PlainHeader) -> Mapping[str, TableMeta] | None:
    """Return the tables that a header describes; None as with `is_plain`, also for what it says of its source.

    Equal descriptions are one object."""
    if not (_is_node_id(found.source_node) and _is_node_id(found.incarnation)):
        return None
    try:
        return _known_tables(found.tables)
    except (ValidationError, RecursionError):
        return None


def read_header(line: bytes) -> BatchHeader:
    """Return the header in `line`. Raises PoisonError that names the key which is wrong."""
    return plain_header(line) or read_model(line)


def read_model(line: bytes) -> BatchHeader:
    """Return the header in `line`, however it is written. Raises PoisonError that names the key which is wrong."""
    try:
        # What nobody here knows is stepped over: its values may be of any kind, and any number.
        found_there = _members.decode(line)
        fields = {name: _any.decode(value) for name, value in found_there.items() if name in _HeaderLine.model_fields}
    except UNREADABLE as error:
        raise PoisonError(Reason.FORMAT, str(error)) from error
    written = fields.get("format")
    if not isinstance(written, str) or not _FORMAT.match(written):
        raise PoisonError(Reason.FORMAT, f"format {written!r} is not {FORMAT}")
    try:
        found = _HeaderLine.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        key = f" key {where!r}" if where else ""
        raise PoisonError(Reason.FORMAT, f"header{key}: {first['msg'].removeprefix('Value error, ')}") from error
    return BatchHeader(**{name: getattr(found, name) for name in BatchHeader.__struct_fields__})


def _is_node_id(text: str) -> bool:
    return len(text) <= _LONGEST_NODE_ID and _matches_node_id(text)


@lru_cache(maxsize=_MOST_KNOWN)
def _matches_node_id(text: str) -> bool:
    return NODE_ID.match(text) is not None


def _known_tables(raw: msgspec.Raw) -> Mapping[str, TableMeta]:
    json = bytes(raw)
    if len(json) > _LONGEST_KNOWN:
        return _tables.validate_json(json)
    known = _tables_known.get(json)
    if known is None:
        if len(_tables_known) >= _MOST_KNOWN:
            _tables_known.clear()
        known = _tables_known[json] = _tables.validate_json(json)
    return known
