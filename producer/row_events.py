"""What became of this node's own changes of one row: captured, sealed, published."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from common.clock import to_iso
from common.ops.sending import who_does_it
from common.ops.status_words import place
from common.ports.row_history import RowAsked, RowEvent, Sealed
from common.retry import in_transaction
from common.runtime.node import Node
from common.schema import tables as rf
from producer.waiting import sink_names

_Cursors = dict[tuple[str, str], tuple[int, int]]
"""By sink and incarnation: the LSN, and when it came there."""


def own_events(node: Node, asked: RowAsked) -> Sequence[RowEvent]:
    """Return the events of a row's changes that this node made."""
    cursors = in_transaction(node.database, _cursors)
    doer = in_transaction(node.database, lambda connection: who_does_it(connection, node.clock.now_us()))
    sinks = list(sink_names(node))
    found = [_captured(node, one.at_us, one.what, doer) for one in asked.look.captured]
    for change in asked.look.sealed:
        found += _sealed(node, change)
        found += [_published(node, change, sink, cursors, doer) for sink in sinks]
    return found


def _captured(node: Node, at_us: int, what: str, doer: str) -> RowEvent:
    return RowEvent(
        "captured",
        at_us,
        node.facts.node_id,
        detail={"what": what},
        todo=f"a captured {what} waits to be sealed: {doer}",
    )


def _sealed(node: Node, change: Sealed) -> Iterator[RowEvent]:
    same: dict[str, Any] = {"tx_id": change.tx_id, "lsn": change.lsn, "op": change.op, "version": change.version}
    chosen = {"resolves": [list(one) for one in change.resolves]} if change.resolves else {}
    base = None if change.base is None else list(change.base)
    captured_us = _us(change.captured_at)
    yield RowEvent("captured", captured_us, node.facts.node_id, op=change.op, lsn=change.lsn, version=change.version)
    yield RowEvent(
        "sealed",
        _us(change.sealed_at),
        node.facts.node_id,
        detail={"incarnation": change.incarnation, "base": base, **chosen},
        **same,
    )


def _published(node: Node, change: Sealed, sink: str, cursors: _Cursors, doer: str) -> RowEvent:
    lsn, moved_us = cursors.get((sink, change.incarnation), (0, 0))
    common: dict[str, Any] = {"tx_id": change.tx_id, "lsn": change.lsn, "op": change.op, "version": change.version}
    after_us = _us(change.sealed_at) + 1
    if lsn < change.lsn:
        todo = f"a change of it was not sent to {place(sink)} yet: {doer}"
        return RowEvent("waits", None, node.facts.node_id, detail={"for": sink}, todo=todo, order_us=after_us, **common)
    # The cursor moves on with later changes; only of the last one it tells when.
    at_us = moved_us if lsn == change.lsn else None
    detail = {"sink": sink, "not_after": to_iso(moved_us)}
    return RowEvent("published", at_us, node.facts.node_id, detail=detail, order_us=after_us, **common)


def _cursors(connection: sa.Connection) -> _Cursors:
    return {(row.sink, row.incarnation): (row.lsn, row.updated_us) for row in connection.execute(sa.select(rf.cursor))}


def _us(iso: str) -> int:
    moment = datetime.strptime(iso, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
