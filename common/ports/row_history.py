"""What a database knows of one row: as it stands, its version, and this node's own changes of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.ports.dialect import TableShape
from common.versions import Version
from common.wire.records import TableMeta


@dataclass(frozen=True, slots=True)
class Captured:
    """A change that is captured and committed, and waits for the sealer."""

    at_us: int
    """When, microseconds since the epoch."""
    what: str
    """`insert`, `update`, `delete`; on SQLite also `displaced` and `found by comparing`."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A change in this node's log."""

    incarnation: str
    lsn: int
    tx_id: str
    sealed_at: str
    """ISO 8601; the header's `exported_at`."""
    captured_at: str
    op: str
    version: Version
    base: Version | None
    after: bytes | None
    """JSON object; None for a delete."""
    resolves: tuple[Version, ...] = ()
    """Of a choice: the versions that it settles."""


@dataclass(frozen=True, slots=True)
class RowLook:
    """One look at one row."""

    key: str
    """The dialect's canonical text of the primary key."""
    image: bytes | None
    """The row as it stands, JSON in wire form; None where there is none."""
    version: Version
    """NEVER where there is no record."""
    base: Version
    deleted: bool
    known: bool
    """Whether there is a version record."""
    captured: tuple[Captured, ...]
    sealed: tuple[Sealed, ...]
    """All that the log still has, oldest first."""


@dataclass(frozen=True, slots=True)
class RowAsked:
    """One row that somebody asks about, for the parts to say what they know."""

    table: TableShape
    pk: bytes
    """JSON object, in the table's own types."""
    look: RowLook


def changed(old: Any, new: Any) -> dict[str, list[Any]]:
    """Return what differs between two images of a row, by column: [old, new]. Empty where one of them is no row."""
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return {}
    return {name: [old.get(name), value] for name, value in new.items() if old.get(name) != value}


@dataclass(frozen=True, slots=True)
class RowEvent:
    """One thing that happened to a row, or to a change of it."""

    event: str
    """`captured`, `sealed`, `published`, `received`, `applied`, `lost`, `waits`, `chosen`, `resolved`, `dead-letter`,
    `replayed`, `discarded`, `stepped-back`, `left-out`."""
    at_us: int | None
    """None: nobody noted when."""
    node: str
    """Whose change it is about."""
    tx_id: str | None = None
    lsn: int | None = None
    op: str | None = None
    version: Version | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    todo: str | None = None
    """What waits, and what helps, as a sentence; None where nothing does."""
    order_us: int = 0
    """Where it belongs among the others, where `at_us` does not say."""

    @property
    def place(self) -> int:
        """What events are ordered by."""
        return self.order_us if self.at_us is None else self.at_us


class RowHistory(Protocol):
    """Looks without a lock. Reads the whole log once: for people. Errors of the driver come out as Rowferry's."""

    def look(self, table: TableShape, pk: bytes) -> RowLook:
        """Return what is known of the row with this key, a JSON object in the table's own types.

        Raises PoisonError for a value that the key can't hold."""
        ...

    def keys(self, table: TableShape, meta: TableMeta, pks: Sequence[bytes]) -> list[str]:
        """Return the canonical texts of keys as a sender that `meta` describes wrote them. Raises PoisonError."""
        ...
