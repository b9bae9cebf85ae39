"""Lines of `rf_audit`: who did what, and when; written in the transaction they tell of."""

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from common.schema import tables as rf
from consumer.statements import insert_many

COLUMNS = ("actor", "action", "source_node", "tx_id", "detail", "at_us")
APPLIER = "rowferry"
"""The actor where nobody asked for it."""


class Line(msgspec.Struct, frozen=True):
    """One thing that was done."""

    action: str
    source_node: str
    tx_id: str | None
    actor: str = APPLIER
    detail: Mapping[str, object] = msgspec.field(default_factory=dict)


def write(connection: sa.Connection, lines: Sequence[Line], now_us: int) -> None:
    """Add lines."""
    insert_many(connection, rf.audit, COLUMNS, [_row(line, now_us) for line in lines])


def edits(connection: sa.Connection) -> set[tuple[str, str, str]]:
    """Return which dead letters were applied as edited: source, tx, and the checksum of the edit."""
    line = rf.audit.c
    query = sa.select(line.source_node, line.tx_id, line.detail).where(line.action == "edited")
    found = [(source, tx_id, msgspec.json.decode(detail)) for source, tx_id, detail in connection.execute(query)]
    return {(source, tx_id, told["edited_sha256"]) for source, tx_id, told in found if "edited_sha256" in told}


def _row(line: Line, now_us: int) -> tuple[object, ...]:
    detail = msgspec.json.encode(line.detail).decode() if line.detail else None
    return line.actor, line.action, line.source_node, line.tx_id, detail, now_us
