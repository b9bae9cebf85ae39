"""The change lines of a tx, read whole before anything is written: their form, and the checksum over all of them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from common.errors import PoisonError
from common.wire.changes import TxReader
from common.wire.records import BatchHeader


@dataclass(slots=True)
class ChangesSeen:
    """What the change lines of one tx hold."""

    sha256: str = ""
    """Over the change lines, whatever the parts."""
    rows: int = 0
    ddl: list[str] = field(default_factory=list)
    """The statements, as they stand in the file."""
    fault: PoisonError | None = None
    place: tuple[int, int] = (0, 0)
    """With a fault: which of the payloads, and which of its lines, both from 1."""


def look_at_changes(header: BatchHeader, payloads: Iterable[bytes]) -> ChangesSeen:
    """Read all change lines, one payload in memory; a fault is returned, not raised."""
    reader = TxReader(header, payloads)
    seen = ChangesSeen()
    try:
        for change in reader:
            if change.op == "DDL":
                seen.ddl.append(change.sql or "")
            else:
                seen.rows += 1
    except PoisonError as error:
        seen.fault, seen.place = error, reader.place
    seen.sha256 = reader.content_sha256 or ""
    return seen
