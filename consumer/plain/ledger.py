"""What is written beside the rows of plain txs, in the same commit: dedup, watermarks, peers, audit.

The same as `consumer.apply.ledger` writes for txs of which every change won."""

import json
from collections.abc import Iterable
from functools import cache

import sqlalchemy as sa

from common.config.model import Config
from common.ids import tx_id_us
from common.schema import tables as rf
from common.wire.plain import PlainTx
from consumer import audit, watermark
from consumer.apply.ledger import APPLIED
from consumer.heard import Heard, note_heard
from consumer.inbox import delete_parts
from consumer.incoming import Counts
from consumer.plain.group import PlainGroup
from consumer.statements import insert_plain
from consumer.watermark import Mark


def write_ledger(
    connection: sa.Connection, config: Config, group: PlainGroup, marks: Iterable[Mark], now_us: int
) -> None:
    """Write what follows from a group that was applied whole. The caller holds the locks of `marks`."""
    insert_plain(connection, rf.applied_tx, APPLIED, [_applied(tx, now_us) for tx in group.txs])
    # A source may have begun to send a tx in parts that comes in one piece now.
    delete_parts(connection, list(group.keys))
    moved = list(marks)
    for mark in moved:
        stretch = group.stretches[mark.source_node, mark.incarnation]
        mark.last_lsn = mark.highest_lsn = stretch.to_lsn
        mark.last_tx_id = stretch.tx_id
    watermark.store(connection, moved, now_us)
    heard = [
        Heard(source, incarnation, stretch.latest_us, tx_id_us(stretch.tx_id))
        for (source, incarnation), stretch in group.stretches.items()
    ]
    note_heard(connection, config, heard, now_us)
    insert_plain(connection, rf.audit, audit.COLUMNS, [_line(tx, now_us) for tx in group.txs])


def _applied(tx: PlainTx, now_us: int) -> tuple[str | int, ...]:
    header = tx.header
    link = header.source_node, header.tx_id, header.incarnation, header.prev_lsn, header.to_lsn
    return *link, tx.sha256, now_us


def _line(tx: PlainTx, now_us: int) -> tuple[str | int, ...]:
    header = tx.header
    return now_us, audit.APPLIER, "applied", header.source_node, header.tx_id, _detail(header.changes)


@cache
def _detail(changes: int) -> str:
    return json.dumps(Counts(changes, won=changes).as_dict(), separators=(",", ":"))
