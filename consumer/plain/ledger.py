"""What is written beside the rows of plain txs, in the same commit: dedup, watermarks, peers, audit.

The same as `consumer.apply.ledger` writes for txs of which every change won."""

import json
from collections.abc import Iterable
from functools import cache

import sqlalchemy as sa

from common.config.model import Config
from common.ports.plain import Together
from common.schema import tables as rf
from common.wire.plain import PlainTx
from consumer import audit, watermark
from consumer.apply.ledger import APPLIED
from consumer.heard import Heard, HeardOf, ask_heard, end_heard
from consumer.inbox import delete_parts
from consumer.incoming import Counts
from consumer.plain.group import PlainGroup
from consumer.statements import insert_plain
from consumer.watermark import Mark

_FEW = 5
"""So many rows go along with what else is written; more are quicker by COPY, which goes alone."""


class Ledger:
    """What follows from a group that was applied whole, within one transaction that holds the locks of its marks."""

    def __init__(self, config: Config, group: PlainGroup, now_us: int) -> None:
        self._config = config
        self._group = group
        self._now_us = now_us
        self._heard: list[HeardOf] = []

    def ask(self, together: Together, marks: Iterable[Mark]) -> None:
        """Write what goes in the block of the rows."""
        group, now_us = self._group, self._now_us
        moved = list(marks)
        for mark in moved:
            stretch = group.stretches[mark.source_node, mark.incarnation]
            mark.last_lsn = mark.highest_lsn = stretch.to_lsn
            mark.last_tx_id = stretch.tx_id
        watermark.ask_store(together, moved, now_us)
        heard = [
            Heard(source, incarnation, stretch.latest_us, stretch.tx_id)
            for (source, incarnation), stretch in group.stretches.items()
        ]
        self._heard = ask_heard(together, self._config, heard, now_us)
        if len(group.txs) <= _FEW:
            for tx in group.txs:
                together.ask(_NOTE_AND_LINE, dict(zip(_GIVEN, _applied(tx, now_us) + _line(tx, now_us), strict=True)))

    def end(self, connection: sa.Connection, *, has_parts: bool) -> None:
        """Write the rest, after that block."""
        txs, now_us = self._group.txs, self._now_us
        if len(txs) > _FEW:
            insert_plain(connection, rf.applied_tx, APPLIED, [_applied(tx, now_us) for tx in txs])
            insert_plain(connection, rf.audit, audit.COLUMNS, [_line(tx, now_us) for tx in txs])
        if has_parts:
            # A source may have begun to send a tx in parts that comes in one piece now.
            delete_parts(connection, list(self._group.keys))
        end_heard(connection, self._config, self._heard, now_us)


_GIVEN = (*(f"note_{name}" for name in APPLIED), *(f"line_{name}" for name in audit.COLUMNS))


def _insert(table: sa.Table, columns: Iterable[str], prefix: str) -> sa.Insert:
    return sa.insert(table).values({name: sa.bindparam(prefix + name, type_=table.c[name].type) for name in columns})


_NOTE_AND_LINE = _insert(rf.audit, audit.COLUMNS, "line_").add_cte(
    _insert(rf.applied_tx, APPLIED, "note_").cte("noted")
)


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
