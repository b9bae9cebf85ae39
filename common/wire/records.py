"""The records of `rowferry/1` as Python sees them. Pydantic stands at the border, plain dataclasses behind it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from common.versions import NEVER, Version

FORMAT = "rowferry/1"
UNDERSTOOD_FEATURES: frozenset[str] = frozenset()
"""What a header may ask for in `requires` and this release understands."""

MAX_LSN = 2**63 - 1

TxId = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")
]
NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Lsn = Annotated[int, Field(ge=0, le=MAX_LSN, strict=True)]
Name = Annotated[str, Field(min_length=1, max_length=500)]


class TableMeta(BaseModel):
    """How a table looked when its changes were captured."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    pk: tuple[Name, ...] = Field(min_length=1)
    columns: dict[Name, Name]

    @model_validator(mode="after")
    def _key_is_among_columns(self) -> "TableMeta":
        missing = [name for name in self.pk if name not in self.columns]
        if missing:
            raise ValueError(f"primary key column {missing[0]!r} is not among the columns")
        return self


class BatchHeader(BaseModel):
    """The first line of a batch, or of one part of it. LSNs are the tx's, `changes` is the part's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Literal["batch"]
    format: str
    tx_id: TxId
    source_node: NodeId
    incarnation: NodeId
    exported_at: Annotated[str, Field(max_length=40)]
    from_lsn: Lsn
    to_lsn: Lsn
    prev_lsn: Lsn
    changes: Annotated[int, Field(ge=0, strict=True)]
    part: Annotated[int, Field(ge=1, strict=True)] = 1
    parts: Annotated[int, Field(ge=1, strict=True)] = 1
    tables: dict[Name, TableMeta]
    grouped: bool = False
    tx_sha256: Sha256 | None = None
    requires: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _numbers_agree(self) -> "BatchHeader":
        if not self.prev_lsn < self.from_lsn <= self.to_lsn:
            raise ValueError(f"prev_lsn {self.prev_lsn} < from_lsn {self.from_lsn} <= to_lsn {self.to_lsn} must hold")
        if self.part > self.parts:
            raise ValueError(f"part {self.part} of {self.parts}")
        if self.parts > 1 and self.tx_sha256 is None:
            raise ValueError("a batch in parts must carry tx_sha256")
        return self


class TxHeader(msgspec.Struct, frozen=True):
    """What sealing fixed about a tx: the same on every way out and in every part."""

    tx_id: str
    source_node: str
    incarnation: str
    exported_at: str
    from_lsn: int
    to_lsn: int
    prev_lsn: int
    tables: Mapping[str, TableMeta]
    grouped: bool = False
    requires: tuple[str, ...] = ()


class SealedTx(Protocol):
    """One sealed tx as the log gives it."""

    @property
    def header(self) -> TxHeader: ...

    def lines(self) -> Iterator[bytes]:
        """Yield the change lines, each with its newline, in LSN order. May be called again; the bytes are the same."""
        ...


NO_IMAGE = msgspec.Raw(b"null")


class Change(msgspec.Struct, frozen=True):
    """One change line. Images stay raw JSON text: only who needs their values parses them.

    A `DDL` line has `sql` and neither table, key, images nor version.
    """

    lsn: int
    tx_id: str
    op: str
    table: str = ""
    pk: msgspec.Raw = NO_IMAGE
    version: Version = NEVER
    before: msgspec.Raw = NO_IMAGE
    after: msgspec.Raw = NO_IMAGE
    base: Version | None = None
    captured_at: str | None = None
    sql: str | None = None

    @property
    def image(self) -> bytes | None:
        """The row after the change as a JSON object; None when the change deleted it."""
        return None if self.op == "D" else bytes(self.after)


class Part(msgspec.Struct, frozen=True):
    """One verified batch or part of one: count and checksum were right."""

    header: BatchHeader
    payload: bytes
    """The change and chunk lines, as they came."""
    raw: bytes
    """The whole part, header and end line included."""
    sha256: str
    """Checksum of the part as its end line gives it."""
    line: int = 1
    """Where the header stands in its file or message, from 1."""
