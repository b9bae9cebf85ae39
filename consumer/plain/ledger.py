"""What is written beside the rows of plain txs, in the same commit: dedup, watermarks, peers, audit.

The same as `consumer.apply.ledger` writes for txs of which every change won."""

import json
from collections.abc import Iterable, Sequence
from functools import cache

import sqlalchemy as sa

from common.config.model import Config
from common.ports.plain import Together
from common.schema import tables as rf
from consumer import audit, watermark
from consumer.apply.ledger import APPLIED
from consumer.heard import Heard, HeardOf, ask_heard, end_heard
from consumer.inbox import delete_parts
from consumer.incoming import Counts
from consumer.plain.group import Notes, PlainGroup, TxNote
from consumer.statements import insert_lines
from consumer.watermark import Mark

_FEW = 5
"""So many rows go along with what else is written; more are quicker by COPY, which goes alone."""


class Ledger:
    """What follows from a group that was applied whole, within one transaction that holds the locks of its marks."""

    def __init__(self, config: Config, group: PlainGroup, notes: Notes | None, now_us: int) -> None:
        self._config = config
        self._group = group
        self._notes = notes
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
        if self._notes is None:
            for tx in group.txs:
                values = *_applied(tx), now_us, *_line(tx), now_us
                together.ask(_NOTE_AND_LINE, dict(zip(_GIVEN, values, strict=True)))

    def end(self, connection: sa.Connection, *, has_parts: bool) -> None:
        """Write the rest, after that block."""
        if self._notes is not None:
            insert_lines(connection, rf.applied_tx, APPLIED, self._notes.applied, self._now_us)
            insert_lines(connection, rf.audit, audit.COLUMNS, self._notes.audit, self._now_us)
        if has_parts:
            # A source may have begun to send a tx in parts that comes in one piece now.
            delete_parts(connection, list(self._group.keys))
        end_heard(connection, self._config, self._heard, self._now_us)


def notes_of(txs: Sequence[TxNote]) -> Notes | None:
    """Return what `Ledger` writes of each of `txs`; None for a few, which it writes with the rest."""
    if len(txs) <= _FEW:
        return None
    # `_applied` and `_line`, written out: half of what calling and joining them takes. None has a character that COPY
    # reads as another one: ids, checksums, numbers, JSON without a backslash.
    applied = [
        f"{tx.source_node}\t{tx.tx_id}\t{tx.incarnation}\t{tx.prev_lsn}\t{tx.to_lsn}\t{tx.sha256}\t" for tx in txs
    ]
    line = f"{audit.APPLIER}\tapplied\t"
    return Notes(applied, [f"{line}{tx.source_node}\t{tx.tx_id}\t{_detail(tx.changes)}\t" for tx in txs])


_GIVEN = (*(f"note_{name}" for name in APPLIED), *(f"line_{name}" for name in audit.COLUMNS))


def _insert(table: sa.Table, columns: Iterable[str], prefix: str) -> sa.Insert:
    return sa.insert(table).values({name: sa.bindparam(prefix + name, type_=table.c[name].type) for name in columns})


_NOTE_AND_LINE = _insert(rf.audit, audit.COLUMNS, "line_").add_cte(
    _insert(rf.applied_tx, APPLIED, "note_").cte("noted")
)


def _applied(tx: TxNote) -> tuple[str | int, ...]:
    """All of `APPLIED` but the last, which is when."""
    return tx.source_node, tx.tx_id, tx.incarnation, tx.prev_lsn, tx.to_lsn, tx.sha256


def _line(tx: TxNote) -> tuple[str | int, ...]:
    """All of `audit.COLUMNS` but the last."""
    return audit.APPLIER, "applied", tx.source_node, tx.tx_id, _detail(tx.changes)


@cache
def _detail(changes: int) -> str:
    return json.dumps(Counts(changes, won=changes).as_dict(), separators=(",", ":"))
