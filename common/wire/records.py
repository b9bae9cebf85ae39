"""The records of `rowferry/1` as Python sees them. Pydantic stands at the border, plain dataclasses behind it."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from common.versions import NEVER, Version
from common.wire.signing import NO_PROOF, Proof

FORMAT = "rowferry/1"
UNDERSTOOD_FEATURES: frozenset[str] = frozenset()
"""What a header may ask for in `requires` and this release understands."""

MAX_LSN = 2**63 - 1
Lsn = Annotated[int, Field(ge=0, le=MAX_LSN, strict=True)]
NodeId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
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

    @property
    def lsns(self) -> int:
        """How many LSNs the tx has: one for each of its changes, in all its parts."""
        return self.to_lsn - self.from_lsn + 1

    def overlaps(self, other: "TxHeader") -> bool:
        """Tell whether both have some LSN of one log: no two txs of one history do."""
        same_log = self.source_node == other.source_node and self.incarnation == other.incarnation
        return same_log and self.from_lsn <= other.to_lsn and other.from_lsn <= self.to_lsn


class BatchHeader(TxHeader, frozen=True, kw_only=True):
    """The first line of a batch, or of one part of it, as `common.wire.headers` lets it in.

    LSNs are the tx's, `changes` is the part's."""

    changes: int
    part: int
    parts: int
    tx_sha256: str | None = None

    @property
    def of_tx(self) -> tuple[object, ...]:
        """What all parts of one tx say alike, however it was cut."""
        lsns = self.prev_lsn, self.from_lsn, self.to_lsn
        return self.incarnation, lsns, self.tx_sha256, self.grouped, self.requires, self.tables


class SealedTx(Protocol):
    """One sealed tx as the log gives it."""

    @property
    def header(self) -> TxHeader: ...

    def lines(self) -> Iterator[bytes]:
        """Yield the change lines, each with its newline, in LSN order. May be called again; the bytes are the same."""
        ...


class SmallTx(msgspec.Struct, frozen=True):
    """A `SealedTx` whose lines came along with it."""

    header: TxHeader
    payload: bytes
    """All its change lines, each with its newline."""

    def lines(self) -> Iterator[bytes]:
        """Yield the change lines."""
        start = 0
        while start < len(self.payload):
            stop = self.payload.index(b"\n", start) + 1
            yield self.payload[start:stop]
            start = stop


NO_IMAGE = msgspec.Raw(b"null")
IMAGES_OF = {"I": (False, True), "U": (True, True), "D": (True, False)}
"""Which of the two images, before and after, an op has."""


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
    resolves: tuple[Version, ...] = ()
    """The versions that a choice settles; of any other change empty."""
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
    proof: Proof = NO_PROOF
    """What its end line shows of who made it; nobody has looked at it yet."""
