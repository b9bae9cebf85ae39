"""What a dead letter holds, for people: its changes as they were sent, whether this node could apply them or not."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import sqlalchemy as sa

from common.errors import PoisonError
from common.wire.changes import TxReader
from common.wire.records import Change
from common.wire.signing import ANYBODY
from consumer.dead_letters.loading import load
from consumer.dead_letters.table_store import Letter
from consumer.inbox import stored_payloads
from consumer.readable import readable

_RAW = 4_000


@dataclass(frozen=True, slots=True)
class Contents:
    """The first changes of a letter."""

    changes: tuple[dict[str, Any], ...]
    note: str | None = None
    """Why there are not more of them."""
    raw: str | None = None
    """The beginning of its bytes, where no change can be read."""


def contents(connection: sa.Connection, letter: Letter, most: int) -> Contents:
    """Return at most `most` changes of a letter. Needs none of its tables here."""
    tx = load(connection, letter, ANYBODY)
    if tx.header is None:
        raw = (tx.raw or b"")[:_RAW].decode("utf-8", "replace")
        return Contents((), str(tx.error) if tx.error is not None else None, raw)
    payloads = stored_payloads(connection, tx.key)() if tx.payload is None else [tx.payload]
    found: list[dict[str, Any]] = []
    try:
        for change in islice(TxReader(tx.header, payloads), most + 1):
            found += _told(change)
    except PoisonError as error:
        return Contents(tuple(found[:most]), str(error))
    note = f"the first {most} changes" if len(found) > most else None
    return Contents(tuple(found[:most]), note)


def _told(change: Change) -> Iterator[dict[str, Any]]:
    images = {name: readable(_text(bytes(getattr(change, name)))) for name in ("pk", "before", "after")}
    yield {"lsn": change.lsn, "table": change.table, "op": change.op, "sql": change.sql, **images}


def _text(raw: bytes) -> str | None:
    return raw.decode("utf-8", "replace") if raw and raw != b"null" else None
